//! The object store of the fleet: one bucket of S3, or of a server that speaks its protocol.
//!
//! Every write carries the SHA-256 of its bytes, so that what arrives is what was sent, and every read is
//! compared with what the store says it should be. Large objects go up in parts that are checked one by one.
//! Credentials are those that are configured: nothing is taken from the environment or from the machine.

mod multipart;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, ServerSideEncryption};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use kraftr_protocol::message::Link;
use kraftr_protocol::{Digest, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};

use super::{BlobError, BlobStore, ObjectInfo, PutTerms, is_key};

/// Objects of more bytes go up in parts.
const MULTIPART_FROM: usize = 16 << 20;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one try may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// Tries of one operation.
const ATTEMPTS: u32 = 3;
/// Keys of one page of a listing, which is what S3 gives at most.
const PAGE_MAX: usize = 1_000;

/// How objects are encrypted at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    BucketDefault,
    /// With keys of the store (SSE-S3).
    Store,
    /// With a key of KMS (SSE-KMS); the account's default key where none is named.
    Kms {
        /// Id or ARN of the key.
        key: Option<String>,
    },
}

/// Which bucket, and as whom.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Where it is, as scheduler and workers reach it; without one, AWS.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// The bucket; it must be there.
    pub bucket: String,
    /// What every key begins with in the bucket; empty, or with a slash at its end.
    pub prefix: String,
    /// Who we are to it.
    pub access_key_id: SecretString,
    /// How we prove it.
    pub secret_access_key: SecretString,
    /// Whether the bucket stands in the path instead of the host name.
    pub path_style: bool,
    /// How objects are encrypted at rest.
    pub encryption: Encryption,
    /// How long one try of an operation may take.
    pub attempt_timeout: Duration,
}

impl S3Config {
    /// The defaults for a bucket.
    pub fn new(
        region: impl Into<String>,
        bucket: impl Into<String>,
        access_key_id: SecretString,
        secret_access_key: SecretString,
    ) -> Self {
        Self {
            endpoint: None,
            region: region.into(),
            bucket: bucket.into(),
            prefix: String::new(),
            access_key_id,
            secret_access_key,
            path_style: false,
            encryption: Encryption::default(),
            attempt_timeout: ATTEMPT_TIMEOUT,
        }
    }
}

/// [`BlobStore`] over S3.
pub struct S3Blobs {
    client: Client,
    bucket: String,
    prefix: String,
    encryption: Encryption,
}

impl S3Blobs {
    /// A client of the bucket; nothing is asked of it yet.
    pub fn new(config: S3Config) -> Self {
        let credentials = Credentials::new(
            config.access_key_id.expose_secret(),
            config.secret_access_key.expose_secret(),
            None,
            None,
            "configuration",
        );
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(config.attempt_timeout)
            .build();
        let mut sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .credentials_provider(credentials)
            .region(Region::new(config.region))
            .force_path_style(config.path_style)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build())
            // The checksums here are those that we have anyway, and that links are signed for.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = config.endpoint {
            sdk = sdk.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(sdk.build()),
            bucket: config.bucket,
            prefix: config.prefix,
            encryption: config.encryption,
        }
    }

    /// Asks for the bucket: whether it is there and ours.
    pub async fn check(&self) -> Result<(), BlobError> {
        self.list("", None, 1).await.map(drop)
    }

    fn full_key(&self, key: &str) -> Result<String, BlobError> {
        if is_key(key) {
            Ok(format!("{}{key}", self.prefix))
        } else {
            Err(BlobError::InvalidKey(key.to_owned()))
        }
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.encryption {
            Encryption::BucketDefault => (None, None),
            Encryption::Store => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms { key } => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }

    /// Fetches an object and what the store keeps as its SHA-256, where it keeps one.
    async fn fetch(&self, key: &str) -> Result<Option<(Bytes, Option<String>)>, BlobError> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full_key(key)?);
        let object = match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(object) => object,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let checksum = object.checksum_sha256().map(str::to_owned);
        let length = object.content_length();
        let bytes = object.body.collect().await.map_err(|error| unavailable(error.to_string()))?.into_bytes();
        if length.is_some_and(|length| length != bytes.len() as i64) {
            return Err(unavailable(format!("{key} broke off after {} bytes", bytes.len())));
        }
        Ok(Some((bytes, checksum)))
    }
}

/// SHA-256 as S3 writes it.
fn checksum(digest: &Digest) -> String {
    BASE64_STANDARD.encode(digest.0)
}

fn unavailable(why: String) -> BlobError {
    BlobError::Unavailable(std::io::Error::other(why))
}

/// The status of the store's answer, where it gave one.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    // A missing bucket is 404 as well, and it is no missing object.
    status(error) == Some(404) && error.code() != Some("NoSuchBucket")
}

