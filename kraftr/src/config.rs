//! The one configuration model of scheduler, worker and admin: a TOML file, under `KRAFTR_` variables, under flags.
//!
//! [`concerns`] declares every field once. [`Settings`] lays the layers over each other and finds every mistake;
//! [`SchedulerConfig`] and [`WorkerConfig`] are what comes out when there is none.

pub mod concerns;
pub mod environment;
pub mod field;
mod file;
pub mod folder;
pub mod mistake;
pub mod pulling;
pub mod reference;
pub mod settings;
pub mod sources;
pub mod value;

use std::net::SocketAddr;

use kraftr_models::{ModelError, Registry};
use kraftr_protocol::spec::releases_of;

use self::concerns::{
    Amqp, Credentials, Database, Dispatch, Http, Models, Process, S3, Startup, Watermark, Worker,
};
use self::folder::Folder;
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
    /// The releases.
    pub models: Models,
    /// Marks that are looked for.
    pub watermark: Watermark,
    /// Who signs and who is trusted.
    pub credentials: Credentials,
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
    /// The releases.
    pub models: Models,
    /// The worker.
    pub worker: Worker,
    /// The mark.
    pub watermark: Watermark,
}

/// What `kraftr verify` is told.
#[derive(Debug, Clone)]
pub struct VerifyConfig {
    /// Marks that are looked for.
    pub watermark: Watermark,
    /// Who is trusted.
    pub credentials: Credentials,
}

impl VerifyConfig {
    /// Reads it, or lists every mistake.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut settings = Settings::load(sources, Scope::Role(Role::Verify));
        let (watermark, credentials) = (settings.read(), settings.read());
        let config = watermark.zip(credentials);
        settings.finish(config.map(|(watermark, credentials)| Self { watermark, credentials }))
    }
}

/// What `kraftr watermark` is told.
#[derive(Debug, Clone)]
pub struct WatermarkConfig {
    /// The keys.
    pub watermark: Watermark,
}

impl WatermarkConfig {
    /// Reads it, or lists every mistake.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut settings = Settings::load(sources, Scope::Role(Role::Watermark));
        let watermark = settings.read();
        settings.finish(watermark.map(|watermark| Self { watermark }))
    }
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
        let (process, startup, http) = (settings.read(), settings.read(), settings.read());
        let (database, amqp) = (settings.read(), settings.read());
        let (s3, dispatch, models) = (settings.read(), settings.read(), settings.read());
        let (watermark, credentials) = (settings.read(), settings.read());
        check_public_url(settings);
        check_manifests(settings);
        check_signer(settings);
        Some(Self {
            process: process?,
            startup: startup?,
            http: http?,
            database: database?,
            amqp: amqp?,
            s3: s3?,
            dispatch: dispatch?,
            models: models?,
            watermark: watermark?,
            credentials: credentials?,
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
        let (models, worker, watermark) = (settings.read(), settings.read(), settings.read());
        if let Some(registry) = check_manifests(settings) {
            check_releases(settings, &registry);
        }
        Some(Self {
            process: process?,
            startup: startup?,
            amqp: amqp?,
            models: models?,
            worker: worker?,
            watermark: watermark?,
        })
    }
}

/// An address that stands for all of a machine's is none that anybody can call.
fn check_public_url(settings: &mut Settings) {
    let listen = settings.peek::<SocketAddr>("http.listen");
    if let Some(listen) = listen.filter(|listen| listen.ip().is_unspecified())
        && !settings.has("http.public_url")
    {
        let at = settings.origin("http.listen").map_or_else(String::new, Origin::to_string);
        let what = format!(
            "http.listen is {listen}, which is no address that clients can call; set http.public_url in the file, \
             as KRAFTR_HTTP_PUBLIC_URL or as --public-url to the one they use"
        );
        settings.mistake(at, what);
    }
}

/// A chain and either a key or a command, or nothing of it.
fn check_signer(settings: &mut Settings) {
    let has = ["chain", "key", "sign_command"].map(|name| settings.has(&format!("credentials.{name}")));
    let what = match has {
        [false, false, false] | [true, true, false] | [true, false, true] => return,
        [_, true, true] => {
            "credentials.key and credentials.sign_command are two ways to sign; keep one of them"
        }
        [true, ..] => {
            "credentials.chain needs what signs: set credentials.key_file or credentials.sign_command too"
        }
        [false, ..] => "what signs needs its certificates: set credentials.chain too",
    };
    settings.mistake("credentials", what);
}

impl Models {
    /// What is compiled in, and nothing else.
    pub const fn bundled() -> Self {
        Self { manifests: None, weights: None, allow_noncommercial: false }
    }

    /// Reads the configuration for a command that needs nothing else of it.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut settings = Settings::load(sources, Scope::Role(Role::Model));
        let models = settings.read();
        settings.finish(models)
    }

    /// The releases that are compiled in and those of the folder.
    pub fn registry(&self) -> Result<Registry, ModelError> {
        let path = |folder: &Option<Folder>| folder.as_ref().map(|folder| folder.path().to_owned());
        let registry = Registry::open(path(&self.manifests).as_deref(), path(&self.weights).as_deref())?;
        Ok(registry.allowing_noncommercial(self.allow_noncommercial))
    }
}

/// The releases, unless a manifest does not hold: then every mistake in it is noted.
fn check_manifests(settings: &mut Settings) -> Option<Registry> {
    match settings.read::<Models>()?.registry() {
        Ok(registry) => Some(registry),
        Err(error) => {
            let at = settings.origin("models.manifests").map_or_else(String::new, Origin::to_string);
            settings.mistake(at, error.to_string());
            None
        }
    }
}

/// A release that this program does not have would only be missed when it is loaded.
fn check_releases(settings: &mut Settings, registry: &Registry) {
    let Some(releases) = settings.peek::<Vec<String>>("worker.releases") else { return };
    let pulls = settings.peek::<bool>("worker.pull") == Some(true);
    let at = settings.origin("worker.releases").map_or_else(String::new, Origin::to_string);
    for name in &releases {
        let (release, painter) = releases_of(name);
        let named = [Some(release), painter].into_iter().flatten();
        for name in named {
            check_release(settings, registry, &at, name, pulls);
        }
    }
}

fn check_release(settings: &mut Settings, registry: &Registry, at: &str, name: &str, pulls: bool) {
    let missing = match registry.get(name) {
        Ok(manifest) if registry.permit(manifest).is_err() => {
            registry.permit(manifest).err().map_or_else(String::new, |error| error.to_string())
        }
        Ok(manifest) if pulls || registry.is_present(manifest) => return,
        Ok(_) => format!("the weights of {name} are missing: `kraftr model pull {name}`, or --pull"),
        Err(ModelError::UnknownRelease { meant: Some(meant), .. }) => {
            format!("there is no release {name}; did you mean {meant}?")
        }
        Err(error) => error.to_string(),
    };
    settings.mistake(at.to_owned(), missing);
}
