//! Random operations against the store; after each one every invariant of the ledger must hold, and
//! the balance must be what a model of a few lines says. The model shares no code with the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kraftr_protocol::message::{Heartbeat, Job};
use kraftr_protocol::{
    ArtifactReport, AssetId, Category, Class, Credits, Digest, Epoch, Event, EventBody, Failure, FailureCode,
    Format, GarmentPhoto, GpuMillis, Lane, OrgId, Quality, RenderId, RenderSpec, Timestamp, WorkerId,
};
use kraftr_scheduler::clock::{ManualClock, SeededIds};
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{CancelOutcome, ClaimOutcome, NewAsset, NewRender, Store, Topic};
use proptest::prelude::*;
use uuid::Uuid;

/// What a random run does. Numbers pick among what is there, modulo its count.
#[derive(Debug, Clone)]
enum Op {
    Grant { amount: i64, reference: u8 },
    Submit { samples: u32 },
    Dispatch,
    Claim { job: usize },
    Succeed { claim: usize, delivered: u32 },
    Fail { claim: usize, retryable: bool },
    HandBack { claim: usize },
    Crash { claim: usize },
    Cancel { render: usize },
    Advance { seconds: u64 },
    Reap,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..20i64, 0..6u8).prop_map(|(amount, reference)| Op::Grant { amount, reference }),
        4 => (1..=4u32).prop_map(|samples| Op::Submit { samples }),
        4 => Just(Op::Dispatch),
        5 => any::<usize>().prop_map(|job| Op::Claim { job }),
        4 => (any::<usize>(), 1..=4u32).prop_map(|(claim, delivered)| Op::Succeed { claim, delivered }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(claim, retryable)| Op::Fail { claim, retryable }),
        1 => any::<usize>().prop_map(|claim| Op::HandBack { claim }),
        1 => any::<usize>().prop_map(|claim| Op::Crash { claim }),
        2 => any::<usize>().prop_map(|render| Op::Cancel { render }),
        2 => prop_oneof![Just(1u64), Just(16), Just(61), Just(90_000)].prop_map(|seconds| Op::Advance { seconds }),
        2 => Just(Op::Reap),
        1 => Just(Op::Restart),
    ]
}

const PRICE: i64 = 3;

struct Run {
    store: SqliteStore,
    clock: Arc<ManualClock>,
    org: OrgId,
    assets: [AssetId; 2],
    renders: Vec<(RenderId, u32)>,
    jobs: Vec<Job>,
    claims: Vec<(Job, Epoch)>,
    references: HashMap<u8, i64>,
    spent: i64,
}

