//! A worker that follows the protocol message by message, one small action at a time.
//!
//! It does what a real worker does on the wire (claim, heartbeat, upload, report, acknowledge) and
//! fails as real ones do. What it "renders" is decided by the render's [`Destiny`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use kraftr_protocol::message::{
    Control, Grant, Heartbeat, Held, Job, LeaseVerdict, Reply, Request, UploadRequest,
};
use kraftr_protocol::{
    ArtifactReport, Digest, Event, EventBody, Failure, FailureCode, GpuMillis, Lane, Progress, ProgressBody,
    Timestamp, WorkerId, limits,
};
use kraftr_transport::{BoxSource, Delivery, Transport, TransportError};
use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

use crate::blobs::MemoryBlobs;
use crate::faults::Weather;
use crate::workload::Destiny;

type PendingCall = Pin<Box<dyn Future<Output = Result<Reply, TransportError>>>>;

/// What a worker reaches of the world.
pub(crate) struct Surroundings<'w> {
    pub(crate) transport: &'w Arc<dyn Transport>,
    pub(crate) blobs: &'w MemoryBlobs,
    pub(crate) weather: &'w Weather,
    pub(crate) rng: &'w mut ChaCha8Rng,
    pub(crate) now: Timestamp,
}

impl Surroundings<'_> {
    fn call(&self, request: Request) -> PendingCall {
        let transport = Arc::clone(self.transport);
        async move { transport.call(request).await }.boxed_local()
    }
}

enum Stage {
    Claiming { call: PendingCall, asked_at: Timestamp, tries: u32 },
    Denoising { step: u32 },
    Asking { call: PendingCall, report: ArtifactReport },
    Reporting { body: EventBody },
}

struct Task {
    delivery: Delivery<Job>,
    grant: Option<Box<Grant>>,
    /// The claim is believed until then, by the worker's own clock.
    trust_until: Timestamp,
    cancelled: bool,
    uploaded: Vec<ArtifactReport>,
    stage: Stage,
}

/// What becomes of a task after an action.
enum Next {
    Keep,
    /// Acknowledge the job message.
    Done,
    /// Give the job message back.
    Drop,
}

/// One worker process.
pub(crate) struct SimWorker {
    pub(crate) id: WorkerId,
    lanes: Vec<Lane>,
    slots: usize,
    jobs: BoxSource<Delivery<Job>>,
    control: BoxSource<Control>,
    tasks: Vec<Task>,
    heartbeat: Option<(PendingCall, Timestamp, Vec<Held>)>,
    heartbeat_due: Timestamp,
    pub(crate) paused_until: Timestamp,
}

impl SimWorker {
    pub(crate) async fn start(
        id: WorkerId,
        lanes: Vec<Lane>,
        slots: usize,
        transport: &Arc<dyn Transport>,
    ) -> Self {
        Self {
            id,
            jobs: transport.consume_jobs(&lanes, slots + 1).await.expect("the transport is open"),
            control: transport.consume_control().await.expect("the transport is open"),
            lanes,
            slots,
            tasks: Vec::new(),
            heartbeat: None,
            heartbeat_due: Timestamp(0),
            paused_until: Timestamp(0),
        }
    }

    /// One small action.
    pub(crate) async fn step(&mut self, around: &mut Surroundings<'_>) {
        self.hear_control();
        self.beat(around);
        if self.tasks.len() < self.slots && around.rng.random_bool(0.5) {
            self.take_job(around);
        }
        if self.tasks.is_empty() {
            return;
        }
        let n = around.rng.random_range(0..self.tasks.len());
        let mut task = self.tasks.swap_remove(n);
        match advance(self.id, &mut task, around).await {
            Next::Keep => self.tasks.push(task),
            Next::Done => task.delivery.ack(),
            Next::Drop => drop(task),
        }
    }

