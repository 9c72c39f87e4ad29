//! One render from its grant to its ending: fetch, prepare, denoise, mark and upload.
//!
//! Every stage can be interrupted by the lease, and the stages that take memory are bounded.

mod fetch;
mod finish;
mod prepare;
mod readings;
pub(crate) mod report;
mod sign;
mod upload;

pub(crate) use self::fetch::client;
use self::readings::Readings;

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use kraftr_models::{Description, Model, ModelError, Prepared, RgbImage, Sampling};
use kraftr_protocol::message::Grant;
use kraftr_protocol::spec::releases_of;
use kraftr_protocol::{
    ArtifactReport, Failure, FailureCode, GpuMillis, Progress, ProgressBody, ReleaseManifest, WorkerId,
};
use kraftr_provenance::KeyRing;
use kraftr_transport::Transport;
use tokio::sync::Semaphore;

use crate::engine::command::{Begin, Heard, Outcome, Report, Running, Scene};
use crate::engine::{EngineGone, EngineHandle};
use crate::lease::{Lease, Stop};

/// Renders whose pictures are decoded and prepared at once; each may hold two assets' pixels.
const PREPARES_AT_ONCE: usize = 2;
/// Pictures that are marked and encoded at once.
const SEALS_AT_ONCE: usize = 2;

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Ending {
    /// These artifacts lie where the scheduler wanted them.
    Delivered { artifacts: Vec<ArtifactReport>, device_time: GpuMillis },
    /// It could not be done.
    Failed(Failure),
    /// Model code crashed on it.
    Crashed,
    /// It was stopped after so many steps.
    Stopped { why: Stop, step: u32 },
}

impl Ending {
    /// For the log.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Failed(_) => "failed",
            Self::Crashed => "crashed",
            Self::Stopped { why, .. } => why.name(),
        }
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Says in the log where a render is, so that one that hangs or dies can be told from its last line.
fn begins(stage: &str) {
    tracing::debug!(stage, "begins");
}

/// What a render is made from, read.
struct Conditions {
    /// Person and garment.
    pictures: Prepared,
    /// What is painted behind the person.
    scene: Option<Description>,
}

/// What the renders of a worker share.
pub(crate) struct Pipeline {
    worker: WorkerId,
    transport: Arc<dyn Transport>,
    engine: EngineHandle,
    http: reqwest::Client,
    keys: Arc<KeyRing>,
    prepares: Semaphore,
    readings: Arc<Readings>,
    seals: Arc<Semaphore>,
    /// One preview at a time: a newer one is worth more than a late one.
    previews: Arc<Semaphore>,
}

impl Pipeline {
    pub(crate) fn new(
        worker: WorkerId,
        transport: Arc<dyn Transport>,
        engine: EngineHandle,
        http: reqwest::Client,
        keys: Arc<KeyRing>,
    ) -> Self {
        Self {
            worker,
            transport,
            engine,
            http,
            keys,
            prepares: Semaphore::new(PREPARES_AT_ONCE),
            readings: Arc::new(Readings::new(readings::BYTES_MAX)),
            seals: Arc::new(Semaphore::new(SEALS_AT_ONCE)),
            previews: Arc::new(Semaphore::new(1)),
        }
    }

    /// The way to the scheduler.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Loads a release in the engine, anew where it is there; or what a release with its painter lacks.
    pub(crate) async fn load(&self, runs_on: &str) -> Result<Result<(), ModelError>, EngineGone> {
        match releases_of(runs_on) {
            (release, None) => self.engine.load(release).await,
            (_, Some(_)) => self.engine.make_ready(runs_on).await,
        }
    }

    /// Resolves when the engine has ended by itself.
    pub(crate) async fn engine_gone(&self) {
        self.engine.gone().await;
    }

    /// Ends the engine.
    pub(crate) async fn stop(self) {
        self.engine.stop().await;
    }

    /// Runs what was granted, for as long as the lease lets it.
    pub(crate) async fn run(&self, grant: &Grant, lease: &Lease) -> Ending {
        match self.stages(grant, lease).await {
            Ok(delivered) => delivered,
            Err(ending) => ending,
        }
    }

    async fn stages(&self, grant: &Grant, lease: &Lease) -> Result<Ending, Ending> {
        let conditions = tokio::select! {
            biased;
            why = lease.stopped() => return Err(Ending::Stopped { why, step: 0 }),
            conditions = self.inputs(grant) => conditions?,
        };
        let (pictures, device_time) = self.denoise(grant, lease, conditions).await?;
        tokio::select! {
            biased;
            why = lease.stopped() => Err(Ending::Stopped { why, step: grant.spec.steps_total() }),
            artifacts = self.deliver(grant, pictures) => {
                let millis = u64::try_from(device_time.as_millis()).unwrap_or(u64::MAX);
                Ok(Ending::Delivered { artifacts: artifacts?, device_time: GpuMillis(millis) })
            }
        }
    }

