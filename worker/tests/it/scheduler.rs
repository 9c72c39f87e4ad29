//! A scheduler that answers as the test says, and the worker under test beside it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use kraftr_models::{Registry, bundled};
use kraftr_protocol::message::{
    Control, Grant, Heartbeat, Input, Job, LeaseVerdict, Link, NotGranted, Reply, Request, Signing,
};
use kraftr_protocol::{
    AssetId, Category, Class, Digest, Epoch, Event, EventBody, Format, GarmentPhoto, Lane, Progress,
    ProgressBody, Quality, RenderId, RenderSpec, Timestamp, WatermarkRef, WorkerId,
};
use kraftr_provenance::KeyRing;
use kraftr_provenance::credentials::{Authority, check_claim};
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_transport::{BoxSource, Transport};
use kraftr_worker::{Worker, WorkerConfig, WorkerError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::objects::Objects;

pub(crate) const POOL: &str = "test";
pub(crate) const NOOP: &str = "noop";
pub(crate) const TRY_ON: &str = "demo-tryon";
/// When everything was granted.
pub(crate) const NOW: Timestamp = Timestamp(1_795_680_000_000_000);
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

pub(crate) fn worker_id() -> WorkerId {
    WorkerId(Uuid::from_u128(7))
}

/// What the scheduler answers from now on.
pub(crate) struct Script {
    /// What a claim of a render gets; the epoch is counted up at every grant.
    pub(crate) grants: BTreeMap<RenderId, Grant>,
    /// What a heartbeat says of a render; otherwise it is renewed.
    pub(crate) verdicts: BTreeMap<RenderId, LeaseVerdict>,
    /// What signs.
    pub(crate) authority: Authority,
    /// Signatures are refused for good.
    pub(crate) refuse_signatures: bool,
    /// Uploads are refused.
    pub(crate) fence_uploads: bool,
    /// Calls are dropped.
    pub(crate) silent: bool,
    /// So many calls are told to ask again.
    pub(crate) unavailable: u32,
}

pub(crate) struct Fleet {
    pub(crate) transport: InProcess,
    pub(crate) objects: Objects,
    pub(crate) script: Arc<Mutex<Script>>,
    requests: mpsc::UnboundedReceiver<Request>,
    events: mpsc::UnboundedReceiver<Event>,
    progress: BoxSource<Progress>,
    shutdown: CancellationToken,
    worker: Option<JoinHandle<Result<(), WorkerError>>>,
    /// What the worker was told to take jobs for.
    releases: Vec<String>,
}

pub(crate) fn config() -> WorkerConfig {
    WorkerConfig {
        slots: 1,
        releases: vec![NOOP.to_owned(), TRY_ON.to_owned()],
        preview_every: 0,
        heartbeat_every: Duration::from_millis(25),
        ..WorkerConfig::new(worker_id(), POOL)
    }
}

impl Fleet {
    pub(crate) async fn start(config: WorkerConfig) -> Self {
        Self::start_with(Registry::bundled(), config).await
    }

    /// A worker that has other releases.
    pub(crate) async fn start_with(registry: Registry, config: WorkerConfig) -> Self {
        let transport = InProcess::new(Bounds { call_timeout: None, ..Bounds::default() });
        let objects = Objects::start().await;
        objects.put("/person", bundled::SAMPLE_PERSON);
        objects.put("/garment", bundled::SAMPLE_GARMENT);
        let script = Arc::new(Mutex::new(Script {
            grants: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            authority: Authority::make(NOW.0 / 1_000_000).unwrap(),
            refuse_signatures: false,
            fence_uploads: false,
            silent: false,
            unavailable: 0,
        }));
        let (requests_out, requests) = mpsc::unbounded_channel();
        tokio::spawn(serve(transport.clone(), objects.clone(), Arc::clone(&script), requests_out));
        let (events_out, events) = mpsc::unbounded_channel();
        tokio::spawn(sink(transport.clone(), events_out));
        let progress = transport.consume_progress().await.unwrap();
        let releases = config.releases.clone();
        let keys = KeyRing::development();
        let worker = Worker::new(config, Arc::new(transport.clone()), Arc::new(registry), keys).unwrap();
        let shutdown = CancellationToken::new();
        let worker = Some(tokio::spawn(worker.run(shutdown.clone())));
        Self { transport, objects, script, requests, events, progress, shutdown, worker, releases }
    }

    /// A grant for render `n` of `release`, to be changed before it is submitted.
    pub(crate) fn grant(&self, n: u128, release: &str, steps: u32) -> Grant {
        let input = |path: &str, bytes: &[u8]| Input {
            asset: AssetId(Uuid::from_u128(n)),
            sha256: Digest::of(bytes),
            link: Link { url: self.objects.url(path), headers: vec![("x-of".into(), format!("{n}"))] },
        };
        Grant {
            render: RenderId(Uuid::from_u128(n)),
            attempt: 1,
            epoch: Epoch(0),
            spec: RenderSpec {
                release: release.to_owned(),
                category: Category::Tops,
                garment_photo: GarmentPhoto::FlatLay,
                quality: Quality::Balanced,
                steps,
                guidance: 1.0,
                seed: 11,
                samples: 1,
                format: Format::Png,
                scene: None,
            },
            class: Class::Interactive,
            person: input("/person", bundled::SAMPLE_PERSON),
            garment: input("/garment", bundled::SAMPLE_GARMENT),
            watermark: WatermarkRef(*b"kraftr!!"),
            signing: Signing { chain: self.script.lock().unwrap().authority.chain.clone(), at: NOW },
            lease_ms: 60_000,
            time_limit_ms: 600_000,
        }
    }

    /// Makes the scheduler grant this and sends the job message.
    pub(crate) async fn submit(&self, grant: Grant) {
        let job = Job { render: grant.render, attempt: grant.attempt };
        let lane = lane(&grant.spec.runs_on(), grant.class);
        self.script.lock().unwrap().grants.insert(grant.render, grant);
        self.transport.publish_job(&lane, job).await.unwrap();
    }

    /// From now on heartbeats say this of the render.
    pub(crate) fn verdict(&self, render: RenderId, verdict: LeaseVerdict) {
        self.script(|script| {
            script.verdicts.insert(render, verdict);
        });
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub(crate) async fn event(&mut self) -> Event {
        within("an event", self.events.recv()).await.unwrap()
    }

    /// Events that have come and nobody has looked at.
    pub(crate) fn other_events(&mut self) -> Vec<EventBody> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| event.body).collect()
    }

    pub(crate) async fn progress(&mut self) -> Progress {
        within("progress", self.progress.next()).await.unwrap()
    }

    /// Waits until a render has done a step in the engine.
    pub(crate) async fn first_step(&mut self) {
        self.step_after(0).await;
    }

    /// Waits until a render has done more than so many steps in the engine.
    pub(crate) async fn step_after(&mut self, steps: u32) {
        while !matches!(self.progress().await.body, ProgressBody::Step { step, .. } if step > steps) {}
    }

    /// Progress that has come and nobody has looked at.
    pub(crate) fn other_progress(&mut self) -> Vec<Progress> {
        std::iter::from_fn(|| self.progress.next().now_or_never().flatten()).collect()
    }

    /// The next request that `wanted` takes something from.
    pub(crate) async fn request<T>(&mut self, what: &str, wanted: impl Fn(Request) -> Option<T>) -> T {
        let search = async {
            loop {
                let request = self.requests.recv().await.unwrap();
                if let Some(found) = wanted(request) {
                    return found;
                }
            }
        };
        within(what, search).await
    }

    pub(crate) async fn heartbeat(&mut self, what: &str, wanted: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
        self.request(what, |request| match request {
            Request::Heartbeat(heartbeat) if wanted(&heartbeat) => Some(heartbeat),
            _ => None,
        })
        .await
    }

    pub(crate) async fn claim(&mut self) -> Job {
        self.request("a claim", |request| match request {
            Request::Claim { job, .. } => Some(job),
            _ => None,
        })
        .await
    }

    /// Claims that have come and nobody has looked at.
    pub(crate) fn other_claims(&mut self) -> usize {
        std::iter::from_fn(|| self.requests.try_recv().ok())
            .filter(|request| matches!(request, Request::Claim { .. }))
            .count()
    }

    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn tell(&self, control: Control) {
        self.transport.publish_control(control);
    }

    /// Waits until the worker has ended.
    pub(crate) async fn ended(&mut self) -> Result<(), WorkerError> {
        let worker = self.worker.take().expect("it ends once");
        within("the worker's end", worker).await.unwrap()
    }

    /// Stops the worker if it still runs and says which jobs it has left in its lanes, redelivered or not.
    pub(crate) async fn jobs_left(&mut self) -> Vec<(Job, bool)> {
        self.ask_to_stop();
        if self.worker.is_some() {
            self.ended().await.unwrap();
        }
        let lanes: Vec<Lane> =
            self.releases.iter().flat_map(|release| Class::ALL.map(|class| lane(release, class))).collect();
        let mut rest = self.transport.consume_jobs(&lanes, 100).await.unwrap();
        let mut left = Vec::new();
        while let Some(delivery) = rest.next().now_or_never().flatten() {
            left.push((delivery.body, delivery.redelivered));
            delivery.ack();
        }
        left
    }
}

