//! The seam to the object store.

pub mod conformance;
pub mod directory;
pub mod presign;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kraftr_protocol::Digest;
use kraftr_protocol::message::Link;

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
    /// Erases an object.
    async fn delete(&self, key: &str) -> Result<(), BlobError>;
    /// Keys that start with `prefix` and come after `after`, in order, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, BlobError>;
    /// A link that reads the object until `ttl` has passed.
    fn presign_get(&self, key: &str, ttl: Duration) -> Result<Link, BlobError>;
    /// A link that stores exactly the announced bytes until `ttl` has passed.
    fn presign_put(&self, key: &str, terms: &PutTerms, ttl: Duration) -> Result<Link, BlobError>;
}
