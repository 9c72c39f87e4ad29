//! The control plane, measured: how many renders are accepted, how many are carried from submission to
//! capture, and how long one waits for its claim.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kraftr_protocol::{
    AssetId, Category, Class, Credits, Digest, Format, GarmentPhoto, GpuMillis, OrgId, Quality, RenderId,
    RenderSpec, Status, Timestamp, WorkerId,
};
use kraftr_scheduler::app::App;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::metrics::StatusLabels;
use kraftr_scheduler::provenance::Provenance;
use kraftr_scheduler::store::{NewAsset, NewRender, Store};
use kraftr_scheduler::{Config, Parts, Scheduler};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::anatomy::{self, Anatomy};
use super::bare::{self, Bare, parts_of};
use super::latency::{Arrivals, Quantiles, open_loop};
use super::parts::{BenchError, Ground, PUBLISHERS, Weightless, lane};
use super::worker::BenchWorker;

/// Renders of one batch submission.
const BATCH: usize = 500;
/// Batches that are submitted at the same time.
const BATCHES_AT_ONCE: usize = 2;
/// Renders whose cost is counted at most.
const ANATOMY_MAX: usize = 2_000;
/// How long nothing may move before the bench gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What to measure.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// Renders of each phase.
    pub jobs: usize,
    /// Orgs that submit in turn.
    pub orgs: usize,
    /// Workers.
    pub workers: usize,
    /// Renders that a worker holds at once.
    pub slots: usize,
    /// Renders a second of the open loop; without it there is none.
    pub rate: Option<f64>,
    /// Renders that wait all the time, in a lane that no worker takes.
    pub backlog: usize,
    /// Only the transport, without a store and without claims.
    pub bare: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The database; absent where no store took part.
    pub store: Option<&'static str>,
    /// The way between scheduler and workers.
    pub transport: &'static str,
    /// Renders of each phase.
    pub jobs: usize,
    /// Orgs.
    pub orgs: usize,
    /// Workers.
    pub workers: usize,
    /// Slots of each worker.
    pub slots: usize,
    /// Renders waiting all the time.
    pub backlog: usize,
    /// The whole way.
    #[serde(flatten)]
    pub full: Option<Full>,
    /// The transport alone.
    pub bare: Option<Bare>,
}

/// What the whole control plane does.
#[derive(Debug, Serialize)]
pub struct Full {
    /// Renders from submission to capture a second, submitted in batches and burnt down at once.
    pub renders_per_s: f64,
    /// Renders accepted a second, each by its own call, 64 callers at a time, no worker present.
    pub accepted_one_by_one_per_s: f64,
    /// Renders accepted a second in batches of 500, no worker present.
    pub accepted_batch_per_s: f64,
    /// Renders a second from the queue to capture, nobody submitting.
    pub burn_down_per_s: f64,
    /// Renders of the backlog accepted a second, in batches of 500.
    pub backlog_accepted_per_s: Option<f64>,
    /// Open loop.
    #[serde(flatten)]
    pub latency: Option<Latency>,
    /// What a render costs.
    pub anatomy: Anatomy,
}

/// How long the parts of a render's way take while renders come at a rate, whatever the answers do.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Renders a second.
    pub rate: f64,
    /// From when a submission was due to its acceptance.
    pub submit: Quantiles,
    /// From when a submission was due to its granted claim, at the worker.
    pub submit_to_claimed: Quantiles,
    /// From queued to claimed, by the database's clock.
    pub dispatch: Quantiles,
    /// The first part of that: from queued to dispatched.
    pub queued_to_dispatched: Quantiles,
    /// From queued to captured, by the database's clock.
    pub completion: Quantiles,
}

/// Measures.
pub async fn run(plan: &ControlPlane, ground: Ground) -> Result<Report, BenchError> {
    let mut report = Report {
        store: None,
        transport: ground.ways.name,
        jobs: plan.jobs,
        orgs: plan.orgs,
        workers: plan.workers,
        slots: plan.slots,
        backlog: plan.backlog,
        full: None,
        bare: None,
    };
    if plan.bare {
        let bare = bare::measure(&ground.ways, plan.jobs, plan.workers, plan.slots, plan.rate).await?;
        report.bare = Some(bare);
    } else {
        let ground = ground.with_books().await?;
        if let Some(books) = &ground.books {
            report.store = Some(books.name);
            report.full = Some(full(plan, &ground, &books.store).await?);
        }
    }
    Ok(report)
}

