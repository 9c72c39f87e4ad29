//! The world of one seed: it owns time, steps every loop itself, and decides what goes wrong when.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use kraftr_protocol::{
    AssetId, Category, Class, Clock as _, Credits, Digest, Event, Format, GarmentPhoto, GpuMillis, Ids as _,
    Lane, OrgId, Quality, RenderSpec, Timestamp, WorkerId,
};
use kraftr_scheduler::app::{App, Config, Parts};
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{ManualClock, SeededIds};
use kraftr_scheduler::provenance::Provenance;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{
    CancelOutcome, Idempotency, NewAsset, NewRender, Resource, Store, SubmitError,
};
use kraftr_scheduler::{claims, dispatcher, leader, reaper, relay, sink};
use kraftr_transport::faults::{Faults, Faulty};
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_transport::{BoxSource, Call, Delivery, Transport};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use crate::auditor::Auditor;
use crate::blobs::MemoryBlobs;
use crate::faults::Weather;
use crate::worker::{SimWorker, Surroundings};
use crate::workload::seed_of;

/// Actions of the stormy part.
const ACTIONS: u32 = 260;
/// Actions after which everything must have ended once nothing goes wrong any more.
const HEALING_MAX: u32 = 20_000;
/// Actions between two audits.
const AUDIT_EVERY: u32 = 20;
const PRICE: i64 = 2;

/// What happened in a run; equal for equal seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) renders: u64,
    pub(crate) refused: u64,
    pub(crate) cancels: u64,
    pub(crate) crashes: u64,
    pub(crate) pauses: u64,
    pub(crate) restarts: u64,
    pub(crate) repeats: u64,
    pub(crate) stale: u64,
    pub(crate) reaped: u64,
    pub(crate) audits: u64,
    pub(crate) healing: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.renders += other.renders;
        self.refused += other.refused;
        self.cancels += other.cancels;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.restarts += other.restarts;
        self.repeats += other.repeats;
        self.stale += other.stale;
        self.reaped += other.reaped;
        self.audits += other.audits;
        self.healing += other.healing;
    }

    /// A simulation in which something never happened proves nothing about it.
    pub(crate) fn assert_covers_everything(&self) {
        let counts = [
            self.renders,
            self.refused,
            self.cancels,
            self.crashes,
            self.pauses,
            self.restarts,
            self.repeats,
        ];
        assert!(counts.iter().all(|count| *count > 0) && self.stale > 0 && self.reaped > 0, "{self:?}");
    }
}

/// The scheduler process: what is lost when it is killed.
struct SchedulerProcess {
    app: App,
    calls: BoxSource<Call>,
    events: BoxSource<Delivery<Event>>,
}

struct Tenant {
    org: OrgId,
    assets: [AssetId; 2],
}

pub(crate) struct World {
    rng: ChaCha8Rng,
    clock: Arc<ManualClock>,
    ids: Arc<SeededIds>,
    store: Arc<SqliteStore>,
    blobs: Arc<MemoryBlobs>,
    transport: Arc<Faulty<InProcess>>,
    scheduler: SchedulerProcess,
    workers: Vec<SimWorker>,
    tenants: Vec<Tenant>,
    auditor: Auditor,
    weather: Weather,
    requests: u64,
    summary: Summary,
    trace: bool,
}

fn lanes() -> Vec<Lane> {
    Class::ALL.map(|class| Lane { pool: "cpu".into(), release: "sim".into(), class }).to_vec()
}

fn new_transport(seed: u64, faults: Faults) -> Arc<Faulty<InProcess>> {
    // No time limit on calls: time is the world's, and it lets callers give up by itself.
    let bounds = Bounds { call_timeout: None, ..Bounds::default() };
    Arc::new(Faulty::new(InProcess::new(bounds), seed, faults))
}

