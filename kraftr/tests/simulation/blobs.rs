//! An object store in memory, whose links the simulated workers follow by calling it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kraftr_protocol::Timestamp;
use kraftr_protocol::message::Link;
use kraftr_scheduler::blobs::{BlobError, BlobStore, ObjectInfo, PutTerms};

/// Objects by key.
#[derive(Default)]
pub(crate) struct MemoryBlobs(Mutex<BTreeMap<String, Bytes>>);

impl MemoryBlobs {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker does with an upload link.
    pub(crate) fn follow_put(&self, link: &Link, bytes: Bytes) {
        self.objects().insert(link.url.clone(), bytes);
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(&self, key: &str, bytes: Bytes, _content_type: &str) -> Result<(), BlobError> {
        self.objects().insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        Ok(self.objects().get(key).cloned())
    }

    async fn len(&self, key: &str) -> Result<Option<u64>, BlobError> {
        Ok(self.objects().get(key).map(|bytes| bytes.len() as u64))
    }

    async fn holds(&self, key: &str, terms: &PutTerms) -> Result<bool, BlobError> {
        Ok(self.len(key).await? == Some(terms.bytes))
    }

    async fn delete(&self, key: &str) -> Result<(), BlobError> {
        self.objects().remove(key);
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BlobError> {
        let objects = self.objects();
        let keys = objects
            .keys()
            .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let found = keys.take(limit).map(|key| ObjectInfo {
            key: key.clone(),
            bytes: objects[key].len() as u64,
            modified: Timestamp(0),
        });
        Ok(found.collect())
    }

    async fn presign_get(&self, key: &str, _ttl: Duration) -> Result<Link, BlobError> {
        Ok(Link { url: key.to_owned(), headers: Vec::new() })
    }

    async fn presign_put(&self, key: &str, _terms: &PutTerms, _ttl: Duration) -> Result<Link, BlobError> {
        Ok(Link { url: key.to_owned(), headers: Vec::new() })
    }
}