async fn full(plan: &ControlPlane, ground: &Ground, store: &Arc<dyn Store>) -> Result<Full, BenchError> {
    let tenants = tenants(plan, &**store, ground).await?;
    let scheduler = Scheduler::new(
        Parts {
            store: Arc::clone(store),
            blobs: Arc::new(Weightless),
            directory: None,
            transport: Arc::clone(&ground.ways.scheduler),
            catalog: Catalog::default(),
            clock: Arc::clone(&ground.clock),
            ids: Arc::clone(&ground.ids),
            provenance: Arc::new(Provenance::development(&**store, &*ground.clock).await?),
        },
        Config {
            public_url: "http://bench.invalid".into(),
            allow_private_webhooks: false,
            pool: lane().pool,
            proxies: 0,
        },
    );
    let app = Arc::clone(scheduler.app());
    let (shutdown, listener) = (CancellationToken::new(), TcpListener::bind("127.0.0.1:0").await?);
    let running = tokio::spawn(scheduler.run(listener, shutdown.clone()));
    let stage = Stage { app, tenants: Arc::new(tenants), jobs: plan.jobs };

    let backlog_accepted_per_s = match plan.backlog {
        0 => None,
        backlog => Some(stage.submit_batches(backlog, Class::Batch).await?),
    };
    let accepted_one_by_one_per_s = stage.submit_one_by_one().await?;
    let accepted_batch_per_s = stage.submit_batches(plan.jobs, Class::Interactive).await?;

    let arrivals = Arc::new(Arrivals::new(plan.jobs));
    let mut workers = JoinSet::new();
    let start = Instant::now();
    for _ in 0..plan.workers {
        let worker = BenchWorker {
            id: WorkerId(ground.ids.uuid(ground.clock.now())),
            transport: Arc::clone(&ground.ways.workers),
            slots: plan.slots,
            arrivals: Arc::clone(&arrivals),
        };
        workers.spawn(worker.run());
    }
    stage.ended(2 * plan.jobs).await?;
    let burn_down_per_s = (2 * plan.jobs) as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    stage.submit_batches(plan.jobs, Class::Interactive).await?;
    stage.ended(3 * plan.jobs).await?;
    let renders_per_s = plan.jobs as f64 / start.elapsed().as_secs_f64();

    let latency = match plan.rate {
        None => None,
        Some(rate) => Some(stage.open_loop(rate, &arrivals).await?),
    };
    let anatomy = stage.anatomy(ground).await?;
    workers.shutdown().await;
    shutdown.cancel();
    if let Err(error) = running.await? {
        tracing::error!(%error, "the scheduler ended badly");
    }
    Ok(Full {
        renders_per_s,
        accepted_one_by_one_per_s,
        accepted_batch_per_s,
        burn_down_per_s,
        backlog_accepted_per_s,
        latency,
        anatomy,
    })
}

/// An org with what it renders from.
struct Tenant {
    org: OrgId,
    assets: [AssetId; 2],
}

async fn tenants(plan: &ControlPlane, store: &dyn Store, ground: &Ground) -> Result<Vec<Tenant>, BenchError> {
    let credits = Credits((plan.backlog + 10 * plan.jobs) as i64);
    let mut tenants = Vec::with_capacity(plan.orgs);
    for n in 0..plan.orgs {
        let org = store.create_org(&format!("bench {n}")).await?.id;
        store.grant(org, credits, "bench").await?;
        let uuid = || ground.ids.uuid(ground.clock.now());
        let assets = [AssetId(uuid()), AssetId(uuid())];
        for id in assets {
            let asset = NewAsset {
                id,
                org,
                object_key: format!("assets/{org}/{id}.png"),
                sha256: Digest::of(id.0.as_bytes()),
                content_type: "image/png".into(),
                width: 64,
                height: 64,
                bytes: 1,
            };
            store.insert_asset(&asset, None).await?;
        }
        tenants.push(Tenant { org, assets });
    }
    Ok(tenants)
}

/// The scheduler under load.
struct Stage {
    app: Arc<App>,
    tenants: Arc<Vec<Tenant>>,
    jobs: usize,
}