    fn hear_control(&mut self) {
        while let Some(Some(control)) = self.control.next().now_or_never() {
            if let Control::Cancel { render } = control {
                for task in self.tasks.iter_mut().filter(|task| task.delivery.body.render == render) {
                    task.cancelled = true;
                }
            }
        }
    }

    fn beat(&mut self, around: &Surroundings<'_>) {
        if let Some((call, asked_at, held)) = &mut self.heartbeat {
            if let Some(reply) = call.now_or_never() {
                let (asked_at, held) = (*asked_at, std::mem::take(held));
                self.heartbeat = None;
                if let Ok(Reply::Leases { verdicts }) = reply {
                    for (held, verdict) in held.into_iter().zip(verdicts) {
                        self.judge(held, verdict, asked_at);
                    }
                }
            } else if around.now > asked_at.plus(Duration::from_secs(5)) {
                self.heartbeat = None;
            }
        } else if around.now >= self.heartbeat_due {
            self.heartbeat_due = around.now.plus(limits::HEARTBEAT_EVERY);
            let held: Vec<Held> =
                self.tasks.iter().filter_map(|task| task.grant.as_deref().map(held)).collect();
            let heartbeat = Heartbeat {
                worker: self.id,
                lanes: self.lanes.clone(),
                slots: self.slots as u32,
                held: held.clone(),
            };
            self.heartbeat = Some((around.call(Request::Heartbeat(heartbeat)), around.now, held));
        }
    }

    fn judge(&mut self, claim: Held, verdict: LeaseVerdict, asked_at: Timestamp) {
        let Some(n) = self.tasks.iter().position(|task| task.grant.as_deref().map(held) == Some(claim))
        else {
            return;
        };
        match verdict {
            LeaseVerdict::Renewed => self.tasks[n].trust_until = asked_at.plus(limits::LEASE),
            LeaseVerdict::Cancel => self.tasks[n].cancelled = true,
            LeaseVerdict::Fenced => self.tasks.swap_remove(n).delivery.ack(),
        }
    }

    fn take_job(&mut self, around: &Surroundings<'_>) {
        let Some(Some(delivery)) = self.jobs.next().now_or_never() else { return };
        if self.tasks.iter().any(|task| task.delivery.body == delivery.body) {
            return delivery.ack();
        }
        let call = around.call(Request::Claim { job: delivery.body, worker: self.id });
        let stage = Stage::Claiming { call, asked_at: around.now, tries: 0 };
        let (uploaded, trust_until) = (Vec::new(), Timestamp(0));
        self.tasks.push(Task { delivery, grant: None, trust_until, cancelled: false, uploaded, stage });
    }
}

fn held(grant: &Grant) -> Held {
    Held { render: grant.render, epoch: grant.epoch }
}

async fn advance(worker: WorkerId, task: &mut Task, around: &mut Surroundings<'_>) -> Next {
    // A stopped process does not notice that its time is up: what it was about to send goes out all the same.
    let sloppy = around.rng.random_bool(0.2);
    if task.grant.is_some() && around.now > task.trust_until && !sloppy {
        return Next::Drop;
    }
    match &mut task.stage {
        Stage::Claiming { call, asked_at, tries } => match call.now_or_never() {
            Some(Ok(Reply::Granted(grant))) => {
                task.trust_until = asked_at.plus(Duration::from_millis(grant.lease_ms));
                task.grant = Some(grant);
                task.stage = Stage::Denoising { step: 0 };
                Next::Keep
            }
            Some(Ok(Reply::NotGranted { .. })) => Next::Done,
            None if around.now < asked_at.plus(Duration::from_secs(5)) => Next::Keep,
            _ if *tries >= 3 => Next::Drop,
            _ => {
                let (tries, job) = (*tries + 1, task.delivery.body);
                let call = around.call(Request::Claim { job, worker });
                task.stage = Stage::Claiming { call, asked_at: around.now, tries };
                Next::Keep
            }
        },
        Stage::Denoising { .. } => denoise(task, around),
        Stage::Asking { .. } => upload(task, around),
        Stage::Reporting { .. } => report(worker, task, around).await,
    }
}

