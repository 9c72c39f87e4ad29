//! Weights into a weights folder, pinned by digest: from the Hugging Face hub, from S3, from any web server, or from
//! a folder.
//!
//! Every source is only a way to get bytes from an offset on; everything that has to hold is here, once:
//!
//! - **Resuming.** Bytes go to `.NAME.part` and stay there when a connection is cut or the process is killed. The
//!   next attempt, of this process or another, asks for the rest. What a server sends is never believed: the digest of
//!   the whole file is compared before it gets its name, and a file that is wrong after it was resumed is fetched once
//!   more from its beginning.
//! - **One download.** Whoever pulls a file holds a lock on `.NAME.lock`; others, also in other processes, wait and
//!   then find the file. A lock ends with its holder.
//! - **Whole files only.** The file is synchronised and renamed to its name, never written in place: networks have
//!   files of this folder mapped into memory. A receipt remembers the digest, so that no start computes it again.
//!
//! **Why not hf-hub.** The crate's 1.0 cannot resume (it truncates its partial file), does not compare digests, gives
//! up after waiting 10 s for another process's lock, does not know `HF_HUB_OFFLINE`, and reads the environment by
//! itself. What would be left of it is the making of a URL. For that it always links hf-xet and a second TLS provider:
//! 66 crates more, chrono and aws-lc among them, which this workspace bans, and two providers in one process make
//! rustls refuse to pick one.

mod directory;
pub mod hub;
mod part;
pub mod s3;
mod web;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kraftr_models::weights::receipt;
use kraftr_protocol::manifest::{ManifestFile, Source};
use kraftr_protocol::{Clock, Digest};

use self::hub::HubSettings;
use self::part::Part;
use self::s3::S3Settings;
use crate::retry::Backoff;

/// Attempts in a row that bring no byte before a source is given up.
const RETRIES: u32 = 8;
/// How often somebody who waits for another's download looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where files may come from, beside what their manifests say.
#[derive(Debug, Clone, Default)]
pub struct PullSettings {
    /// The hub.
    pub hub: HubSettings,
    /// Object stores.
    pub s3: S3Settings,
    /// A folder that holds the files under their names; it replaces every other source.
    pub from: Option<PathBuf>,
}

/// What happens while a file is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Somebody else is pulling the same file.
    Waiting,
    /// So many bytes are there from an earlier attempt.
    Resumed(u64),
    /// So many bytes more are there.
    Bytes(u64),
    /// Begins anew: what was there is worth nothing.
    Restarted,
}

/// How a file came to be in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// It was there.
    WasThere,
    /// It was fetched, by this call or by somebody this call waited for.
    Fetched,
}

/// Why a file could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The manifest names no source.
    #[error(
        "{file}: its manifest names no source; put the file there yourself, or name a folder that has it (--from)"
    )]
    NoSource {
        /// The file.
        file: String,
    },
    /// The network may not be used.
    #[error("{file}: HF_HUB_OFFLINE is set, and {looked_in} has no such file")]
    Offline {
        /// The file.
        file: String,
        /// Where it was looked for.
        looked_in: String,
    },
    /// The network may not be used, and the cache has another file under that name.
    #[error("{file}: HF_HUB_OFFLINE is set, and {} is not the file that the manifest names", path.display())]
    OtherInCache {
        /// The file.
        file: String,
        /// What is there.
        path: PathBuf,
    },
    /// The source does not give it.
    #[error("{file} from {origin}: {why}")]
    Unavailable {
        /// The file.
        file: String,
        /// The source.
        origin: String,
        /// What it said.
        why: String,
    },
    /// The source gives another file.
    #[error(
        "{file} from {origin} is another file than its manifest names: expected {expected}, found {found}"
    )]
    OtherFile {
        /// The file.
        file: String,
        /// The source.
        origin: String,
        /// What the manifest says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// There is no room.
    #[error(
        "no room for {}: {missing} bytes more are needed; make room and pull again, what is there is kept",
        path.display()
    )]
    DiskFull {
        /// Where it was to go.
        path: PathBuf,
        /// How many bytes are missing.
        missing: u64,
    },
    /// The folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client: {0}")]
    Client(reqwest::Error),
}

/// Why a source gave no more bytes.
#[derive(Debug)]
enum Trouble {
    /// Another attempt may work.
    Passing(String),
    /// It will not.
    Final(String),
    /// It has another file: what is expected, what was found.
    OtherFile(String, String),
}