/// What went wrong, in words that say what to do.
fn failed<E>(error: &SdkError<E>) -> BlobError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match (status(error), error.code()) {
        (Some(507), _) => BlobError::Full,
        (
            Some(400),
            Some("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch"),
        ) => BlobError::Mismatch,
        (_, Some("NoSuchBucket")) => {
            BlobError::Refused("the bucket is not there; make it, or configure another".into())
        }
        (Some(status @ (401 | 403)), code) => BlobError::Refused(format!(
            "the store refuses us ({status} {}); check the access key, its secret, its rights and the region",
            code.unwrap_or("without a reason")
        )),
        (Some(301 | 307), _) => {
            BlobError::Refused("the bucket is in another region; configure that one".into())
        }
        _ => unavailable(DisplayErrorContext(error).to_string()),
    }
}

#[async_trait]
impl BlobStore for S3Blobs {
    async fn put(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<(), BlobError> {
        if bytes.len() > MULTIPART_FROM {
            return self.put_in_parts(key, bytes, content_type).await;
        }
        let (encryption, kms_key) = self.encryption();
        let sha256 = Digest::of(&bytes);
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .content_type(content_type)
            .checksum_sha256(checksum(&sha256))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map(drop)
            .map_err(|error| failed(&error))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        let Some((bytes, expected)) = self.fetch(key).await? else { return Ok(None) };
        // A checksum of parts has their number behind it, and says nothing about the whole.
        let wrong = expected
            .is_some_and(|expected| !expected.contains('-') && expected != checksum(&Digest::of(&bytes)));
        if wrong { Err(BlobError::Mismatch) } else { Ok(Some(bytes)) }
    }

    async fn len(&self, key: &str) -> Result<Option<u64>, BlobError> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.full_key(key)?);
        match request.send().await {
            Ok(head) => Ok(Some(head.content_length().unwrap_or_default().unsigned_abs())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn holds(&self, key: &str, terms: &PutTerms) -> Result<bool, BlobError> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.full_key(key)?);
        let head = match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(head) => head,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(failed(&error)),
        };
        if head.content_length().map(i64::unsigned_abs) != Some(terms.bytes) {
            return Ok(false);
        }
        match head.checksum_sha256() {
            Some(kept) => Ok(kept == checksum(&terms.sha256)),
            // A store that keeps no checksum may have taken anything of that length.
            None => Ok(self.fetch(key).await?.is_some_and(|(bytes, _)| Digest::of(&bytes) == terms.sha256)),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), BlobError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full_key(key)?);
        match request.send().await {
            Err(error) if !is_absent(&error) => Err(failed(&error)),
            _ => Ok(()),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BlobError> {
        let mut found: Vec<ObjectInfo> = Vec::new();
        let mut after = after.map(|after| format!("{}{after}", self.prefix));
        while found.len() < limit {
            let wanted = (limit - found.len()).min(PAGE_MAX);
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_start_after(after.clone())
                .max_keys(wanted as i32)
                .send()
                .await
                .map_err(|error| failed(&error))?;
            for object in page.contents() {
                let Some(key) = object.key() else { continue };
                after = Some(key.to_owned());
                let modified = object.last_modified().map_or(0, |at| at.as_nanos() / 1_000);
                // Objects of others that share the bucket are not ours to see.
                if let Some(key) = key.strip_prefix(&self.prefix).filter(|key| is_key(key)) {
                    found.push(ObjectInfo {
                        key: key.to_owned(),
                        bytes: object.size().unwrap_or_default().unsigned_abs(),
                        modified: Timestamp(i64::try_from(modified).unwrap_or(i64::MAX)),
                    });
                }
            }
            if page.contents().is_empty() || page.is_truncated() != Some(true) {
                break;
            }
        }
        Ok(found)
    }

    async fn presign_get(&self, key: &str, ttl: Duration) -> Result<Link, BlobError> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full_key(key)?);
        let signed = request.presigned(good_for(ttl)?).await.map_err(|error| failed(&error))?;
        Ok(link(&signed))
    }

    async fn presign_put(&self, key: &str, terms: &PutTerms, ttl: Duration) -> Result<Link, BlobError> {
        let (encryption, kms_key) = self.encryption();
        let signed = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .content_type(&terms.content_type)
            .content_length(i64::try_from(terms.bytes).map_err(|_| BlobError::Mismatch)?)
            .checksum_sha256(checksum(&terms.sha256))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .presigned(good_for(ttl)?)
            .await
            .map_err(|error| failed(&error))?;
        Ok(link(&signed))
    }
}

fn good_for(ttl: Duration) -> Result<PresigningConfig, BlobError> {
    PresigningConfig::expires_in(ttl).map_err(|error| unavailable(error.to_string()))
}

/// The URL with the headers that were signed; `content-length` is what the client sends by itself.
fn link(signed: &PresignedRequest) -> Link {
    let headers = signed.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
    Link {
        url: signed.uri().to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}
