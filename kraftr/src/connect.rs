//! From the configuration to the services: the database, the broker, the object store.
//!
//! A process that starts beside its services waits for them with a bounded patience, says what it waits for, and
//! in the end what was missing.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use kraftr_scheduler::blobs::s3::{S3Blobs, S3Config};
use kraftr_scheduler::blobs::{BlobError, BlobStore};
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::store::postgres::{PgOptions, PgStore};
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{Store, StoreError};
use kraftr_transport::TransportError;
use kraftr_transport::rabbit::{RabbitConfig, RabbitMq};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::config::concerns::{Amqp, Database, S3};
use crate::config::value::{DatabaseKind, Setting};

/// How long between two attempts to reach a service.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How long one attempt may take: migrating a large database is one.
const ATTEMPT_MAX: Duration = Duration::from_mins(5);
/// Attempts between two lines of the log about the same service.
const SAY_AGAIN: u32 = 5;

/// A service that was not there in time.
#[derive(Debug, thiserror::Error)]
#[error("{what} is missing: {why}")]
pub struct Missing {
    /// The service, without its password.
    pub what: String,
    /// The last attempt's error.
    pub why: String,
}

/// The services that were not there in time.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct AllMissing(pub Vec<Missing>);

/// Opens the database that is configured and brings its schema up to date.
pub async fn database(config: &Database) -> Result<Arc<dyn Store>, StoreError> {
    match config.url.kind() {
        DatabaseKind::Postgres(url) => {
            let options = PgOptions { connections: config.connections.get(), ..PgOptions::default() };
            let store = PgStore::connect(url.expose_secret(), options, Arc::new(SystemIds)).await?;
            Ok(Arc::new(store))
        }
        DatabaseKind::Sqlite(path) => {
            let store = SqliteStore::open(&path, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
            Ok(Arc::new(store))
        }
    }
}

/// Connects to the broker; from then on the connection heals itself.
pub async fn broker(config: &Amqp, patience: Duration) -> Result<Arc<RabbitMq>, TransportError> {
    let rabbit = RabbitConfig {
        namespace: config.namespace.as_str().to_owned(),
        patience,
        ..RabbitConfig::new(config.url.secret().expose_secret())
    };
    RabbitMq::connect(rabbit).await.map(Arc::new)
}

/// Opens the object store; nothing is asked of it yet.
pub fn objects(config: &S3) -> S3Blobs {
    let (key, secret) = (config.access_key_id.0.clone(), config.secret_access_key.0.clone());
    S3Blobs::new(S3Config {
        endpoint: config.endpoint.as_ref().map(|url| url.as_str().to_owned()),
        prefix: config.prefix.as_ref().map(|prefix| format!("{}/", prefix.as_str())).unwrap_or_default(),
        path_style: config.path_style,
        encryption: config.encryption.clone(),
        ..S3Config::new(config.region.clone(), config.bucket.clone(), key, secret)
    })
}

/// The services of a scheduler.
pub struct Services {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The broker.
    pub broker: Arc<RabbitMq>,
    /// The objects.
    pub blobs: Arc<dyn BlobStore>,
}

impl Services {
    /// Reaches all three, at the same time, or says which are missing.
    pub async fn reach(
        database_config: &Database,
        amqp: &Amqp,
        s3: &S3,
        patience: Duration,
    ) -> Result<Self, AllMissing> {
        let (store, broker, blobs) = tokio::join!(
            wait_for(format!("the database {}", database_config.url.show()), patience, async || {
                database(database_config).await
            }),
            reach_broker(amqp, patience),
            wait_for(objects_name(s3), patience, async || {
                let blobs = objects(s3);
                blobs.check().await?;
                Ok::<_, BlobError>(blobs)
            }),
        );
        match (store, broker, blobs) {
            (Ok(store), Ok(broker), Ok(blobs)) => Ok(Self { store, broker, blobs: Arc::new(blobs) }),
            (store, broker, blobs) => {
                let missing = [store.err(), broker.err(), blobs.err()];
                Err(AllMissing(missing.into_iter().flatten().collect()))
            }
        }
    }
}

/// Connects to the broker, or says what is missing.
pub async fn reach_broker(config: &Amqp, patience: Duration) -> Result<Arc<RabbitMq>, Missing> {
    let what = format!("the broker {}", config.url.show());
    broker(config, patience).await.map_err(|error| Missing { what, why: error.to_string() })
}

fn objects_name(config: &S3) -> String {
    match &config.endpoint {
        Some(endpoint) => format!("the bucket {} at {}", config.bucket, endpoint.as_str()),
        None => format!("the bucket {} in {}", config.bucket, config.region),
    }
}

/// Tries until it works or the patience is over.
async fn wait_for<T, E: Display>(
    what: String,
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, Missing> {
    let until = Instant::now() + patience;
    let mut tries = 0;
    loop {
        let why = match tokio::time::timeout(ATTEMPT_MAX, attempt()).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        if Instant::now() + TRY_AGAIN > until {
            return Err(Missing { what, why });
        }
        if tries % SAY_AGAIN == 0 {
            tracing::warn!("waiting for {what}: {why}");
        }
        tries += 1;
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
