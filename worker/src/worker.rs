//! A worker's life: load, announce, take jobs, drain, hand back.

use std::sync::Arc;
use std::time::Duration;

use kraftr_models::{ModelError, Registry};
use kraftr_protocol::message::{Control, Job};
use kraftr_protocol::{Lane, WorkerId};
use kraftr_provenance::KeyRing;
use kraftr_transport::{BoxSource, Delivery, Transport, TransportError};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::claim::{Claim, claim};
use crate::config::{WorkerConfig, lanes};
use crate::engine::{EngineGone, EngineHandle, EngineSettings};
use crate::lease::{Heart, Leases, Stop};
use crate::pipeline::report::Reported;
use crate::pipeline::{Pipeline, client};

/// Orders to load a release that wait for the one before.
const LOADS_MAX: usize = 16;

/// Why a worker cannot start, or why it ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration does not hold.
    #[error("worker configuration: {}", mistakes.join("; "))]
    Config {
        /// One sentence each.
        mistakes: Vec<String>,
    },
    /// A release cannot be loaded, or the device cannot be used.
    #[error("cannot load {what}: {source}")]
    Load {
        /// The release or the device.
        what: String,
        /// The cause.
        source: Box<ModelError>,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The engine's thread cannot be started.
    #[error("the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine ended by itself; the log says why. Start the worker again.
    #[error("the engine stopped by itself; its last log lines say why")]
    EngineLost,
    /// The transport does not let the worker subscribe, or closed while it ran.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// A worker that has not started.
pub struct Worker {
    config: WorkerConfig,
    transport: Arc<dyn Transport>,
    registry: Arc<Registry>,
    keys: Arc<KeyRing>,
    ready: Option<oneshot::Sender<()>>,
}

impl Worker {
    /// Checks the configuration against the releases there are.
    pub fn new(
        mut config: WorkerConfig,
        transport: Arc<dyn Transport>,
        registry: Arc<Registry>,
        keys: KeyRing,
    ) -> Result<Self, WorkerError> {
        config.resolve(&registry).map_err(|mistakes| WorkerError::Config { mistakes })?;
        Ok(Self { config, transport, registry, keys: Arc::new(keys), ready: None })
    }

    /// Resolves once it takes jobs; an error when it ends before.
    pub fn ready(&mut self) -> oneshot::Receiver<()> {
        let (ready, told) = oneshot::channel();
        self.ready = Some(ready);
        told
    }

    /// Loads its releases, then works until `shutdown` or until it is told to drain. Draining, it
    /// claims nothing more, lets what runs finish within the grace, hands back the rest and returns.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let Self { config, transport, registry, keys, ready } = self;
        let engine = tokio::select! {
            engine = start_engine(&config, registry) => engine?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let offered = watch::Sender::new(config.lanes());
        let control = transport.consume_control().await?;
        let leases = Arc::<Leases>::default();
        let draining = shutdown.child_token();
        let (orders, loads) = mpsc::channel(LOADS_MAX);
        let listener = listen(control, config.id, Arc::clone(&leases), draining.clone(), orders);
        let _listener = AbortOnDropHandle::new(tokio::spawn(listener));
        let heart = Heart {
            transport: Arc::clone(&transport),
            leases: Arc::clone(&leases),
            worker: config.id,
            lanes: offered.subscribe(),
            slots: config.slots,
            every: config.heartbeat_every,
            draining: draining.clone(),
        };
        let _heart = AbortOnDropHandle::new(tokio::spawn(heart.run()));
        let pipeline = Arc::new(Pipeline::new(config.id, transport, engine, client()?, keys));
        let slots = Arc::new(Semaphore::new(config.slots as usize));
        let over = CancellationToken::new();
        let crew = Crew { worker: config.id, pipeline, leases, slots, draining, over };
        let offer = Offer { pool: config.pool, slots: config.slots as usize, lanes: offered, loads };
        tracing::info!(worker.id = %config.id, releases = ?config.releases, slots = config.slots, "ready");
        if let Some(ready) = ready {
            // Whoever asked may have stopped caring.
            ready.send(()).ok();
        }
        crew.work(offer, config.grace).await
    }
}

async fn start_engine(config: &WorkerConfig, registry: Arc<Registry>) -> Result<EngineHandle, WorkerError> {
    let failed = |what: &str, source| WorkerError::Load { what: what.to_owned(), source: Box::new(source) };
    let device = kraftr_models::device::choose(&config.device).map_err(|e| failed(&config.device, e))?;
    let settings = EngineSettings {
        max_batch: config.max_batch,
        preview_every: config.preview_every,
        commands: config.slots as usize,
    };
    let engine = EngineHandle::start(registry, device, settings)?;
    for name in &config.releases {
        let loaded = engine.make_ready(name).await.map_err(|EngineGone| WorkerError::EngineLost)?;
        loaded.map_err(|source| failed(name, source))?;
    }
    Ok(engine)
}

/// Does what the scheduler tells everyone.
async fn listen(
    mut control: BoxSource<Control>,
    worker: WorkerId,
    leases: Arc<Leases>,
    draining: CancellationToken,
    orders: mpsc::Sender<String>,
) {
    while let Some(message) = control.next().await {
        match message {
            Control::Cancel { render } => leases.order(render, Stop::Cancel),
            Control::Drain { worker: whom } if whom.is_none_or(|whom| whom == worker) => draining.cancel(),
            Control::Load { worker: whom, release } if whom.is_none_or(|whom| whom == worker) => {
                if let Err(error) = orders.try_send(release) {
                    tracing::warn!(%error, "an order to load a release was dropped");
                }
            }
            Control::Drain { .. } | Control::Load { .. } => {}
        }
    }
}

/// Why no more jobs are taken.
enum Ended {
    Asked,
    EngineLost,
    TransportClosed,
}

/// What the worker takes jobs from, and which releases it was told to load beside them.
struct Offer {
    pool: String,
    slots: usize,
    lanes: watch::Sender<Vec<Lane>>,
    loads: mpsc::Receiver<String>,
}

/// What the tasks of a working worker share.
#[derive(Clone)]
struct Crew {
    worker: WorkerId,
    pipeline: Arc<Pipeline>,
    leases: Arc<Leases>,
    /// A permit for each render that may be held.
    slots: Arc<Semaphore>,
    /// No claims from then on.
    draining: CancellationToken,
    /// The grace is over.
    over: CancellationToken,
}

impl Crew {
    /// Takes jobs until it is told to drain, or cannot; then drains.
    async fn work(self, offer: Offer, grace: Duration) -> Result<(), WorkerError> {
        let mut renders = JoinSet::new();
        let ended = self.take_jobs(offer, &mut renders).await;
        self.draining.cancel();
        tracing::info!(renders = renders.len(), "draining");
        let (grace, result) = match ended {
            Ended::Asked => (grace, Ok(())),
            Ended::EngineLost => (Duration::ZERO, Err(WorkerError::EngineLost)),
            Ended::TransportClosed => (Duration::ZERO, Err(TransportError::Closed.into())),
        };
        self.drain(&mut renders, grace).await;
        if let Some(pipeline) = Arc::into_inner(self.pipeline) {
            pipeline.stop().await;
        }
        result
    }

    /// One task for each job, and no more of them than there are slots.
    async fn take_jobs(&self, offer: Offer, renders: &mut JoinSet<()>) -> Ended {
        let Offer { pool, slots, lanes, mut loads } = offer;
        let (mut changed, lanes) = (lanes.subscribe(), Arc::new(lanes));
        let mut jobs = None;
        loop {
            let Some(source) = &mut jobs else {
                let wanted = changed.borrow_and_update().clone();
                match self.pipeline.transport().consume_jobs(&wanted, slots).await {
                    Ok(source) => jobs = Some(source),
                    Err(error) => {
                        tracing::error!(%error, "no jobs can be taken");
                        return Ended::TransportClosed;
                    }
                }
                continue;
            };
            let next = async {
                let slot = Arc::clone(&self.slots).acquire_owned().await.expect("nobody closes it");
                (slot, source.next().await)
            };
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Ended::Asked,
                () = self.pipeline.engine_gone() => return Ended::EngineLost,
                Some(ended) = renders.join_next() => note_panic(ended),
                Some(release) = loads.recv() => {
                    renders.spawn(load(Arc::clone(&self.pipeline), pool.clone(), release, Arc::clone(&lanes)));
                }
                // The old subscription gives back what it has not handed over.
                Ok(()) = changed.changed() => jobs = None,
                (slot, job) = next => match job {
                    Some(delivery) => {
                        let job = delivery.body;
                        let span = tracing::info_span!("render", render.id = %job.render, attempt = job.attempt);
                        let handled = self.clone().handle(delivery);
                        renders.spawn(async move { handled.await; drop(slot) }.instrument(span));
                    }
                    None => return Ended::TransportClosed,
                },
            }
        }
    }

    /// From a job message to its settlement.
    async fn handle(self, delivery: Delivery<Job>) {
        let job = delivery.body;
        let Some(reservation) = self.leases.reserve(job) else {
            tracing::debug!("this job is here already");
            return delivery.ack();
        };
        let claim = tokio::select! {
            claim = claim(self.pipeline.transport(), self.worker, job, &self.draining) => claim,
            () = self.over.cancelled() => Claim::Unanswered,
        };
        match claim {
            Claim::Granted { grant, asked } => {
                let lease = reservation.hold(&grant, asked);
                let ending = self.pipeline.run(&grant, &lease).await;
                tracing::info!(epoch = %grant.epoch, ending = ending.name(), "ended");
                if self.pipeline.report(&grant, &lease, ending).await == Reported::Settled {
                    delivery.ack();
                }
            }
            Claim::Refused(reason) => {
                tracing::debug!(?reason, "not granted");
                delivery.ack();
            }
            Claim::Unanswered => tracing::warn!("the claim was not answered: the job goes back"),
        }
    }

    /// Waits for what runs, and after the grace for what is handed back.
    async fn drain(&self, renders: &mut JoinSet<()>, grace: Duration) {
        let finish = async {
            while let Some(ended) = renders.join_next().await {
                note_panic(ended);
            }
        };
        tokio::pin!(finish);
        if tokio::time::timeout(grace, &mut finish).await.is_err() {
            self.over.cancel();
            self.leases.hand_back();
            // Every lease runs out in the end, so this ends too.
            finish.await;
        }
    }
}

/// Loads a release beside the others; its lanes are taken once it is there.
async fn load(
    pipeline: Arc<Pipeline>,
    pool: String,
    release: String,
    offered: Arc<watch::Sender<Vec<Lane>>>,
) {
    match pipeline.load(&release).await {
        Ok(Ok(())) => {
            offered.send_if_modified(|offered| {
                let mut releases: Vec<String> = offered.iter().map(|lane| lane.release.clone()).collect();
                let known = releases.contains(&release);
                releases.push(release.clone());
                releases.sort();
                releases.dedup();
                *offered = lanes(&pool, &releases);
                !known
            });
            tracing::info!(release, "loaded as told");
        }
        Ok(Err(error)) => tracing::warn!(release, %error, "a release cannot be loaded as told"),
        Err(EngineGone) => tracing::warn!(release, "the engine has ended: nothing is loaded"),
    }
}

/// A task that panicked has dropped its delivery and its lease: the job is redelivered.
fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a render's task crashed");
    }
}
