//! The suite that every [`Store`] passes: one public function for each promise.
//!
//! Each function wants a fresh, empty store and ends with an audit that must find nothing.

use std::sync::Arc;
use std::time::Duration;

use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, NotGranted, UploadRequest};
use kraftr_protocol::{
    ArtifactReport, AssetId, Category, Class, Credits, Digest, Epoch, Event, EventBody, Failure, FailureCode,
    Format, GarmentPhoto, GpuMillis, Lane, OrgId, Quality, RenderId, RenderSpec, Status, WorkerId, limits,
};
use uuid::Uuid;

use super::{
    Applied, AtOnce, Balance, CancelOutcome, ClaimOutcome, DeleteOutcome, DiscardOutcome, Idempotency,
    NewAsset, NewRender, Notice, Page, Render, ReplayOutcome, Resource, Store, SubmitError, Term, Ticket,
    Topic,
};

mod delivery;
mod dispatching;
mod library;
mod money;

pub use delivery::*;
pub use dispatching::*;
pub use library::*;
pub use money::*;

/// A store under test and the means to move its clock.
pub struct Bench {
    /// The store, empty.
    pub store: Arc<dyn Store>,
    /// Moves the clock that the store's leases count by.
    pub advance: Box<dyn Fn(Duration) + Send + Sync>,
}

const RELEASE: &str = "suite";
const POOL: &str = "cpu";
const REPLICA: Uuid = Uuid::from_u128(1);

fn lane(class: Class) -> Lane {
    Lane { pool: POOL.into(), release: RELEASE.into(), class }
}

fn worker(n: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(n))
}

fn everything() -> Page {
    Page { limit: limits::PAGE_MAX, before: None }
}

/// An org with credits and two assets.
struct Tenant {
    org: OrgId,
    person: AssetId,
    garment: AssetId,
}

impl Bench {
    async fn tenant(&self, credits: i64) -> Tenant {
        let org = self.store.create_org("suite").await.expect("store").id;
        if credits > 0 {
            assert!(self.store.grant(org, Credits(credits), "opening").await.expect("store"));
        }
        let person = self.asset(org, b"person").await;
        let garment = self.asset(org, b"garment").await;
        Tenant { org, person, garment }
    }

    async fn asset(&self, org: OrgId, content: &[u8]) -> AssetId {
        self.store.insert_asset(&new_asset(org, content), None).await.expect("store").id
    }

    async fn submit(&self, tenant: &Tenant, samples: u32) -> Render {
        let outcome =
            self.store.submit_renders(&[new_render(tenant, samples)], None).await.expect("store").remove(0);
        outcome.expect("the tenant has the credits")
    }

    async fn announce(&self, worker: WorkerId, slots: u32, held: Vec<Held>) -> Vec<LeaseVerdict> {
        let lanes = Class::ALL.map(lane).to_vec();
        self.store.renew_leases(&Heartbeat { worker, lanes, slots, held }).await.expect("store")
    }

    /// The jobs that wait in the outbox, which is emptied.
    async fn jobs(&self) -> Vec<(Lane, Job)> {
        let rows = self.store.outbox(1_000).await.expect("store");
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        self.store.settle_outbox(&ids).await.expect("store");
        rows.into_iter()
            .filter_map(|row| match row.topic {
                Topic::Job { lane, job } => Some((lane, job)),
                _ => None,
            })
            .collect()
    }

    async fn lead(&self) -> Term {
        self.store.lead(REPLICA).await.expect("store").expect("nobody else leads")
    }

    /// Leads and dispatches; says how many.
    async fn dispatch(&self) -> u32 {
        let term = self.lead().await;
        self.store.dispatch(term).await.expect("store").expect("the term has just begun")
    }

    async fn claim(&self, job: Job, worker: WorkerId) -> ClaimOutcome {
        self.store.grant_claims(&[(job, worker)]).await.expect("store").remove(0)
    }

    /// Dispatches the only waiting render and claims it for worker 1.
    async fn run(&self, render: RenderId) -> (Job, Epoch) {
        self.announce(worker(1), 4, Vec::new()).await;
        self.dispatch().await;
        let jobs = self.jobs().await;
        let job =
            jobs.iter().map(|(_, job)| *job).rfind(|job| job.render == render).expect("it was dispatched");
        (job, self.granted(job).await)
    }

    /// Claims the job for worker 1.
    async fn granted(&self, job: Job) -> Epoch {
        match self.claim(job, worker(1)).await {
            ClaimOutcome::Granted(claimed) => claimed.render.epoch,
            refused @ (ClaimOutcome::NotGranted(_) | ClaimOutcome::NotThere) => panic!("{refused:?}"),
        }
    }

    /// Claims the job for worker 1 and delivers.
    async fn deliver(&self, job: Job) {
        let epoch = self.granted(job).await;
        assert_eq!(self.report(job, epoch, delivered(1)).await, Applied::Changed(Status::Succeeded));
    }

    async fn report(&self, job: Job, epoch: Epoch, body: EventBody) -> Applied {
        let event = Event { render: job.render, attempt: job.attempt, epoch, worker: worker(1), body };
        self.store.apply_events(&[event]).await.expect("store").remove(0)
    }

    async fn status(&self, tenant: &Tenant, render: RenderId) -> Status {
        self.store.render(tenant.org, render).await.expect("store").expect("it is there").status
    }

    async fn balance(&self, tenant: &Tenant) -> (i64, i64) {
        let Balance { posted, held } = self.store.balance(tenant.org).await.expect("store");
        (posted.0, held.0)
    }

    async fn audit(&self) {
        let audit = self.store.audit().await.expect("store");
        assert!(audit.ok(), "{:#?}", audit.violations);
    }
}

fn new_asset(org: OrgId, content: &[u8]) -> NewAsset {
    let sha256 = Digest::of(content);
    let mut bits = [0; 16];
    bits.copy_from_slice(&Digest::of(&[&org.0.as_bytes()[..], content].concat()).0[..16]);
    let id = AssetId(Uuid::from_bytes(bits));
    NewAsset {
        id,
        org,
        object_key: format!("assets/{org}/{id}.png"),
        sha256,
        content_type: "image/png".into(),
        width: 64,
        height: 64,
        bytes: 1,
    }
}

fn spec(samples: u32) -> RenderSpec {
    RenderSpec {
        release: RELEASE.into(),
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
        quality: Quality::Balanced,
        steps: 4,
        guidance: 1.5,
        seed: 1,
        samples,
        format: Format::Png,
        scene: None,
    }
}

/// A render of two credits an image.
fn new_render(tenant: &Tenant, samples: u32) -> NewRender {
    NewRender {
        org: tenant.org,
        ticket: None,
        model: "suite".into(),
        spec: spec(samples),
        pool: POOL.into(),
        class: Class::Interactive,
        person: tenant.person,
        garment: tenant.garment,
        price: Credits(2 * i64::from(samples)),
        estimate: GpuMillis(1),
        webhook: None,
        metadata: None,
    }
}

fn artifact(sample: u32) -> ArtifactReport {
    ArtifactReport {
        sample,
        sha256: Digest::of(&sample.to_be_bytes()),
        bytes: 10,
        width: 64,
        height: 64,
        content_type: "image/png".into(),
    }
}

fn delivered(samples: u32) -> EventBody {
    EventBody::Succeeded { artifacts: (0..samples).map(artifact).collect(), device_time: GpuMillis(5) }
}

fn failed(code: FailureCode) -> EventBody {
    EventBody::Failed { failure: Failure::new(code, "said the suite") }
}