pub(crate) fn lane(release: &str, class: Class) -> Lane {
    Lane { pool: POOL.to_owned(), release: release.to_owned(), class }
}

async fn sink(transport: InProcess, events: mpsc::UnboundedSender<Event>) {
    let mut source = transport.consume_events(16).await.unwrap();
    while let Some(delivery) = source.next().await {
        if events.send(delivery.body.clone()).is_err() {
            return;
        }
        delivery.ack();
    }
}

async fn serve(
    transport: InProcess,
    objects: Objects,
    script: Arc<Mutex<Script>>,
    requests: mpsc::UnboundedSender<Request>,
) {
    let mut calls = transport.serve_calls().await.unwrap();
    while let Some(call) = calls.next().await {
        let reply = reply(&mut script.lock().unwrap(), &objects, &call.request);
        if requests.send(call.request.clone()).is_err() {
            return;
        }
        if let Some(reply) = reply {
            call.answer(reply);
        }
    }
}

fn reply(script: &mut Script, objects: &Objects, request: &Request) -> Option<Reply> {
    if script.silent {
        return None;
    }
    if script.unavailable > 0 {
        script.unavailable -= 1;
        return Some(Reply::Unavailable { message: "try again".to_owned() });
    }
    Some(match request {
        Request::Claim { job, .. } => match script.grants.get_mut(&job.render) {
            Some(grant) => {
                grant.epoch.0 += 1;
                Reply::Granted(Box::new(grant.clone()))
            }
            None => Reply::NotGranted { reason: NotGranted::NotWanted },
        },
        Request::Heartbeat(heartbeat) => {
            let verdict = |render| script.verdicts.get(render).copied().unwrap_or(LeaseVerdict::Renewed);
            Reply::Leases { verdicts: heartbeat.held.iter().map(|held| verdict(&held.render)).collect() }
        }
        Request::Sign(_) if script.refuse_signatures => Reply::NotSigned { reason: "not ours".to_owned() },
        Request::Sign(sign) => {
            let (chain, key) = script.authority.signer().unwrap();
            check_claim(&sign.message, &chain).unwrap();
            Reply::Signed { signature: key.sign(&sign.message).0.to_vec() }
        }
        Request::Upload(_) if script.fence_uploads => Reply::Fenced,
        Request::Upload(upload) => {
            let path = artifact(upload.held.render, upload.held.epoch, upload.sample);
            let headers = vec![
                ("content-type".to_owned(), upload.content_type.clone()),
                ("x-amz-checksum-sha256".to_owned(), upload.sha256.to_string()),
            ];
            Reply::UploadTo(Link { url: objects.url(&path), headers })
        }
    })
}

/// Where an artifact is put.
pub(crate) fn artifact(render: RenderId, epoch: Epoch, sample: u32) -> String {
    format!("/artifacts/{render}/{epoch}/{sample}")
}
