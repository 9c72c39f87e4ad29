//! The embedded object store: a directory, whose links are served by this API under `/blobs`.
//!
//! An object is written beside the others under a name that no key can have, flushed, and renamed to its
//! own name; then the directory is flushed. So nobody sees half an object, and one that was
//! acknowledged survives a power cut.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kraftr_protocol::message::Link;
use kraftr_protocol::{Clock, Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::presign::{LinkError, LinkMethod, Signer};
use super::{BlobError, BlobStore, ObjectInfo, PutTerms, is_key};

/// Where objects are written before they have their name; `~` is in no key.
const INCOMING: &str = "~incoming";
/// [`BlobStore`] over a directory. One process owns the directory at a time.
pub struct DirectoryBlobs {
    root: PathBuf,
    public_url: String,
    signer: Signer,
    clock: Arc<dyn Clock>,
    next_incoming: AtomicU64,
}

impl DirectoryBlobs {
    /// Opens the directory, makes it when there is none, and throws away what a process that was
    /// killed left half written. Links start with `public_url`, which has no trailing slash, and are
    /// signed with `secret`.
    pub fn new(
        root: PathBuf,
        public_url: String,
        secret: [u8; 32],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BlobError> {
        let incoming = root.join(INCOMING);
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&incoming)?,
        }
        Ok(Self::over(root, public_url, secret, clock))
    }

    /// Opens a directory that another process may be working in, to read and to erase: what is half written there
    /// stays. Nothing can be put, and its links are nobody's.
    pub fn beside(root: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self::over(root, String::new(), [0; 32], clock)
    }

    fn over(root: PathBuf, public_url: String, secret: [u8; 32], clock: Arc<dyn Clock>) -> Self {
        Self { root, public_url, signer: Signer::new(secret), clock, next_incoming: AtomicU64::new(0) }
    }

    /// Checks a link that was followed: what may be put, for a link that puts.
    pub fn check_link(
        &self,
        method: LinkMethod,
        key: &str,
        query: &str,
    ) -> Result<Option<PutTerms>, LinkError> {
        self.signer.check(method, key, query, self.clock.now())
    }

    /// Opens an object to read it piece by piece; also says how long it is.
    pub async fn open(&self, key: &str) -> Result<Option<(File, u64)>, BlobError> {
        let file = match File::open(self.path(key)?).await {
            Ok(file) => file,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata().await?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }

    /// Stores what arrives under `key` if it is exactly what was announced.
    pub async fn receive<E>(
        &self,
        key: &str,
        terms: &PutTerms,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
    ) -> Result<(), BlobError> {
        let path = self.path(key)?;
        let mut incoming = self.incoming().await?;
        let (mut sha256, mut length) = (Sha256::new(), 0u64);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| BlobError::Mismatch)?;
            length += chunk.len() as u64;
            if length > terms.bytes {
                return Err(BlobError::Mismatch);
            }
            sha256.update(&chunk);
            incoming.file.write_all(&chunk).await?;
        }
        if length != terms.bytes || Digest(sha256.finalize().into()) != terms.sha256 {
            return Err(BlobError::Mismatch);
        }
        incoming.name(&self.root, path).await
    }

    async fn incoming(&self) -> Result<Incoming, BlobError> {
        let number = self.next_incoming.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(INCOMING).join(number.to_string());
        let file = File::create_new(&path).await?;
        Ok(Incoming { path, file })
    }

    fn path(&self, key: &str) -> Result<PathBuf, BlobError> {
        if is_key(key) { Ok(self.root.join(key)) } else { Err(BlobError::InvalidKey(key.to_owned())) }
    }

    fn link(&self, key: &str, terms: Option<&PutTerms>, ttl: Duration) -> Result<Link, BlobError> {
        self.path(key)?;
        let query = self.signer.query(key, terms, self.clock.now(), ttl);
        let headers = terms.map(|terms| ("content-type".to_owned(), terms.content_type.clone()));
        Ok(Link {
            url: format!("{}/blobs/{key}?{query}", self.public_url),
            headers: headers.into_iter().collect(),
        })
    }
}