impl Stage {
    async fn submit_one_by_one(&self) -> Result<f64, BenchError> {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..PUBLISHERS {
            let (app, tenants, jobs) = (Arc::clone(&self.app), Arc::clone(&self.tenants), self.jobs);
            callers.spawn(async move {
                for n in (caller..jobs).step_by(PUBLISHERS) {
                    app.submit(render(&tenants, n, Class::Interactive)).await??;
                }
                Ok::<(), BenchError>(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(self.jobs as f64 / start.elapsed().as_secs_f64())
    }

    async fn submit_batches(&self, renders: usize, class: Class) -> Result<f64, BenchError> {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..BATCHES_AT_ONCE {
            let (app, tenants) = (Arc::clone(&self.app), Arc::clone(&self.tenants));
            callers.spawn(async move {
                for first in (caller * BATCH..renders).step_by(BATCHES_AT_ONCE * BATCH) {
                    let batch: Vec<NewRender> =
                        (first..renders.min(first + BATCH)).map(|n| render(&tenants, n, class)).collect();
                    for outcome in
                        app.store.submit_renders(&batch, app.leadership.term().map(Into::into)).await?
                    {
                        outcome?;
                    }
                }
                Ok::<(), BenchError>(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(renders as f64 / start.elapsed().as_secs_f64())
    }

    async fn open_loop(&self, rate: f64, arrivals: &Arrivals) -> Result<Latency, BenchError> {
        let before = self.done();
        let count = parts_of(self.jobs, rate);
        let accepted = Arc::new(Arrivals::new(count));
        let renders = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let submit = |n: usize, due: Instant| {
            let (app, tenants) = (Arc::clone(&self.app), Arc::clone(&self.tenants));
            let (accepted, renders) = (Arc::clone(&accepted), Arc::clone(&renders));
            accepted.due(n, due);
            async move {
                match app.submit(render(&tenants, n, Class::Interactive)).await {
                    Ok(Ok(render)) => {
                        accepted.arrived(n);
                        renders.lock().unwrap_or_else(PoisonError::into_inner).push(render.id);
                    }
                    Ok(Err(refusal)) => tracing::error!(%refusal, "a render was refused"),
                    Err(error) => tracing::error!(%error, "a render was not accepted"),
                }
            }
        };
        open_loop(count, rate, arrivals, submit).await;
        self.ended(before as usize + count).await?;
        let renders = std::mem::take(&mut *renders.lock().unwrap_or_else(PoisonError::into_inner));
        let history = History::read(&*self.app.store, &renders).await?;
        Ok(Latency {
            rate,
            submit: accepted.quantiles(),
            submit_to_claimed: arrivals.quantiles(),
            dispatch: history.until(Status::Running),
            queued_to_dispatched: history.until(Status::Dispatched),
            completion: history.until(Status::Succeeded),
        })
    }

    /// Carries renders once more, and counts what that costs.
    async fn anatomy(&self, ground: &Ground) -> Result<Anatomy, BenchError> {
        let messages = || ground.ways.messages.as_ref().map(|count| count());
        let (before, done, renders) = (messages(), self.done() as usize, self.jobs.min(ANATOMY_MAX));
        anatomy::start();
        self.submit_batches(renders, Class::Interactive).await?;
        self.ended(done + renders).await?;
        let messages = messages().zip(before).map(|(after, before)| (after.0 - before.0, after.1 - before.1));
        Ok(anatomy::stop(renders, messages))
    }

    fn done(&self) -> u64 {
        let label = StatusLabels { status: Status::Succeeded.as_str() };
        self.app.metrics.renders_ended.get_or_create(&label).get()
    }

    /// Resolves when that many renders have ended since the scheduler started.
    async fn ended(&self, jobs: usize) -> Result<(), BenchError> {
        let (mut done, mut moved) = (self.done(), Instant::now());
        while done < jobs as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let now = self.done();
            if now > done {
                (done, moved) = (now, Instant::now());
            } else if moved.elapsed() > PATIENCE {
                return Err(BenchError::Stalled { done, jobs: jobs as u64, patience_s: PATIENCE.as_secs() });
            }
        }
        Ok(())
    }
}

/// When renders came into each state, by the database's clock.
struct History(Vec<Vec<(Status, Timestamp)>>);

impl History {
    async fn read(store: &dyn Store, renders: &[RenderId]) -> Result<Self, BenchError> {
        let mut all = Vec::with_capacity(renders.len());
        for render in renders {
            let lines = store.transitions(*render, 0).await?;
            all.push(lines.into_iter().map(|line| (line.status, line.at)).collect());
        }
        Ok(Self(all))
    }

    /// From when each was queued to its first moment in that state.
    fn until(&self, status: Status) -> Quantiles {
        let took = |lines: &Vec<(Status, Timestamp)>| {
            let (_, queued) = lines.first()?;
            let (_, at) = lines.iter().find(|(is, _)| *is == status)?;
            u64::try_from(at.0 - queued.0).ok()
        };
        Quantiles::of(&mut self.0.iter().filter_map(took).collect::<Vec<u64>>())
    }
}

/// Render `n`, whose seed is its number.
fn render(tenants: &[Tenant], n: usize, class: Class) -> NewRender {
    let tenant = &tenants[n % tenants.len()];
    let lane = lane();
    NewRender {
        org: tenant.org,
        ticket: None,
        model: lane.release.clone(),
        spec: RenderSpec {
            release: lane.release,
            category: Category::Tops,
            garment_photo: GarmentPhoto::FlatLay,
            quality: Quality::Balanced,
            steps: 1,
            guidance: 1.0,
            seed: n as u64,
            samples: 1,
            format: Format::Png,
            scene: None,
        },
        pool: lane.pool,
        class,
        person: tenant.assets[0],
        garment: tenant.assets[1],
        price: Credits(1),
        estimate: GpuMillis(1),
        webhook: None,
        metadata: None,
    }
}
