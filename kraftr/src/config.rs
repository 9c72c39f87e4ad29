//! The one configuration model of scheduler, worker and admin: a TOML file, under `KRAFTR_` variables, under flags.
//!
//! [`concerns`] declares every field once. [`Settings`] lays the layers over each other and finds every mistake;
//! [`SchedulerConfig`] and [`WorkerConfig`] are what comes out when there is none.

pub mod concerns;
pub mod environment;
pub mod field;
mod file;
pub mod mistake;
pub mod reference;
pub mod settings;
pub mod sources;
pub mod value;

use concerns::{Amqp, Database, Dispatch, Http, Process, S3, Startup, Watermark, Worker};
pub use field::Role;
pub use mistake::{Mistake, Mistakes, Origin};
pub use settings::{Scope, Settings, Shown};
pub use sources::{Flags, Sources};

/// What `kraftr scheduler` is told.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// This process.
    pub process: Process,
    /// Its start.
    pub startup: Startup,
    /// The API.
    pub http: Http,
    /// The database.
    pub database: Database,
    /// The broker.
    pub amqp: Amqp,
    /// The objects.
    pub s3: S3,
    /// Dispatching.
    pub dispatch: Dispatch,
}

/// What `kraftr worker` is told.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// This process.
    pub process: Process,
    /// Its start.
    pub startup: Startup,
    /// The broker.
    pub amqp: Amqp,
    /// The worker.
    pub worker: Worker,
    /// The mark.
    pub watermark: Watermark,
}

impl SchedulerConfig {
    /// Reads it, or lists every mistake.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut settings = Settings::load(sources, Scope::Role(Role::Scheduler));
        let config = Self::read(&mut settings);
        settings.finish(config)
    }

    /// Reads it; mistakes are noted in `settings`.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let (process, startup, http) = (settings.read(), settings.read(), settings.read::<Http>());
        let (database, amqp) = (settings.read(), settings.read());
        let (s3, dispatch) = (settings.read(), settings.read());
        if let Some(http) = &http
            && http.listen.ip().is_unspecified()
            && http.public_url.is_none()
        {
            let at = settings.origin("http.listen").map_or_else(|| "http.listen".into(), Origin::to_string);
            let what = format!(
                "http.listen is {}, which is no address that clients can call; \
                 set http.public_url, KRAFTR_HTTP_PUBLIC_URL or --public-url to the one they use",
                http.listen
            );
            settings.mistake(at, what);
        }
        Some(Self {
            process: process?,
            startup: startup?,
            http: http?,
            database: database?,
            amqp: amqp?,
            s3: s3?,
            dispatch: dispatch?,
        })
    }
}

impl WorkerConfig {
    /// Reads it, or lists every mistake.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut settings = Settings::load(sources, Scope::Role(Role::Worker));
        let config = Self::read(&mut settings);
        settings.finish(config)
    }

    /// Reads it; mistakes are noted in `settings`.
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let (process, startup, amqp) = (settings.read(), settings.read(), settings.read());
        let (worker, watermark) = (settings.read(), settings.read());
        Some(Self {
            process: process?,
            startup: startup?,
            amqp: amqp?,
            worker: worker?,
            watermark: watermark?,
        })
    }
}
