//! A file that is on its way: its bytes so far and their digest.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use kraftr_models::weights::receipt;
use kraftr_protocol::manifest::ManifestFile;
use kraftr_protocol::{Digest, Hasher};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::PullError;

/// Bytes read at once to hash what is there already.
const PIECE: usize = 1 << 20;

/// `.NAME.part`, open for appending. Its holder has the lock.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
}

impl Part {
    /// Opens what an earlier attempt left, or an empty one.
    pub(super) async fn open(target: &Path, expected: &ManifestFile) -> Result<Self, PullError> {
        let path = target.with_file_name(format!(".{}.part", expected.name));
        let failed = |source| PullError::Io { path: path.clone(), source };
        let options = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options
        };
        let file = options().open(&path).await.map_err(failed)?;
        let mut part = Self { path, file, hasher: Hasher::default(), length: 0 };
        part.read_back(expected.bytes).await?;
        Ok(part)
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of what is there.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Appends.
    pub(super) async fn write(&mut self, chunk: &[u8], length_in_the_end: u64) -> Result<(), PullError> {
        // What the operating system took is there after a failure too, so the length is read back by the next
        // attempt and never assumed.
        let written = self.file.write_all(chunk).await;
        written.map_err(|error| self.failed(error, length_in_the_end))?;
        self.hasher.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }

    /// Waits until everything is with the operating system.
    pub(super) async fn flush(&mut self) -> Result<(), PullError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|error| self.failed(error, self.length))
    }

    /// Empties it.
    pub(super) async fn restart(&mut self) -> Result<(), PullError> {
        self.flush().await?;
        self.file = File::create(&self.path).await.map_err(|error| self.failed(error, 0))?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }

    /// Gives it its name, for good, and remembers its digest.
    pub(super) async fn finish(mut self, target: &Path) -> Result<(), PullError> {
        self.flush().await?;
        let synchronised = self.file.sync_all().await;
        synchronised.map_err(|error| self.failed(error, self.length))?;
        fs::rename(&self.path, target).await.map_err(|error| self.failed(error, self.length))?;
        let metadata = fs::metadata(target).await.map_err(|error| self.failed(error, self.length))?;
        let digest = self.digest();
        if let Err(error) = receipt::remember(target, digest, &metadata) {
            tracing::warn!(file = %target.display(), %error, "the digest cannot be remembered");
        }
        Ok(())
    }

    async fn read_back(&mut self, bytes_max: u64) -> Result<(), PullError> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = self.file.read(&mut piece).await;
            let read = read.map_err(|error| self.failed(error, bytes_max))?;
            if read == 0 {
                break;
            }
            self.hasher.update(&piece[..read]);
            self.length += read as u64;
        }
        if self.length > bytes_max {
            self.restart().await?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error, length_in_the_end: u64) -> PullError {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                PullError::DiskFull {
                    path: self.path.clone(),
                    missing: length_in_the_end.saturating_sub(self.length),
                }
            }
            _ => PullError::Io { path: self.path.clone(), source },
        }
    }
}
