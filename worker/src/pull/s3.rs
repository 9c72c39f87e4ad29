//! From an object store: a URL and, where there are credentials, a signature of version 4.
//!
//! Only `kraftr model pull` and a worker that was told to pull have such credentials, and only for reading weights:
//! renders still reach a worker by links that expire.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use kraftr_protocol::Timestamp;
use kraftr_protocol::manifest::bucket_and_key;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Trouble;

/// What a path spells as `%XX`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How to reach object stores.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// The store's URL, where it is not Amazon's; the bucket then stands in the path.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` when there is none.
    pub region: Option<String>,
    /// Access key and secret; without them objects must be public.
    pub credentials: Option<S3Credentials>,
}

/// Who we are to an object store.
#[derive(Clone)]
pub struct S3Credentials {
    /// The access key's id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// What belongs to both where they are good for a while only.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("credentials", &self.credentials.as_ref().map(|_| "***"))
            .finish()
    }
}

/// What to ask for, and with which headers.
pub(super) struct Request {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The request for an `s3://bucket/key`.
pub(super) fn request(s3: &str, settings: &S3Settings, now: Timestamp) -> Result<Request, String> {
    let (bucket, key) = bucket_and_key(s3).ok_or("it is not s3://bucket/key")?;
    let key = key.split('/').map(encode).collect::<Vec<_>>().join("/");
    let region = settings.region.as_deref().unwrap_or("us-east-1");
    let url = match &settings.endpoint {
        Some(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
        None => format!("https://{bucket}.s3.{region}.amazonaws.com/{key}"),
    };
    let headers = match &settings.credentials {
        Some(credentials) => signature(&url, region, credentials, now)?,
        None => Vec::new(),
    };
    Ok(Request { url, headers })
}

/// A refusal with what is likely to help.
pub(super) fn explained(trouble: Trouble, settings: &S3Settings) -> Trouble {
    match trouble {
        Trouble::Final(why) if settings.credentials.is_none() => Trouble::Final(format!(
            "{why}; without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only public objects can be read"
        )),
        Trouble::Final(why) => {
            let region = settings.region.as_deref().unwrap_or("us-east-1");
            Trouble::Final(format!("{why}; the request was signed for the region {region} (AWS_REGION)"))
        }
        other => other,
    }
}

fn signature(
    url: &str,
    region: &str,
    credentials: &S3Credentials,
    now: Timestamp,
) -> Result<Vec<(String, String)>, String> {
    let S3Credentials { id, secret, session_token } = credentials.clone();
    let identity = Credentials::new(id, secret, session_token, None, "environment").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(now.0.try_into().unwrap_or_default());
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let request = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::UnsignedPayload)
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, &parameters).map_err(|error| error.to_string())?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// A part of a path as both signature and server spell it: everything but letters, digits and `-._~` as `%XX`.
pub(super) fn encode(part: &str) -> String {
    utf8_percent_encode(part, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_369_353_600_000_000);

    #[test]
    fn urls() {
        let url = |endpoint: Option<&str>, s3: &str| {
            let endpoint = endpoint.map(str::to_owned);
            request(s3, &S3Settings { endpoint, ..S3Settings::default() }, NOW)
                .map(|request| request.url)
                .unwrap()
        };
        let amazon = "https://shop.s3.us-east-1.amazonaws.com/a%20b/c%2Bd.bin";
        assert_eq!(url(None, "s3://shop/a b/c+d.bin"), amazon);
        assert_eq!(url(Some("http://127.0.0.1:9000/"), "s3://shop/a/b"), "http://127.0.0.1:9000/shop/a/b");
        assert!(request("s3://shop", &S3Settings::default(), NOW).is_err());
    }

    /// The example of Amazon's documentation, "Example: GET Object", signs a Range header too, so only its parts that
    /// do not depend on that are known beforehand.
    #[test]
    fn what_is_signed_is_said() {
        let credentials = S3Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: Some("session".to_owned()),
        };
        let settings = S3Settings { credentials: Some(credentials), ..S3Settings::default() };
        let signed = request("s3://examplebucket/test.txt", &settings, NOW).unwrap();
        let header = |name: &str| {
            let found = signed.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            found.map_or_else(|| panic!("{name}"), |(_, value)| value.as_str())
        };
        assert_eq!(header("x-amz-date"), "20130524T000000Z");
        assert_eq!(header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert_eq!(header("x-amz-security-token"), "session");
        let authorization = header("authorization");
        let scope = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        assert!(
            authorization.starts_with(scope) && authorization.contains("SignedHeaders=host;"),
            "{authorization}"
        );
        assert!(!format!("{settings:?}").contains("wJalr"));
    }
}