    /// Both pictures, fetched and in the form the model takes; and the scene's words in that of its painter.
    async fn inputs(&self, grant: &Grant) -> Result<Conditions, Ending> {
        let model = self.model(&grant.spec.release)?;
        let painter = match &grant.spec.scene {
            Some(scene) => Some((self.model(&scene.release)?, scene)),
            None => None,
        };
        begins("fetch");
        let (person, garment) = futures::try_join!(
            fetch::fetch(&self.http, "person", &grant.person),
            fetch::fetch(&self.http, "garment", &grant.garment)
        )?;
        let _place = self.prepares.acquire().await.expect("the semaphore is never closed");
        begins("prepare");
        let pictures = [(person, grant.person.sha256), (garment, grant.garment.sha256)];
        let pictures = prepare::pictures(model, &self.readings, &grant.spec, pictures).await?;
        let scene = match painter {
            Some((painter, scene)) => Some(prepare::words(painter, scene.prompt.clone()).await?),
            None => None,
        };
        Ok(Conditions { pictures, scene })
    }

    fn model(&self, release: &str) -> Result<Arc<Model>, Failure> {
        self.engine
            .model(release)
            .ok_or_else(|| Failure::new(FailureCode::ReleaseUnavailable, "the release is not on this worker"))
    }

    /// All steps of all images, those of their scenes included. Cancelling waits for the engine to say where it stopped.
    async fn denoise(
        &self,
        grant: &Grant,
        lease: &Lease,
        conditions: Conditions,
    ) -> Result<(Vec<RgbImage>, Duration), Ending> {
        begins("denoise");
        let spec = &grant.spec;
        let samplings = |manifest: &ReleaseManifest, steps, guidance| {
            let method = manifest.quality(spec.quality).method();
            let seed = |n| spec.seed.wrapping_add(u64::from(n));
            (0..spec.samples).map(|n| Sampling { steps, guidance, seed: seed(n), method }).collect()
        };
        let Conditions { pictures: prepared, scene } = conditions;
        let scene = spec.scene.as_ref().zip(scene).map(|(scene, description)| Scene {
            samplings: samplings(description.manifest(), scene.steps, scene.guidance),
            release: scene.release.clone(),
            description,
        });
        let (line, mut running) = Running::line();
        let begin = Begin {
            release: spec.release.clone(),
            class: grant.class,
            samplings: samplings(prepared.manifest(), spec.steps, spec.guidance),
            prepared,
            scene,
            line,
        };
        let begun = tokio::select! {
            biased;
            why = lease.stopped() => return Err(Ending::Stopped { why, step: 0 }),
            begun = self.engine.begin(begin) => begun,
        };
        if begun.is_err() {
            return Err(Ending::Stopped { why: Stop::HandBack, step: 0 });
        }
        let outcome = loop {
            let heard = tokio::select! {
                biased;
                why = lease.stopped() => {
                    let step = if why == Stop::Cancel { running.leave().await } else { running.step() };
                    return Err(Ending::Stopped { why, step });
                }
                heard = running.next() => heard,
            };
            match heard {
                Heard::Report(report) => self.show(grant, report),
                Heard::Outcome(outcome) => break outcome,
            }
        };
        match outcome {
            Outcome::Done { pictures, device_time } => Ok((pictures, device_time)),
            Outcome::Failed(failure) => Err(Ending::Failed(failure)),
            Outcome::Crashed => Err(Ending::Crashed),
            Outcome::Stopped => Err(Ending::Stopped { why: Stop::HandBack, step: running.step() }),
        }
    }

    /// Publishes progress. Previews are marked off this task, one at a time; while one is on its way
    /// others are dropped.
    fn show(&self, grant: &Grant, report: Report) {
        let (render, epoch) = (grant.render, grant.epoch);
        let (sample, step, picture) = match report {
            Report::Step(step) => {
                let body = ProgressBody::Step { step, steps: grant.spec.steps_total() };
                return self.transport.publish_progress(Progress { render, epoch, body });
            }
            Report::Preview { sample, step, picture } => (sample, step, picture),
        };
        let (Ok(place), Some(model)) =
            (Arc::clone(&self.previews).try_acquire_owned(), self.engine.model(&grant.spec.release))
        else {
            return;
        };
        let (transport, keys) = (Arc::clone(&self.transport), Arc::clone(&self.keys));
        let (watermark, size) = (grant.watermark, model.manifest().output_size());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            if let Some(marked) = finish::preview(&keys, watermark.of_sample(sample), size, &picture) {
                let content_type = marked.encoding().content_type().to_owned();
                let body = ProgressBody::Preview { sample, step, content_type, data: marked.into_bytes() };
                transport.publish_progress(Progress { render, epoch, body });
            }
        });
    }

    /// Marks, encodes, signs and uploads every picture. A picture that cannot be marked stays here; the
    /// others are delivered as a partial result.
    async fn deliver(&self, grant: &Grant, pictures: Vec<RgbImage>) -> Result<Vec<ArtifactReport>, Ending> {
        begins("finish");
        let delivered = try_join_all((0..).zip(pictures).map(async |(sample, picture)| {
            let sealed = finish::seal(&self.seals, &self.keys, grant, sample, picture).await?;
            match sealed {
                Some(marked) => {
                    let signed = self.sign(grant, sample, marked).await?;
                    self.upload(grant, sample, &signed).await.map(Some)
                }
                None => Ok(None),
            }
        }));
        let artifacts: Vec<ArtifactReport> = delivered.await?.into_iter().flatten().collect();
        if artifacts.is_empty() {
            let message = "the mark could not be read back from any of the encoded pictures";
            return Err(Failure::new(FailureCode::WatermarkFailed, message).into());
        }
        Ok(artifacts)
    }
}
