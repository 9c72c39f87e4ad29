//! From a folder: a share that is mounted, a disk that was carried over, the cache of other tools.

use std::io::SeekFrom;
use std::path::Path;

use bytes::Bytes;
use kraftr_protocol::manifest::ManifestFile;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{Body, Trouble};

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// A file that is read from an offset on.
pub(super) struct Reader {
    file: File,
}

impl Reader {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Trouble> {
        let mut piece = Vec::with_capacity(PIECE);
        let read = self.file.read_buf(&mut piece).await.map_err(|error| Trouble::Final(error.to_string()))?;
        Ok((read > 0).then(|| piece.into()))
    }
}

/// Opens it, if it has the length that is expected.
pub(super) async fn open(path: &Path, expected: &ManifestFile, offset: u64) -> Result<(Body, u64), Trouble> {
    let failed = |error: std::io::Error| Trouble::Final(format!("{}: {error}", path.display()));
    let mut file = File::open(path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    if length != expected.bytes {
        return Err(Trouble::OtherFile(format!("{} bytes", expected.bytes), format!("{length} bytes")));
    }
    file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
    Ok((Body::File(Reader { file }), offset))
}