impl Run {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
        let store = SqliteStore::in_memory(clock.clone(), Arc::new(SeededIds::new(1))).await.unwrap();
        let org = store.create_org("properties").await.unwrap().id;
        let mut assets = [AssetId(Uuid::nil()); 2];
        for (n, id) in assets.iter_mut().enumerate() {
            *id = AssetId(Uuid::from_u128(n as u128 + 1));
            let asset = NewAsset {
                id: *id,
                org,
                object_key: format!("assets/{n}"),
                sha256: Digest::of(&[n as u8]),
                content_type: "image/png".into(),
                width: 64,
                height: 64,
                bytes: 1,
            };
            store.insert_asset(&asset, None).await.unwrap();
        }
        let (renders, jobs, claims) = (Vec::new(), Vec::new(), Vec::new());
        Self { store, clock, org, assets, renders, jobs, claims, references: HashMap::new(), spent: 0 }
    }

    async fn perform(&mut self, op: Op) {
        match op {
            Op::Grant { amount, reference } => {
                let fresh =
                    self.store.grant(self.org, Credits(amount), &reference.to_string()).await.unwrap();
                assert_eq!(fresh, !self.references.contains_key(&reference));
                self.references.entry(reference).or_insert(amount);
            }
            Op::Submit { samples } => self.submit(samples).await,
            Op::Dispatch => self.dispatch().await,
            Op::Claim { job } => {
                let Some(&job) = pick(&self.jobs, job) else { return };
                let outcome =
                    self.store.grant_claims(&[(job, WorkerId(Uuid::from_u128(1)))]).await.unwrap().remove(0);
                if let ClaimOutcome::Granted(claimed) = outcome {
                    self.claims.push((job, claimed.render.epoch));
                }
            }
            Op::Succeed { claim, delivered } => self.succeed(claim, delivered).await,
            Op::Fail { claim, retryable } => {
                let code = if retryable { FailureCode::ModelError } else { FailureCode::InputInvalid };
                self.report(claim, EventBody::Failed { failure: Failure::new(code, "by chance") }).await;
            }
            Op::HandBack { claim } => self.report(claim, EventBody::HandedBack).await,
            Op::Crash { claim } => self.report(claim, EventBody::EngineCrashed).await,
            Op::Cancel { render } => {
                let Some(&(render, _)) = pick(&self.renders, render) else { return };
                let outcome = self.store.cancel_render(self.org, render).await.unwrap();
                assert_ne!(outcome, CancelOutcome::NotFound);
            }
            Op::Advance { seconds } => self.clock.advance(Duration::from_secs(seconds)),
            Op::Reap => drop(self.store.reap().await.unwrap()),
            Op::Restart => drop(self.store.requeue_in_flight().await.unwrap()),
        }
    }

    async fn submit(&mut self, samples: u32) {
        let before = self.store.balance(self.org).await.unwrap();
        let price = PRICE * i64::from(samples);
        let new = NewRender {
            org: self.org,
            ticket: None,
            model: "m".into(),
            spec: RenderSpec {
                release: "r".into(),
                category: Category::Tops,
                garment_photo: GarmentPhoto::FlatLay,
                quality: Quality::Fast,
                steps: 1,
                guidance: 1.0,
                seed: 0,
                samples,
                format: Format::Png,
                scene: None,
            },
            pool: "p".into(),
            class: Class::Interactive,
            person: self.assets[0],
            garment: self.assets[1],
            price: Credits(price),
            estimate: GpuMillis(1),
            webhook: None,
            metadata: None,
        };
        let outcome = self.store.submit_renders(&[new], None).await.unwrap().remove(0);
        assert_eq!(
            outcome.is_ok(),
            before.posted.0 - before.held.0 >= price,
            "402 exactly when it is not covered"
        );
        self.renders.extend(outcome.ok().map(|render| (render.id, samples)));
    }

    async fn dispatch(&mut self) {
        let lane = Lane { pool: "p".into(), release: "r".into(), class: Class::Interactive };
        let heartbeat =
            Heartbeat { worker: WorkerId(Uuid::from_u128(1)), lanes: vec![lane], slots: 2, held: Vec::new() };
        self.store.renew_leases(&heartbeat).await.unwrap();
        let term = self.store.lead(Uuid::from_u128(1)).await.unwrap().expect("nobody else leads");
        self.store.dispatch(term).await.unwrap();
        let rows = self.store.outbox(1_000).await.unwrap();
        self.store.settle_outbox(&rows.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
        self.jobs.extend(rows.into_iter().filter_map(|row| match row.topic {
            Topic::Job { job, .. } => Some(job),
            _ => None,
        }));
    }

    async fn succeed(&mut self, claim: usize, delivered: u32) {
        let Some(&(job, _)) = pick(&self.claims, claim) else { return };
        let samples = self.renders.iter().find(|(id, _)| *id == job.render).unwrap().1;
        let artifacts = (0..delivered.min(samples)).map(|sample| ArtifactReport {
            sample,
            sha256: Digest::of(b"picture"),
            bytes: 7,
            width: 64,
            height: 64,
            content_type: "image/png".into(),
        });
        let before = self.store.render(self.org, job.render).await.unwrap().unwrap();
        let body = EventBody::Succeeded { artifacts: artifacts.collect(), device_time: GpuMillis(1) };
        self.report(claim, body).await;
        let after = self.store.render(self.org, job.render).await.unwrap().unwrap();
        if after.status.as_str() == "succeeded" && before.status.as_str() != "succeeded" {
            self.spent += PRICE * i64::from(delivered.min(samples));
        }
    }

    async fn report(&mut self, claim: usize, body: EventBody) {
        let Some(&(job, epoch)) = pick(&self.claims, claim) else { return };
        let worker = WorkerId(Uuid::from_u128(1));
        let event = Event { render: job.render, attempt: job.attempt, epoch, worker, body };
        self.store.apply_events(&[event]).await.unwrap();
    }

    async fn check(&self) {
        let audit = self.store.audit().await.unwrap();
        assert!(audit.ok(), "{:#?}", audit.violations);
        let balance = self.store.balance(self.org).await.unwrap();
        let mut held = 0;
        for (id, samples) in &self.renders {
            let render = self.store.render(self.org, *id).await.unwrap().unwrap();
            let live = matches!(render.status.as_str(), "queued" | "dispatched" | "running");
            held += if live { PRICE * i64::from(*samples) } else { 0 };
        }
        assert_eq!(balance.posted.0, self.references.values().sum::<i64>() - self.spent);
        assert_eq!(balance.held.0, held);
    }
}

fn pick<T>(from: &[T], n: usize) -> Option<&T> {
    if from.is_empty() { None } else { from.get(n % from.len()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_after_every_operation(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            run.perform(Op::Grant { amount: 40, reference: 99 }).await;
            for op in ops {
                run.perform(op).await;
                run.check().await;
            }
        });
    }
}
