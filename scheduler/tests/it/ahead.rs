//! Jobs that go out beside their commit: once each, and a claim that comes before the commit waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use kraftr_protocol::message::{Heartbeat, Job, NotGranted, Reply, Request};
use kraftr_protocol::{
    AssetId, Category, Class, Credits, Digest, Format, GarmentPhoto, GpuMillis, Lane, OrgId, Quality,
    RenderId, RenderSpec, Timestamp, WorkerId,
};
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{ManualClock, SeededIds};
use kraftr_scheduler::provenance::Provenance;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{NewAsset, NewRender, Store};
use kraftr_scheduler::{Config, Parts, Scheduler, claims};
use kraftr_transport::Transport;
use kraftr_transport::in_process::{Bounds, InProcess};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
const WORKER: WorkerId = WorkerId(Uuid::from_u128(1));

fn lane() -> Lane {
    Lane { pool: "p".into(), release: "r".into(), class: Class::Interactive }
}

struct Stage {
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    scheduler: Scheduler,
    org: OrgId,
    assets: [AssetId; 2],
    _folder: TempDir,
}

impl Stage {
    /// The same ids each time, as long as the same happens in the same order.
    async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
        let ids = Arc::new(SeededIds::new(1));
        let store = SqliteStore::in_memory(clock.clone(), ids.clone()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let org = store.create_org("ahead").await.unwrap().id;
        store.grant(org, Credits(10), "welcome").await.unwrap();
        let assets = [1, 2].map(|n| AssetId(Uuid::from_u128(n)));
        for id in assets {
            let asset = NewAsset {
                id,
                org,
                object_key: format!("assets/{}", id.0),
                sha256: Digest::of(id.0.as_bytes()),
                content_type: "image/png".into(),
                width: 64,
                height: 64,
                bytes: 1,
            };
            store.insert_asset(&asset, None).await.unwrap();
        }
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new(Bounds::default()));
        let public_url = "http://ahead.invalid".to_owned();
        let blobs =
            DirectoryBlobs::new(folder.path().join("objects"), public_url.clone(), [9; 32], clock.clone());
        let parts = Parts {
            store: store.clone(),
            blobs: Arc::new(blobs.unwrap()),
            directory: None,
            transport: transport.clone(),
            catalog: Catalog::default(),
            provenance: Arc::new(Provenance::development(&*store, &*clock).await.unwrap()),
            clock,
            ids,
        };
        let config = Config { public_url, allow_private_webhooks: false, pool: lane().pool, proxies: 0 };
        let scheduler = Scheduler::new(parts, config);
        Self { store, transport, scheduler, org, assets, _folder: folder }
    }

    fn render(&self) -> NewRender {
        NewRender {
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
                samples: 1,
                format: Format::Png,
                scene: None,
            },
            pool: lane().pool,
            class: Class::Interactive,
            person: self.assets[0],
            garment: self.assets[1],
            price: Credits(1),
            estimate: GpuMillis(1),
            webhook: None,
            metadata: None,
        }
    }

    /// Leads, and submits one that is dispatched at once.
    async fn submit(&self) -> RenderId {
        self.store.renew_leases(&heartbeat()).await.unwrap();
        let term = self.store.lead(Uuid::from_u128(1)).await.unwrap().expect("nobody else leads");
        let outcome = self.store.submit_renders(&[self.render()], Some(term.into())).await.unwrap().remove(0);
        outcome.unwrap().id
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat { worker: WORKER, lanes: vec![lane()], slots: 4, held: Vec::new() }
}

fn claim(render: RenderId) -> Request {
    Request::Claim { job: Job { render, attempt: 1 }, worker: WORKER }
}

#[tokio::test]
async fn a_claim_waits_for_its_commit_and_not_for_ever() {
    let twin = Stage::set().await;
    let id = twin.submit().await;
    let stage = Stage::set().await;
    let (app, shutdown) = (Arc::clone(stage.scheduler.app()), CancellationToken::new());
    let stop = shutdown.clone();
    let answering = tokio::spawn(async move { claims::run(&app, stop).await });
    let transport = Arc::clone(&stage.transport);
    let early = tokio::spawn(async move { transport.call(claim(id)).await });
    let never = RenderId(Uuid::from_u128(7));
    let transport = Arc::clone(&stage.transport);
    let never = tokio::spawn(async move { transport.call(claim(never)).await });
    // Both have been looked for once this is answered, since calls are answered in their order.
    stage.transport.call(Request::Heartbeat(heartbeat())).await.unwrap();
    assert!(!early.is_finished() && !never.is_finished());
    assert_eq!(stage.submit().await, id, "the twin foretells the id");
    let Reply::Granted(grant) = early.await.unwrap().unwrap() else { panic!("the render is there now") };
    assert_eq!(grant.render, id);
    let refused = tokio::time::timeout(PATIENCE, never).await.expect("it does not wait for ever");
    assert_eq!(refused.unwrap().unwrap(), Reply::NotGranted { reason: NotGranted::NotWanted });
    shutdown.cancel();
    answering.await.unwrap();
}

#[tokio::test]
async fn a_job_goes_out_once_and_its_outbox_row_is_settled() {
    let stage = Stage::set().await;
    let new = stage.render();
    let Stage { store, transport, scheduler, _folder, .. } = stage;
    let app = Arc::clone(scheduler.app());
    let (listener, shutdown) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), CancellationToken::new());
    let running = tokio::spawn(scheduler.run(listener, shutdown.clone()));
    app.leadership.leading().await;
    transport.call(Request::Heartbeat(heartbeat())).await.unwrap();
    let mut jobs = transport.consume_jobs(&[lane()], 10).await.unwrap();
    let (mut submitted, mut delivered) = (BTreeSet::new(), Vec::new());
    for _ in 0..5 {
        let render = app.submit(new.clone()).await.unwrap().unwrap();
        submitted.insert(render.id);
        let delivery = tokio::time::timeout(PATIENCE, jobs.next()).await.expect("its job comes").unwrap();
        delivered.push(delivery.body.render);
        delivery.ack();
    }
    let settled = async {
        while !store.outbox(10).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("the outbox is settled");
    assert_eq!(delivered.len(), submitted.len());
    assert_eq!(delivered.into_iter().collect::<BTreeSet<_>>(), submitted);
    assert!(jobs.next().now_or_never().is_none(), "none goes out twice");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