/// Pulls files. Cheap to clone.
#[derive(Clone)]
pub struct Puller {
    web: web::Client,
    settings: Arc<PullSettings>,
    clock: Arc<dyn Clock>,
}

/// A source that is open at an offset.
enum Body {
    Web(reqwest::Response),
    File(directory::Reader),
}

impl Puller {
    /// Makes the HTTP clients; nothing is asked of anybody yet.
    pub fn new(settings: PullSettings, clock: Arc<dyn Clock>) -> Result<Self, PullError> {
        let web = web::Client::new().map_err(PullError::Client)?;
        Ok(Self { web, settings: Arc::new(settings), clock })
    }

    /// Sees to it that `folder` has the file, whole and with its digest. `on` hears what happens.
    pub async fn pull(
        &self,
        file: &ManifestFile,
        folder: &Path,
        on: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Pulled, PullError> {
        let target = folder.join(&file.name);
        if is_there(&target, file).await? {
            return Ok(Pulled::WasThere);
        }
        fs::create_dir_all(folder).map_err(|source| PullError::Io { path: folder.to_owned(), source })?;
        let lock = lock(&folder.join(format!(".{}.lock", file.name)), on).await?;
        if !is_there(&target, file).await? {
            self.fetch(file, &target, on).await?;
        }
        // Whoever waits for this very lock finds the file and does nothing, so it may go.
        fs::remove_file(&lock.path).ok();
        Ok(Pulled::Fetched)
    }

    /// Fetches under the lock.
    async fn fetch(
        &self,
        file: &ManifestFile,
        target: &Path,
        on: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        let mut part = Part::open(target, file).await?;
        let mut resumed = part.length() > 0;
        if resumed {
            on(Progress::Resumed(part.length()));
        }
        loop {
            self.fill(file, &mut part, on).await?;
            let found = part.digest();
            if found == file.sha256 {
                return part.finish(target).await;
            }
            part.restart().await?;
            if !resumed {
                return Err(PullError::OtherFile {
                    file: file.name.clone(),
                    origin: self.origin(file),
                    expected: format!("sha256 {}", file.sha256),
                    found: format!("sha256 {found}"),
                });
            }
            tracing::warn!(file = file.name, "what was resumed has another digest: fetched anew, once");
            on(Progress::Restarted);
            resumed = false;
        }
    }

    /// Brings the part to its full length.
    async fn fill(
        &self,
        file: &ManifestFile,
        part: &mut Part,
        on: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        let seed = u64::from_le_bytes(file.sha256.0[..8].try_into().expect("a digest has 32 bytes"));
        let mut backoff = Backoff::new(RETRIES, seed);
        while part.length() < file.bytes {
            let before = part.length();
            let why = match self.stream(file, part, on).await? {
                Ok(()) => continue,
                Err(Trouble::Passing(why)) => why,
                Err(Trouble::Final(why)) => return Err(self.unavailable(file, why)),
                Err(Trouble::OtherFile(expected, found)) => {
                    let (file, origin) = (file.name.clone(), self.origin(file));
                    return Err(PullError::OtherFile { file, origin, expected, found });
                }
            };
            if part.length() > before {
                tracing::warn!(
                    file = file.name,
                    bytes = part.length(),
                    why,
                    "the download was cut: going on"
                );
                backoff = Backoff::new(RETRIES, seed);
            } else {
                tracing::debug!(file = file.name, why, "the source does not answer: trying again");
            }
            part.flush().await?;
            if !backoff.wait().await {
                return Err(self.unavailable(file, why));
            }
        }
        Ok(())
    }

    /// One attempt: from where the part ends as far as it goes.
    async fn stream(
        &self,
        file: &ManifestFile,
        part: &mut Part,
        on: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Result<(), Trouble>, PullError> {
        let (mut body, at) = match self.open(file, part.length()).await? {
            Ok(open) => open,
            Err(trouble) => return Ok(Err(trouble)),
        };
        if at != part.length() {
            // A server that does not know ranges sends everything.
            part.restart().await?;
            on(Progress::Restarted);
        }
        loop {
            match body.chunk().await {
                Ok(Some(chunk)) => {
                    let length = part.length() + chunk.len() as u64;
                    if length > file.bytes {
                        part.restart().await?;
                        let (expected, found) = (format!("{} bytes", file.bytes), "more".to_owned());
                        return Ok(Err(Trouble::OtherFile(expected, found)));
                    }
                    part.write(&chunk, file.bytes).await?;
                    on(Progress::Bytes(chunk.len() as u64));
                }
                Ok(None) if part.length() < file.bytes => {
                    return Ok(Err(Trouble::Passing("it ended early".to_owned())));
                }
                Ok(None) => return Ok(Ok(())),
                Err(trouble) => return Ok(Err(trouble)),
            }
        }
    }

    /// Opens the file's source; says from which offset on it will speak.
    async fn open(
        &self,
        file: &ManifestFile,
        offset: u64,
    ) -> Result<Result<(Body, u64), Trouble>, PullError> {
        if let Some(from) = &self.settings.from {
            return Ok(directory::open(&from.join(&file.name), file, offset).await);
        }
        let opened = match &file.source {
            None => return Err(PullError::NoSource { file: file.name.clone() }),
            Some(Source::Hub(at)) => return self.open_hub(file, at, offset).await,
            Some(Source::S3 { s3 }) => match s3::request(s3, &self.settings.s3, self.clock.now()) {
                Ok(request) => {
                    let opened = self.web.get(&request.url, &request.headers, file, offset).await;
                    opened.map_err(|trouble| s3::explained(trouble, &self.settings.s3))
                }
                Err(why) => Err(Trouble::Final(why)),
            },
            Some(Source::Url { url }) => self.web.get(url, &[], file, offset).await,
        };
        Ok(opened)
    }

    async fn open_hub(
        &self,
        file: &ManifestFile,
        at: &kraftr_protocol::manifest::Hub,
        offset: u64,
    ) -> Result<Result<(Body, u64), Trouble>, PullError> {
        let hub = &self.settings.hub;
        if let Some(path) = hub.cached(at) {
            if is_there(&path, file).await? {
                return Ok(directory::open(&path, file, offset).await);
            }
            if hub.offline {
                return Err(PullError::OtherInCache { file: file.name.clone(), path });
            }
            tracing::warn!(path = %path.display(), "not the file that the manifest names; it is fetched");
        }
        if hub.offline {
            let looked_in =
                hub.cache.as_ref().map_or_else(|| "no cache".to_owned(), |path| path.display().to_string());
            return Err(PullError::Offline { file: file.name.clone(), looked_in });
        }
        Ok(hub::open(&self.web, hub, at, file, offset).await)
    }

    fn origin(&self, file: &ManifestFile) -> String {
        match (&self.settings.from, &file.source) {
            (Some(from), _) => from.display().to_string(),
            (None, Some(source)) => source.to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    fn unavailable(&self, file: &ManifestFile, why: String) -> PullError {
        PullError::Unavailable { file: file.name.clone(), origin: self.origin(file), why }
    }
}

impl Body {
    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Trouble> {
        match self {
            Self::Web(response) => response.chunk().await.map_err(|error| web::trouble(&error)),
            Self::File(reader) => reader.chunk().await,
        }
    }
}

/// Whether the file is there, whole and with its digest. One with another digest counts as missing.
async fn is_there(target: &Path, file: &ManifestFile) -> Result<bool, PullError> {
    let failed = |source| PullError::Io { path: target.to_owned(), source };
    let metadata = match fs::metadata(target) {
        Ok(metadata) if metadata.is_file() && metadata.len() == file.bytes => metadata,
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    if receipt::is_remembered(target, file.sha256, &metadata) {
        return Ok(true);
    }
    let (path, expected) = (target.to_owned(), file.clone());
    let verified = tokio::task::spawn_blocking(move || receipt::verify(&path, &expected, |_| ()));
    match verified.await {
        Ok(verified) => Ok(verified.is_ok()),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

struct Lock {
    path: PathBuf,
    _file: File,
}

/// Waits for the lock. It is held until the value is dropped or the process ends, however it ends.
async fn lock(path: &Path, on: &mut (dyn FnMut(Progress) + Send)) -> Result<Lock, PullError> {
    let failed = |source| PullError::Io { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { path: path.to_owned(), _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        if !told {
            on(Progress::Waiting);
            told = true;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What two digests say when they are not the same.
fn other_digest(expected: Digest, found: &str) -> Trouble {
    Trouble::OtherFile(format!("sha256 {expected}"), format!("sha256 {found}"))
}
