//! Large objects: in parts, each with its own checksum, visible only when all of them are there.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use kraftr_protocol::Digest;

use super::{S3Blobs, checksum, failed, unavailable};
use crate::blobs::BlobError;

/// Bytes of a part; S3 wants 5 MiB or more.
const PART: usize = 8 << 20;

impl S3Blobs {
    pub(super) async fn put_in_parts(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &str,
    ) -> Result<(), BlobError> {
        let full_key = self.full_key(key)?;
        let (encryption, kms_key) = self.encryption();
        let upload = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(&full_key)
            .content_type(content_type)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        let upload = upload.upload_id().ok_or_else(|| unavailable("the store named no upload".into()))?;
        let uploaded = self.put_parts(&full_key, upload, &bytes).await;
        if uploaded.is_err() {
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&full_key);
            if let Err(error) = abort.upload_id(upload).send().await {
                let error = failed(&error);
                tracing::warn!(%error, key, "parts of an object that failed stay in the bucket");
            }
        }
        uploaded
    }

    async fn put_parts(&self, full_key: &str, upload: &str, bytes: &Bytes) -> Result<(), BlobError> {
        let mut parts = Vec::new();
        for (at, start) in (0..bytes.len()).step_by(PART).enumerate() {
            let number = i32::try_from(at + 1).map_err(|_| BlobError::Full)?;
            let part = bytes.slice(start..bytes.len().min(start + PART));
            let sha256 = checksum(&Digest::of(&part));
            let done = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(full_key)
                .upload_id(upload)
                .part_number(number)
                .checksum_sha256(&sha256)
                .body(ByteStream::from(part))
                .send()
                .await
                .map_err(|error| failed(&error))?;
            let part =
                CompletedPart::builder().part_number(number).set_e_tag(done.e_tag().map(str::to_owned));
            parts.push(part.checksum_sha256(sha256).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        self.client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(full_key)
            .upload_id(upload)
            .multipart_upload(parts)
            .send()
            .await
            .map(drop)
            .map_err(|error| failed(&error))
    }
}
