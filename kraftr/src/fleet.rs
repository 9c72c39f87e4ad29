//! The embedded fleet: the scheduler and one worker of production, in one process, over a data directory.
//!
//! Demo, dev server, tests and benches all start this. Nothing in it is a stand-in: SQLite is the
//! store, channels are the transport, a directory holds the objects.

use std::net::SocketAddr;
use std::sync::Arc;

use kraftr_models::ModelError;
use kraftr_protocol::{ApiKeyId, Clock, Credits, Ids, OrgId, WorkerId};
use kraftr_provenance::KeyRing;
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::provenance::{Provenance, SetupError};
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{Store, StoreError};
use kraftr_scheduler::{Config, Parts, Scheduler, SchedulerError};
use kraftr_transport::Transport;
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_worker::{Worker, WorkerConfig, WorkerError};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::commands::offered;
use crate::config::concerns::Models;
use crate::data_dir::{DataDir, DataDirError, Owned};

/// The one pool of an embedded fleet.
const POOL: &str = "embedded";

/// Why a fleet cannot start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}, name another address: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The objects' directory.
    #[error("the object directory: {0}")]
    Blobs(#[from] kraftr_scheduler::blobs::BlobError),
    /// The certificates that credentials are signed with.
    #[error(transparent)]
    Provenance(#[from] SetupError),
    /// The worker ended with an error.
    #[error("the worker: {0}")]
    Worker(#[from] WorkerError),
    /// The scheduler ended with an error.
    #[error("the scheduler: {0}")]
    Scheduler(#[from] SchedulerError),
    /// The releases cannot be read.
    #[error(transparent)]
    Models(#[from] ModelError),
    /// A part panicked; its message is on standard error.
    #[error("a part of the fleet crashed: {0}")]
    Crashed(#[from] JoinError),
}

/// How a fleet is started.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Accept webhooks to private addresses and over plain HTTP.
    pub allow_private_webhooks: bool,
    /// The releases that it offers and renders.
    pub models: Models,
}

/// A running fleet. Dropping it stops it without waiting; [`Fleet::stop`] waits.
pub struct Fleet {
    url: String,
    store: Arc<dyn Store>,
    ids: Arc<dyn Ids>,
    shutdown: DropGuard,
    parts: JoinHandle<Result<(), FleetError>>,
    _data_dir: Owned,
}

impl Fleet {
    /// Starts scheduler and worker on `data_dir`; returns once requests are accepted.
    pub async fn start(data_dir: DataDir, config: FleetConfig) -> Result<Self, FleetError> {
        let data_dir = data_dir.own()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&data_dir.database(), clock.clone(), ids.clone()).await?);
        // The process that held these is gone: nobody else runs on this directory.
        let requeued = store.requeue_in_flight().await?;
        if requeued > 0 {
            tracing::info!(renders = requeued, "back in the queue after the last process ended");
        }

        let failed = |source| FleetError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);

        let transport: Arc<dyn Transport> = Arc::new(InProcess::new(Bounds::default()));
        let registry = Arc::new(config.models.registry()?);
        let mut secret = [0; 32];
        ids.fill(&mut secret);
        let blobs = Arc::new(DirectoryBlobs::new(data_dir.blobs(), url.clone(), secret, clock.clone())?);
        let scheduler = Scheduler::new(
            Parts {
                store: store.clone(),
                blobs: blobs.clone(),
                directory: Some(blobs),
                transport: transport.clone(),
                catalog: Catalog::new(&offered(&registry, registry.present())),
                clock: clock.clone(),
                ids: ids.clone(),
                provenance: Arc::new(Provenance::development(&*store, &*clock).await?),
            },
            Config {
                public_url: url.clone(),
                allow_private_webhooks: config.allow_private_webhooks,
                pool: POOL.to_owned(),
                proxies: 0,
            },
        );
        let worker_id = WorkerId(ids.uuid(clock.now()));
        let worker =
            Worker::new(WorkerConfig::new(worker_id, POOL), transport, registry, KeyRing::development())?;

        let shutdown = CancellationToken::new();
        let parts = tokio::spawn(run_parts(worker, scheduler, listener, shutdown.clone()));
        Ok(Self { url, store, ids, shutdown: shutdown.drop_guard(), parts, _data_dir: data_dir })
    }

    /// Where the API is, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database that the scheduler works on.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Makes an API key; the secret is returned here and nowhere else.
    pub async fn create_key(&self, org: OrgId, label: &str) -> Result<(ApiKeyId, String), StoreError> {
        create_key(&*self.store, &*self.ids, org, label).await
    }

    /// Makes an org with that many credits.
    pub async fn create_org(&self, name: &str, credits: Credits) -> Result<OrgId, StoreError> {
        let org = self.store.create_org(name).await?.id;
        self.store.grant(org, credits, "welcome").await?;
        Ok(org)
    }

    /// Resolves when a part ends although nobody asked it to.
    pub async fn ended(&mut self) -> Result<(), FleetError> {
        (&mut self.parts).await?
    }

    /// Stops it: the worker drains, then the scheduler ends, and both are waited for.
    pub async fn stop(self) -> Result<(), FleetError> {
        drop(self.shutdown);
        self.parts.await?
    }
}

/// Runs both parts until `shutdown` or until one ends by itself. The worker stops first: while it
/// drains it still claims, uploads and reports.
async fn run_parts(
    worker: Worker,
    scheduler: Scheduler,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), FleetError> {
    let scheduler_stop = CancellationToken::new();
    let mut worker = tokio::spawn(worker.run(shutdown.clone()));
    let mut scheduler = tokio::spawn(scheduler.run(listener, scheduler_stop.clone()));
    let (worker, scheduler) = tokio::select! {
        worker = &mut worker => {
            scheduler_stop.cancel();
            (worker, scheduler.await)
        }
        scheduler = &mut scheduler => {
            shutdown.cancel();
            (worker.await, scheduler)
        }
    };
    worker??;
    scheduler??;
    Ok(())
}

/// Makes an API key in `store`; only a digest of the secret that is returned is kept.
pub async fn create_key(
    store: &dyn Store,
    ids: &dyn Ids,
    org: OrgId,
    label: &str,
) -> Result<(ApiKeyId, String), StoreError> {
    let (secret, digest) = kraftr_scheduler::http::auth::new_secret(ids);
    let key = store.create_key(org, label, digest).await?;
    Ok((key.id, secret))
}