impl World {
    pub(crate) async fn new(seed: u64, trace: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
        let ids = Arc::new(SeededIds::new(rng.random()));
        let store =
            Arc::new(SqliteStore::in_memory(clock.clone(), ids.clone()).await.expect("memory is there"));
        let weather = Weather::draw(&mut rng);
        let transport = new_transport(rng.random(), weather.transport);
        let blobs = Arc::new(MemoryBlobs::default());
        let scheduler = start_scheduler(&store, &blobs, &transport, &clock, &ids).await;
        let mut world = Self {
            rng,
            clock,
            ids,
            store,
            blobs,
            transport,
            scheduler,
            workers: Vec::new(),
            tenants: Vec::new(),
            auditor: Auditor::default(),
            weather,
            requests: 0,
            summary: Summary::default(),
            trace,
        };
        for _ in 0..world.rng.random_range(1..=3) {
            world.add_tenant().await;
        }
        for _ in 0..world.rng.random_range(1..=3) {
            let worker = world.new_worker().await;
            world.workers.push(worker);
        }
        world
    }

    #[expect(clippy::print_stdout, reason = "a replayed seed tells its story")]
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{} {}", self.clock.now(), what());
        }
    }

    fn id(&self) -> Uuid {
        self.ids.uuid(self.clock.now())
    }

    async fn add_tenant(&mut self) {
        let org = self.store.create_org("simulated").await.expect("the store answers").id;
        let credits = self.rng.random_range(0..60);
        self.store.grant(org, Credits(credits), "opening").await.expect("the store answers");
        self.auditor.granted(org, credits);
        let assets = [AssetId(self.id()), AssetId(self.id())];
        for id in assets {
            let asset = NewAsset {
                id,
                org,
                object_key: format!("assets/{id}"),
                sha256: Digest::of(id.0.as_bytes()),
                content_type: "image/png".into(),
                width: 64,
                height: 64,
                bytes: 1,
            };
            self.store.insert_asset(&asset, None).await.expect("the store answers");
        }
        self.tenants.push(Tenant { org, assets });
    }

    async fn new_worker(&mut self) -> SimWorker {
        let (id, slots) = (WorkerId(self.id()), self.rng.random_range(1..=2));
        let transport: Arc<dyn Transport> = self.transport.clone();
        SimWorker::start(id, lanes(), slots, &transport).await
    }

    pub(crate) async fn run(mut self) -> Summary {
        for action in 0..ACTIONS {
            self.act().await;
            if action % AUDIT_EVERY == 0 {
                self.auditor.check(&*self.store).await;
                self.summary.audits += 1;
            }
        }
        self.heal().await;
        self.auditor.check_end(&*self.store, &*self.blobs).await;
        self.summary
    }

    /// Nothing goes wrong any more, and everything must end.
    async fn heal(&mut self) {
        self.tell(|| "healing".into());
        self.weather = Weather::calm();
        self.transport.set_faults(Faults::default());
        self.transport.release_all().await;
        for worker in &mut self.workers {
            worker.paused_until = Timestamp(0);
        }
        for round in 0..HEALING_MAX {
            if round % 50 == 0 {
                self.auditor.check(&*self.store).await;
                if self.auditor.live().is_empty() {
                    self.summary.healing += u64::from(round);
                    return;
                }
            }
            self.clock.advance(Duration::from_millis(200));
            self.scheduler_step(round % 5).await;
            for n in 0..self.workers.len() {
                self.worker_step(n).await;
            }
        }
        panic!("these never ended: {:?}", self.auditor.live());
    }

    async fn act(&mut self) {
        let millis = match self.rng.random_range(0..100) {
            0 => self.rng.random_range(5_000..70_000),
            1..10 => self.rng.random_range(500..5_000),
            _ => self.rng.random_range(0..200),
        };
        self.clock.advance(Duration::from_millis(millis));
        if self.rng.random_bool(self.weather.scheduler_restart) {
            self.restart_scheduler().await;
        }
        if self.rng.random_bool(self.weather.fleet_restart) {
            self.restart_fleet().await;
        }
        match self.rng.random_range(0..100) {
            0..8 => self.submit().await,
            8..12 => self.cancel().await,
            12..16 => drop(self.transport.release_some().await),
            16..50 => {
                let which = self.rng.random_range(0..5);
                self.scheduler_step(which).await;
            }
            _ => {
                let n = self.rng.random_range(0..self.workers.len());
                self.worker_step(n).await;
            }
        }
    }

    async fn scheduler_step(&mut self, which: u32) {
        let scheduler = &mut self.scheduler;
        match which {
            0 => {
                if let Some(term) = leader::step(&scheduler.app).await.expect("the store answers") {
                    let dispatched = dispatcher::step(&scheduler.app, term).await;
                    assert!(dispatched.expect("the store answers").is_some(), "the term has just begun");
                }
            }
            1 => drop(relay::step(&scheduler.app).await.expect("the store answers")),
            2 => {
                let reaped = reaper::step(&scheduler.app).await.expect("the store answers");
                self.summary.reaped += (reaped.requeued.len() + reaped.ended.len()) as u64;
            }
            3 => {
                while let Some(Some(call)) = scheduler.calls.next().now_or_never() {
                    claims::answer(&scheduler.app, call).await;
                }
            }
            _ => self.take_event().await,
        }
    }

    async fn take_event(&mut self) {
        let Some(Some(delivery)) = self.scheduler.events.next().now_or_never() else { return };
        self.tell(|| format!("event {:?}", delivery.body));
        let killed_before_ack = self.rng.random_bool(self.weather.scheduler_restart);
        let events = std::slice::from_ref(&delivery.body);
        let applied = sink::apply(&self.scheduler.app, events).await.expect("the store answers").remove(0);
        self.tell(|| format!("  {applied:?}"));
        self.summary.stale += u64::from(applied == kraftr_scheduler::store::Applied::Stale);
        if killed_before_ack {
            drop(delivery);
            self.restart_scheduler().await;
        } else {
            delivery.ack();
        }
    }

    async fn worker_step(&mut self, n: usize) {
        let now = self.clock.now();
        if self.workers[n].paused_until > now {
            return;
        }
        if self.rng.random_bool(self.weather.crash) {
            self.tell(|| format!("{} is killed", self.workers[n].id));
            self.workers[n] = self.new_worker().await;
            self.summary.crashes += 1;
        } else if self.rng.random_bool(self.weather.pause) {
            let millis = self.rng.random_range(1_000..40_000);
            self.workers[n].paused_until = now.plus(Duration::from_millis(millis));
            self.summary.pauses += 1;
        } else {
            let transport: Arc<dyn Transport> = self.transport.clone();
            let mut around = Surroundings {
                transport: &transport,
                blobs: &self.blobs,
                weather: &self.weather,
                rng: &mut self.rng,
                now,
            };
            self.workers[n].step(&mut around).await;
        }
    }

    async fn restart_scheduler(&mut self) {
        self.tell(|| "the scheduler is killed".into());
        self.summary.restarts += 1;
        self.scheduler =
            start_scheduler(&self.store, &self.blobs, &self.transport, &self.clock, &self.ids).await;
    }

    /// The one embedded process dies: its workers, its queues and everything in them go with it.
    async fn restart_fleet(&mut self) {
        self.tell(|| "the fleet is killed".into());
        self.summary.restarts += 1;
        self.transport = new_transport(self.rng.random(), self.weather.transport);
        self.restart_scheduler().await;
        self.store.requeue_in_flight().await.expect("the store answers");
        for n in 0..self.workers.len() {
            self.workers[n] = self.new_worker().await;
        }
    }

    async fn submit(&mut self) {
        let tenant = self.rng.random_range(0..self.tenants.len());
        let Tenant { org, assets } = self.tenants[tenant];
        let index = if self.requests > 0 && self.rng.random_bool(0.2) {
            self.rng.random_range(0..self.requests)
        } else {
            self.requests += 1;
            self.requests - 1
        };
        let key = format!("request {index}");
        // A key belongs to an org and a body: the same index from another tenant is another request.
        let (scoped, body) = (format!("{org} {key}"), Digest::of(key.as_bytes()));
        match self.store.begin_idempotent(org, &key, body).await.expect("the store answers") {
            Idempotency::Done(Resource::Render(render)) => {
                self.summary.repeats += 1;
                self.auditor.repeated(&scoped, render);
            }
            Idempotency::InFlight => {}
            Idempotency::Fresh(ticket) => {
                if self.rng.random_bool(self.weather.scheduler_restart) {
                    return self.restart_scheduler().await;
                }
                let samples = 1 + (index % 4) as u32;
                let new = NewRender {
                    org,
                    ticket: Some(ticket.clone()),
                    model: "sim".into(),
                    spec: spec(seed_of(index), samples),
                    pool: "cpu".into(),
                    class: Class::ALL[(index % 2) as usize],
                    person: assets[0],
                    garment: assets[1],
                    price: Credits(PRICE * i64::from(samples)),
                    estimate: GpuMillis(1),
                    webhook: None,
                    metadata: None,
                };
                self.submit_new(new, scoped).await;
            }
            other => panic!("{other:?} under a key that only names one body"),
        }
    }

    async fn submit_new(&mut self, new: NewRender, key: String) {
        let affordable = self.auditor.available(new.org) >= new.price.0;
        let (renders, term) = (std::slice::from_ref(&new), self.scheduler.app.leadership.term());
        let outcome = self
            .store
            .submit_renders(renders, term.map(Into::into))
            .await
            .expect("the store answers")
            .remove(0);
        self.tell(|| format!("submit {key}: {:?}", outcome.as_ref().map(|render| render.id)));
        match outcome {
            Ok(render) => {
                self.summary.renders += 1;
                self.auditor.submitted(&render, Some(key));
            }
            Err(SubmitError::InsufficientCredits { .. }) => {
                // What the model has not yet seen to end it counts as held, so it may be too strict, never too lax.
                assert!(!affordable, "refused although it is covered");
                self.summary.refused += 1;
                let ticket = new.ticket.expect("every request has a key");
                self.store.abandon_idempotent(&ticket).await.expect("the store answers");
            }
            Err(other) => panic!("{other}"),
        }
    }

    async fn cancel(&mut self) {
        let all = self.auditor.all();
        if all.is_empty() {
            return;
        }
        let (org, render) = all[self.rng.random_range(0..all.len())];
        let outcome = self.store.cancel_render(org, render).await.expect("the store answers");
        self.tell(|| format!("cancel {render}"));
        match outcome {
            CancelOutcome::AlreadyEnded(render) => self.auditor.cancel_refused(&render),
            CancelOutcome::Cancelled(_) | CancelOutcome::Requested(_) => {
                self.summary.cancels += 1;
                self.auditor.cancelled(render);
            }
            CancelOutcome::NotFound => panic!("{render} was lost"),
        }
    }
}

