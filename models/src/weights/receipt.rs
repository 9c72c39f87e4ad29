//! What is remembered about a file whose SHA-256 has been computed: a small JSON file beside it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kraftr_protocol::manifest::ManifestFile;
use kraftr_protocol::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Bytes hashed between two reports of progress.
const PIECE: usize = 1 << 20;

/// A file's digest, and what the file looked like when it was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Receipt {
    sha256: Digest,
    bytes: u64,
    /// Time of the last modification in nanoseconds since 1970, as the file system tells it.
    modified_ns: i128,
}

impl Receipt {
    fn of(sha256: Digest, file: &Metadata) -> Self {
        let modified_ns = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
        Self { sha256, bytes: file.len(), modified_ns }
    }
}

/// Where the receipt of a file lies.
pub fn path_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.receipt"))
}

/// Whether a receipt says that the file, as it is now, has that digest.
pub fn is_remembered(path: &Path, sha256: Digest, file: &Metadata) -> bool {
    let receipt = fs::read(path_of(path)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    receipt == Some(Receipt::of(sha256, file))
}

/// Remembers the digest of a file; `file` is what it looked like while it was hashed.
pub fn remember(path: &Path, sha256: Digest, file: &Metadata) -> io::Result<()> {
    let receipt = path_of(path);
    let beside = receipt.with_extension(format!("receipt.{}", std::process::id()));
    fs::write(&beside, serde_json::to_vec(&Receipt::of(sha256, file))?)?;
    fs::rename(&beside, &receipt)
}

/// Hashes a file and compares with its manifest, whatever a receipt says; remembers a success. `on_bytes` hears how
/// many bytes more are done.
pub fn verify(path: &Path, expected: &ManifestFile, mut on_bytes: impl FnMut(u64)) -> Result<(), ModelError> {
    let unreadable = |source| ModelError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    check_length(path, expected, &metadata)?;
    let mut hasher = Hasher::default();
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        on_bytes(read as u64);
    }
    conclude(path, expected, hasher.finish(), &metadata)
}

/// Refuses a file of another length than the manifest names.
pub(super) fn check_length(path: &Path, expected: &ManifestFile, file: &Metadata) -> Result<(), ModelError> {
    if file.len() == expected.bytes {
        return Ok(());
    }
    Err(ModelError::WeightsChanged {
        file: path.display().to_string(),
        expected: format!("{} bytes", expected.bytes),
        found: format!("{} bytes", file.len()),
    })
}

/// Refuses a file of another digest than the manifest names, and remembers one that has it.
pub(super) fn conclude(
    path: &Path,
    expected: &ManifestFile,
    found: Digest,
    file: &Metadata,
) -> Result<(), ModelError> {
    if found != expected.sha256 {
        return Err(ModelError::WeightsChanged {
            file: path.display().to_string(),
            expected: format!("sha256 {}", expected.sha256),
            found: format!("sha256 {found}"),
        });
    }
    // A folder that cannot be written to, such as a shared one, costs time at every load and is no failure.
    if let Err(error) = remember(path, found, file) {
        tracing::info!(file = %path.display(), %error, "the digest cannot be remembered: every load computes it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(bytes: &[u8]) -> ManifestFile {
        let (role, name) = ("weights".to_owned(), "a.bin".to_owned());
        let (sha256, bytes) = (Digest::of(bytes), bytes.len() as u64);
        ManifestFile { role, name, sha256, bytes, licence: None, noncommercial: false, source: None }
    }

    #[test]
    fn a_receipt_holds_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        fs::write(&path, b"first").unwrap();
        let remembered =
            |bytes: &[u8]| is_remembered(&path, Digest::of(bytes), &fs::metadata(&path).unwrap());
        assert!(!remembered(b"first"));
        let mut hashed = 0;
        verify(&path, &manifest(b"first"), |bytes| hashed += bytes).unwrap();
        assert_eq!(hashed, 5);
        assert!(remembered(b"first") && !remembered(b"other"));
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, b"secon").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before + std::time::Duration::from_nanos(1)).unwrap();
        assert!(!remembered(b"first"), "modified at another time");
        assert!(verify(&path, &manifest(b"first"), |_| ()).is_err(), "a receipt is not asked");
        fs::write(path_of(&path), b"{}").unwrap();
        assert!(!remembered(b"secon"));
    }
}
