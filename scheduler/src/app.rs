//! The whole scheduler, built: what its loops and its HTTP shell share, and their life together.

use std::net::SocketAddr;
use std::sync::Arc;

use kraftr_protocol::{Clock, Ids};
use kraftr_transport::{Transport, TransportError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ahead::Ahead;
use crate::blobs::BlobStore;
use crate::blobs::directory::DirectoryBlobs;
use crate::catalog::Catalog;
use crate::group::Group;
use crate::hub::Hub;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::provenance::Provenance;
use crate::store::{AtOnce, NewRender, Render, Store, StoreError, SubmitError, Term};
use crate::{ahead, claims, dispatcher, http, hub, leader, reaper, relay, sink, sweeper};

/// How a scheduler behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients reach the API, without a trailing slash: `http://127.0.0.1:8080`.
    pub public_url: String,
    /// Accept webhooks to private addresses and over plain HTTP, for development.
    pub allow_private_webhooks: bool,
    /// Pool that renders are sent to.
    pub pool: String,
    /// Proxies of ours that requests come through, each of which adds to `X-Forwarded-For` whom it heard.
    pub proxies: usize,
}

/// What loops and HTTP handlers share.
pub struct App {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The objects.
    pub blobs: Arc<dyn BlobStore>,
    /// In embedded mode, the directory behind `blobs`, which serves its own links over this API.
    pub directory: Option<Arc<DirectoryBlobs>>,
    /// The way to the workers.
    pub transport: Arc<dyn Transport>,
    /// What can be rendered.
    pub catalog: Catalog,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness and ids.
    pub ids: Arc<dyn Ids>,
    /// Progress of running renders, for those who watch.
    pub hub: Hub,
    /// Jobs that go out before the relay has read of them.
    pub(crate) ahead: Arc<Ahead>,
    /// Submissions that wait for the database together.
    submissions: Group<NewRender, Result<Result<Render, SubmitError>, Arc<StoreError>>>,
    /// Whether this replica leads.
    pub leadership: Arc<Leadership>,
    /// Who signs, which marks are known, who is trusted.
    pub provenance: Arc<Provenance>,
    /// Counters of this process.
    pub metrics: Metrics,
    /// Behaviour.
    pub config: Config,
    /// Cancelled when the scheduler stops: long answers end then.
    pub stopping: CancellationToken,
}

/// Submissions of one transaction.
const SUBMISSIONS_MAX: usize = 256;

/// Why a submission could not be judged now.
#[derive(Debug, thiserror::Error)]
pub enum SubmissionFailed {
    /// The database, for everybody who was submitted together.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The transaction crashed: a bug.
    #[error("a submission crashed")]
    Crashed,
}

/// One transaction for all; where a constraint refuses it, one for each, so that nobody is refused for
/// somebody else's row.
async fn submit_together(
    store: Arc<dyn Store>,
    ahead: Arc<Ahead>,
    term: Option<Term>,
    renders: Vec<NewRender>,
) -> Vec<Result<Result<Render, SubmitError>, Arc<StoreError>>> {
    match submit_ahead(&*store, &ahead, term, &renders).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(error) if renders.len() == 1 || !error.is_permanent() => {
            let error = Arc::new(error);
            renders.iter().map(|_| Err(Arc::clone(&error))).collect()
        }
        Err(error) => {
            tracing::warn!(%error, renders = renders.len(), "submitted together they were refused");
            let mut outcomes = Vec::with_capacity(renders.len());
            for render in &renders {
                let alone = submit_ahead(&*store, &ahead, term, std::slice::from_ref(render)).await;
                outcomes.push(alone.map_err(Arc::new).and_then(|mut outcomes| {
                    outcomes
                        .pop()
                        .ok_or_else(|| Arc::new(StoreError::Corrupt("a submission got no outcome".into())))
                }));
            }
            outcomes
        }
    }
}

/// One transaction, whose jobs go out while it is committed.
async fn submit_ahead(
    store: &dyn Store,
    ahead: &Ahead,
    term: Option<Term>,
    renders: &[NewRender],
) -> Result<Vec<Result<Render, SubmitError>>, StoreError> {
    let mut commit = None;
    let mut go = |jobs: &[_]| {
        commit = ahead.depart(jobs);
        commit.is_some()
    };
    let at_once = term.map(|term| AtOnce { term, ahead: Some(&mut go) });
    let outcomes = store.submit_renders(renders, at_once).await?;
    if let Some(commit) = commit {
        commit.done();
    }
    Ok(outcomes)
}

