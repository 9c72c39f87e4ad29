//! The directory that an embedded fleet keeps everything in, and its one owner.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another fleet runs on it.
    #[error("{} is in use by process {pid}: stop that one or name another --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id, as far as it has written it.
        pid: String,
    },
    /// There is no fleet's data here.
    #[error("{path} holds no fleet: start one with `kraftr dev --data-dir {path}`", path = .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A data directory by its path; see [`Owned`] for the right to run a fleet on it.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The directory at `path`, made when it is missing. Only its user can look into it: it holds
    /// other people's pictures.
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // Absolute, since it is printed for use in other terminals.
        let path = fs::canonicalize(path).map_err(failed)?;
        Ok(Self { path })
    }

    /// The directory at `path`, which must hold a fleet's data.
    pub fn existing(path: &Path) -> Result<Self, DataDirError> {
        let directory = Self { path: path.to_owned() };
        if directory.database().is_file() {
            Ok(directory)
        } else {
            Err(DataDirError::Missing(directory.path))
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.path.join("kraftr.db")
    }

    /// Where the objects lie.
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// Takes the directory for this process until the value is dropped or the process ends, however it ends.
    pub fn own(self) -> Result<Owned, DataDirError> {
        let path = self.path.join("kraftr.lock");
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed)?;
                return Err(DataDirError::InUse { path: self.path, pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Owned { directory: self, _lock: file })
    }
}

/// A data directory that no other process runs a fleet on.
#[derive(Debug)]
pub struct Owned {
    directory: DataDir,
    _lock: File,
}

impl std::ops::Deref for Owned {
    type Target = DataDir;

    fn deref(&self) -> &DataDir {
        &self.directory
    }
}

/// Writes a file that nobody ever sees half of: beside its place first, then renamed. Only its user
/// can read it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time_and_names_it() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = DataDir::create(&scratch.path().join("a/b")).unwrap();
        let owner = directory.clone().own().unwrap();
        let refusal = directory.clone().own().unwrap_err();
        assert!(
            matches!(&refusal, DataDirError::InUse { pid, .. } if *pid == std::process::id().to_string())
        );
        drop(owner);
        directory.own().unwrap();
    }

    #[test]
    fn a_directory_without_a_database_is_not_a_fleet() {
        let scratch = tempfile::tempdir().unwrap();
        let refusal = DataDir::existing(scratch.path()).unwrap_err();
        assert!(refusal.to_string().contains("kraftr dev --data-dir"), "{refusal}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("ready.json");
        write_atomically(&path, b"first").unwrap();
        write_atomically(&path, b"2nd").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2nd");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