fn denoise(task: &mut Task, around: &mut Surroundings<'_>) -> Next {
    let (Some(grant), Stage::Denoising { step }) = (&task.grant, &mut task.stage) else { return Next::Drop };
    let hand_back = around.rng.random_bool(0.01);
    if task.cancelled || hand_back {
        let body = if task.cancelled { EventBody::Cancelled { step: *step } } else { EventBody::HandedBack };
        task.stage = Stage::Reporting { body };
        return Next::Keep;
    }
    *step += 1;
    let (step, steps) = (*step, grant.spec.steps);
    let body = ProgressBody::Step { step, steps };
    around.transport.publish_progress(Progress { render: grant.render, epoch: grant.epoch, body });
    if step >= steps {
        let failed = |code| EventBody::Failed { failure: Failure::new(code, "it was its destiny") };
        match Destiny::of(grant.spec.seed) {
            Destiny::Whole | Destiny::Part => ask(task, around),
            Destiny::Permanent => task.stage = Stage::Reporting { body: failed(FailureCode::InputInvalid) },
            Destiny::Retryable => task.stage = Stage::Reporting { body: failed(FailureCode::ModelError) },
            Destiny::Crash => task.stage = Stage::Reporting { body: EventBody::EngineCrashed },
        }
    }
    Next::Keep
}

fn ask(task: &mut Task, around: &Surroundings<'_>) {
    let Some(grant) = &task.grant else { return };
    let sample = task.uploaded.len() as u32;
    let bytes = picture(grant, sample);
    let report = ArtifactReport {
        sample,
        sha256: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        width: 64,
        height: 64,
        content_type: grant.spec.format.content_type().to_owned(),
    };
    let request = UploadRequest {
        held: held(grant),
        sample,
        sha256: report.sha256,
        bytes: report.bytes,
        content_type: report.content_type.clone(),
    };
    task.stage = Stage::Asking { call: around.call(Request::Upload(request)), report };
}

fn picture(grant: &Grant, sample: u32) -> Bytes {
    format!("{} by epoch {}, image {sample}", grant.render, grant.epoch).into()
}

fn upload(task: &mut Task, around: &mut Surroundings<'_>) -> Next {
    let (Some(grant), Stage::Asking { call, report }) = (&task.grant, &mut task.stage) else {
        return Next::Drop;
    };
    match call.now_or_never() {
        None => Next::Keep,
        Some(Ok(Reply::Fenced)) => Next::Done,
        Some(Ok(Reply::UploadTo(link))) => {
            let arrives = !around.rng.random_bool(around.weather.upload);
            let answered = !around.rng.random_bool(around.weather.upload);
            if arrives {
                around.blobs.follow_put(&link, picture(grant, report.sample));
            }
            if arrives && answered {
                task.uploaded.push(report.clone());
            }
            let wanted = Destiny::of(grant.spec.seed).delivered(grant.spec.samples);
            if task.uploaded.len() as u32 == wanted {
                let artifacts = std::mem::take(&mut task.uploaded);
                task.stage =
                    Stage::Reporting { body: EventBody::Succeeded { artifacts, device_time: GpuMillis(1) } };
            } else {
                ask(task, around);
            }
            Next::Keep
        }
        Some(_) => {
            ask(task, around);
            Next::Keep
        }
    }
}

async fn report(worker: WorkerId, task: &mut Task, around: &Surroundings<'_>) -> Next {
    let (Some(grant), Stage::Reporting { body }) = (&task.grant, &task.stage) else { return Next::Drop };
    let event = Event {
        render: grant.render,
        attempt: grant.attempt,
        epoch: grant.epoch,
        worker,
        body: body.clone(),
    };
    match around.transport.publish_event(event).await {
        Ok(()) => Next::Done,
        Err(_) => Next::Keep,
    }
}