/// What a scheduler is built from.
pub struct Parts {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The objects.
    pub blobs: Arc<dyn BlobStore>,
    /// In embedded mode, the directory behind `blobs`.
    pub directory: Option<Arc<DirectoryBlobs>>,
    /// The way to the workers.
    pub transport: Arc<dyn Transport>,
    /// What can be rendered.
    pub catalog: Catalog,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness and ids.
    pub ids: Arc<dyn Ids>,
    /// Who signs, which marks are known, who is trusted.
    pub provenance: Arc<Provenance>,
}

/// Why a scheduler stopped other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(#[source] std::io::Error),
    /// A loop panicked: a bug.
    #[error("a loop of the scheduler panicked: {0}")]
    Loop(#[from] tokio::task::JoinError),
    /// The database is away or broken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The transport is closed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// A scheduler, ready to run.
pub struct Scheduler {
    app: Arc<App>,
}

impl App {
    /// Puts the parts together without starting a loop: a simulation steps them itself.
    pub fn new(parts: Parts, config: Config) -> Self {
        let leadership = Arc::new(Leadership::new(parts.ids.uuid(parts.clock.now())));
        let ahead = Arc::<Ahead>::default();
        let submissions = {
            let (store, leadership) = (Arc::clone(&parts.store), Arc::clone(&leadership));
            let ahead = Arc::clone(&ahead);
            Group::new(SUBMISSIONS_MAX, move |renders| {
                submit_together(Arc::clone(&store), Arc::clone(&ahead), leadership.term(), renders)
            })
        };
        Self {
            store: parts.store,
            blobs: parts.blobs,
            directory: parts.directory,
            transport: parts.transport,
            catalog: parts.catalog,
            clock: parts.clock,
            ids: parts.ids,
            hub: Hub::default(),
            ahead,
            submissions,
            leadership,
            provenance: parts.provenance,
            metrics: Metrics::default(),
            config,
            stopping: CancellationToken::new(),
        }
    }

    /// Submits a render, in one transaction with whoever submits at the same time.
    pub async fn submit(&self, new: NewRender) -> Result<Result<Render, SubmitError>, SubmissionFailed> {
        let outcome = self.submissions.call(new).await.ok_or(SubmissionFailed::Crashed)?;
        let outcome = outcome.map_err(SubmissionFailed::Store)?;
        if outcome.is_ok() {
            self.metrics.renders_submitted.inc();
        }
        Ok(outcome)
    }
}

impl Scheduler {
    /// Puts the parts together.
    pub fn new(parts: Parts, config: Config) -> Self {
        Self { app: Arc::new(App::new(parts, config)) }
    }

    /// What its loops share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves `listener` and runs every loop until `shutdown`. Requests under way are finished; event
    /// streams are closed. Returns early, with every loop stopped, when one of them fails.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), SchedulerError> {
        let stop = self.app.stopping.clone();
        let mut loops: JoinSet<Result<(), SchedulerError>> = JoinSet::new();
        macro_rules! spawn {
            ($($name:ident)+) => {$({
                let (app, stop) = (Arc::clone(&self.app), stop.clone());
                loops.spawn(async move {
                    $name::run(&app, stop).await;
                    Ok(())
                });
            })+};
        }
        spawn!(leader dispatcher ahead relay claims sink reaper sweeper hub);
        let (router, http_stop) = (http::router(Arc::clone(&self.app)), stop.clone());
        loops.spawn(async move {
            axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
                .with_graceful_shutdown(http_stop.cancelled_owned())
                .await
                .map_err(SchedulerError::Http)
        });
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled(), if !stop.is_cancelled() => {
                    stop.cancel();
                    continue;
                }
                ended = loops.join_next() => ended,
            };
            let Some(ended) = ended else { return outcome };
            // Whichever loop ends first, on purpose or not, takes the others with it.
            stop.cancel();
            let ended = ended.map_err(SchedulerError::from).and_then(|ended| ended);
            outcome = outcome.and(ended);
        }
    }
}
