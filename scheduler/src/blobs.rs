//! The seam to the object store.

pub mod conformance;
pub mod directory;
pub mod presign;
pub mod s3;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kraftr_protocol::message::Link;
use kraftr_protocol::{Digest, Timestamp};

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The key is not of the form that keys have: segments of `[a-z0-9_.-]`, separated by `/`, none of them `.` or `..`.
    #[error("{0:?} is not an object key")]
    InvalidKey(String),
    /// The bytes that arrived are not those that were announced.
    #[error("the object's length or digest is not the one announced")]
    Mismatch,
    /// The store is out of space.
    #[error("the object store is full")]
    Full,
    /// The store does not let us, or is not what is configured; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The store is away.
    #[error("the object store is not available: {0}")]
    Unavailable(#[source] std::io::Error),
}

impl BlobError {
    /// True when trying again cannot help.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::InvalidKey(_) | Self::Mismatch)
    }
}

/// What a worker may put under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutTerms {
    /// SHA-256 that the bytes must have.
    pub sha256: Digest,
    /// Length that the bytes must have.
    pub bytes: u64,
    /// Media type.
    pub content_type: String,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was stored, by the store's own clock.
    pub modified: Timestamp,
}

/// Bytes of a key; what file systems take as a path.
const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of one segment; what file systems take as a name.
const SEGMENT_BYTES_MAX: usize = 255;

/// Segments of `[a-z0-9_.-]`, separated by `/`, none of them only dots.
fn is_key(key: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    key.len() <= KEY_BYTES_MAX
        && key.split('/').all(|segment| {
            (1..=SEGMENT_BYTES_MAX).contains(&segment.len())
                && segment.bytes().all(plain)
                && segment.bytes().any(|byte| byte != b'.')
        })
}

/// Objects by key. Promises, each checked by [`conformance`]:
/// nobody sees half an object; a `put` that returned is durable; putting again replaces; deleting what
/// is absent succeeds; a presigned link works until it expires and only for its key, method and terms.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Stores an object.
    async fn put(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<(), BlobError>;
    /// The object's bytes, or `None` when there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError>;
    /// The object's length, or `None` when there is none.
    async fn len(&self, key: &str) -> Result<Option<u64>, BlobError>;
    /// True when there is an object of exactly those bytes. Asked before somebody pays for it: links to put bind what is
    /// put as far as the store checks it.
    async fn holds(&self, key: &str, terms: &PutTerms) -> Result<bool, BlobError>;
    /// Erases an object.
    async fn delete(&self, key: &str) -> Result<(), BlobError>;
    /// Objects whose keys start with `prefix` and come after the key `after`, at most `limit`, in an order of the
    /// store's own that does not change.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BlobError>;
    /// A link that reads the object until `ttl` has passed.
    async fn presign_get(&self, key: &str, ttl: Duration) -> Result<Link, BlobError>;
    /// A link that stores exactly the announced bytes until `ttl` has passed.
    async fn presign_put(&self, key: &str, terms: &PutTerms, ttl: Duration) -> Result<Link, BlobError>;
}