fn spec(seed: u64, samples: u32) -> RenderSpec {
    RenderSpec {
        release: "sim".into(),
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
        quality: Quality::Balanced,
        steps: 3,
        guidance: 1.5,
        seed,
        samples,
        format: Format::Png,
        scene: None,
    }
}

async fn start_scheduler(
    store: &Arc<SqliteStore>,
    blobs: &Arc<MemoryBlobs>,
    transport: &Arc<Faulty<InProcess>>,
    clock: &Arc<ManualClock>,
    ids: &Arc<SeededIds>,
) -> SchedulerProcess {
    let provenance = Provenance::development(&**store, &**clock).await;
    let parts = Parts {
        store: store.clone(),
        blobs: blobs.clone(),
        directory: None,
        transport: transport.clone(),
        catalog: Catalog::new(&[]),
        clock: clock.clone(),
        ids: ids.clone(),
        provenance: Arc::new(provenance.expect("the store keeps it")),
    };
    let config = Config {
        public_url: "http://simulated".into(),
        allow_private_webhooks: false,
        pool: "cpu".into(),
        proxies: 0,
    };
    SchedulerProcess {
        app: App::new(parts, config),
        calls: transport.serve_calls().await.expect("the transport is open"),
        events: transport.consume_events(8).await.expect("the transport is open"),
    }
}