/// An object without a name; it vanishes unless it gets one.
struct Incoming {
    path: PathBuf,
    file: File,
}

impl Incoming {
    /// Makes it durable under its name; an object that has the name is replaced.
    async fn name(mut self, root: &Path, target: PathBuf) -> Result<(), BlobError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let (from, root) = (self.path.clone(), root.to_owned());
        blocking(move || {
            let folder = target.parent().unwrap_or(&root).to_owned();
            // A delete may remove the folder, once empty, between the two steps.
            loop {
                make_folders(&root, &folder)?;
                match fs::rename(&from, &target) {
                    Err(error) if error.kind() == ErrorKind::NotFound && from.exists() => {}
                    renamed => break renamed?,
                }
            }
            sync_folder(&folder)
        })
        .await
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already when it got its name; a leftover is thrown away at the next start.
        fs::remove_file(&self.path).ok();
    }
}

#[async_trait]
impl BlobStore for DirectoryBlobs {
    async fn put(&self, key: &str, bytes: Bytes, _content_type: &str) -> Result<(), BlobError> {
        let path = self.path(key)?;
        let mut incoming = self.incoming().await?;
        incoming.file.write_all(&bytes).await?;
        incoming.name(&self.root, path).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        match tokio::fs::read(self.path(key)?).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn len(&self, key: &str) -> Result<Option<u64>, BlobError> {
        match tokio::fs::metadata(self.path(key)?).await {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn holds(&self, key: &str, terms: &PutTerms) -> Result<bool, BlobError> {
        // What a link stored was compared with its terms before it had its name.
        Ok(self.len(key).await? == Some(terms.bytes))
    }

    async fn delete(&self, key: &str) -> Result<(), BlobError> {
        let (path, root) = (self.path(key)?, self.root.clone());
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => {
                let folder = path.parent().unwrap_or(&root);
                sync_folder(folder)?;
                // Only empty folders go; the first one in use ends it.
                let inside = |folder: &&Path| folder.starts_with(&root) && *folder != root;
                for folder in folder.ancestors().take_while(inside) {
                    if fs::remove_dir(folder).is_err() {
                        break;
                    }
                }
                Ok(())
            }
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, BlobError> {
        let (root, prefix, after) = (self.root.clone(), prefix.to_owned(), after.map(str::to_owned));
        blocking(move || {
            let mut walk = Walk { prefix, after, limit, found: Vec::new() };
            walk.folder(&root, "")?;
            Ok(walk.found)
        })
        .await
    }

    async fn presign_get(&self, key: &str, ttl: Duration) -> Result<Link, BlobError> {
        self.link(key, None, ttl)
    }

    async fn presign_put(&self, key: &str, terms: &PutTerms, ttl: Duration) -> Result<Link, BlobError> {
        self.link(key, Some(terms), ttl)
    }
}

/// Collects keys in order and leaves out the folders that cannot hold any.
struct Walk {
    prefix: String,
    after: Option<String>,
    limit: usize,
    found: Vec<ObjectInfo>,
}

impl Walk {
    /// `name` is the folder's key with a slash at its end, or empty for the root.
    fn folder(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Err(error) if is_absence(&error) => return Ok(()),
            entries => entries?,
        };
        // A folder sorts by its name with the slash, as its keys do.
        let mut children = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let Some(child) = entry.file_name().to_str().map(|child| format!("{name}{child}")) else {
                continue;
            };
            if !is_key(&child) {
                continue;
            }
            let is_folder = entry.file_type()?.is_dir();
            children.insert(if is_folder { child + "/" } else { child }, (entry.path(), is_folder));
        }
        for (child, (path, is_folder)) in children {
            if self.found.len() >= self.limit {
                break;
            }
            let after = self.after.as_deref().unwrap_or_default();
            if is_folder {
                let may_match = child.starts_with(&self.prefix) || self.prefix.starts_with(&child);
                if may_match && (child.as_str() > after || after.starts_with(&child)) {
                    self.folder(&path, &child)?;
                }
            } else if child.starts_with(&self.prefix) && child.as_str() > after {
                let metadata = fs::metadata(&path)?;
                let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                let modified = Timestamp(i64::try_from(modified.as_micros()).unwrap_or(i64::MAX));
                self.found.push(ObjectInfo { key: child, bytes: metadata.len(), modified });
            }
        }
        Ok(())
    }
}

/// Makes every folder down to `folder` and flushes the parent of each that is new.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|folder| *folder != root && !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(folder.parent().unwrap_or(root))?,
        }
    }
    Ok(())
}

/// Makes the names in a folder durable. A folder that is gone has none.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match fs::File::open(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => opened?.sync_all(),
    }
}

/// No such object, or a key that runs through another object, or one that ends at a folder.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let joined = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
    Ok(joined?)
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unavailable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::SEGMENT_BYTES_MAX;
    use crate::clock::SystemClock;

    fn open(root: &Path) -> DirectoryBlobs {
        DirectoryBlobs::new(root.to_owned(), "http://x".into(), [1; 32], Arc::new(SystemClock)).unwrap()
    }

    #[test]
    fn keys_cannot_leave_the_directory() {
        for key in ["a", "assets/org_01/ast_02.png", "a.b", "..a", "0"] {
            assert!(is_key(key), "{key:?}");
        }
        let long = "a".repeat(SEGMENT_BYTES_MAX + 1);
        for key in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "...",
            "A",
            "a b",
            "a\\b",
            "ä",
            "~incoming/1",
            &long,
        ] {
            assert!(!is_key(key), "{key:?}");
        }
    }

    #[tokio::test]
    async fn what_was_half_written_is_thrown_away_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = open(folder.path());
        blobs.put("a/b", Bytes::from_static(b"kept"), "text/plain").await.unwrap();
        let half = blobs.incoming().await.unwrap();
        std::mem::forget(half);
        drop(blobs);
        let blobs = open(folder.path());
        assert_eq!(fs::read_dir(folder.path().join(INCOMING)).unwrap().count(), 0);
        assert_eq!(blobs.get("a/b").await.unwrap().unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_refused_upload_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = open(folder.path());
        let terms = PutTerms { sha256: Digest::of(b"abc"), bytes: 3, content_type: "text/plain".into() };
        for parts in [vec!["ab"], vec!["ab", "cd"], vec!["abd"]] {
            let chunks = parts.iter().map(|part| Ok::<_, io::Error>(Bytes::from_static(part.as_bytes())));
            let refused = blobs.receive("a/b", &terms, futures::stream::iter(chunks)).await;
            assert!(matches!(refused, Err(BlobError::Mismatch)), "{parts:?}");
        }
        let cut = futures::stream::iter([Ok(Bytes::from_static(b"abc")), Err(io::Error::other("cut"))]);
        assert!(blobs.receive("a/b", &terms, cut).await.is_err());
        assert_eq!(blobs.list("", None, 10).await.unwrap(), []);
        assert_eq!(fs::read_dir(folder.path().join(INCOMING)).unwrap().count(), 0);
        assert!(!folder.path().join("a").exists());
    }

    #[tokio::test]
    async fn empty_folders_go_with_their_last_object() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = open(folder.path());
        for key in ["a/b/c", "a/d"] {
            blobs.put(key, Bytes::from_static(b"x"), "text/plain").await.unwrap();
        }
        blobs.delete("a/b/c").await.unwrap();
        assert!(!folder.path().join("a/b").exists() && folder.path().join("a/d").exists());
        blobs.delete("a/d").await.unwrap();
        assert!(!folder.path().join("a").exists() && folder.path().exists());
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        assert!(matches!(BlobError::from(io::Error::from(ErrorKind::StorageFull)), BlobError::Full));
        assert!(matches!(
            BlobError::from(io::Error::from(ErrorKind::PermissionDenied)),
            BlobError::Unavailable(_)
        ));
    }
}
