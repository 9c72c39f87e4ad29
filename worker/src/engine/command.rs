//! What can be asked of the engine, and how a render is watched while it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use kraftr_models::{Description, ModelError, Prepared, RgbImage, Sampling};
use kraftr_protocol::{Class, Failure};
use tokio::sync::{mpsc, oneshot};

/// Reports that wait for a render's task; a full channel drops what is only for show.
const REPORTS: usize = 64;

/// Everything that can be asked of the engine.
pub(crate) enum Command {
    /// Load a release, or load it again.
    Load(Load),
    /// Run a render.
    Begin(Box<Begin>),
}

/// Load a release.
pub(crate) struct Load {
    pub(crate) release: String,
    pub(crate) done: oneshot::Sender<Result<(), ModelError>>,
}

/// Run a render.
pub(crate) struct Begin {
    pub(crate) release: String,
    pub(crate) class: Class,
    pub(crate) prepared: Prepared,
    /// One for each image.
    pub(crate) samplings: Vec<Sampling>,
    /// What is painted behind the person of each image once they are dressed.
    pub(crate) scene: Option<Scene>,
    pub(crate) line: EngineLine,
}

/// A scene behind a render's people.
pub(crate) struct Scene {
    /// The release that paints it.
    pub(crate) release: String,
    /// Read once, whatever the number of images: the engine has no words to read.
    pub(crate) description: Description,
    /// One for each image.
    pub(crate) samplings: Vec<Sampling>,
}

/// Something to show.
pub(crate) enum Report {
    /// So many steps are done of the image that has done the fewest.
    Step(u32),
    /// What the model expects to come out.
    Preview { sample: u32, step: u32, picture: RgbImage },
}

/// How a render left the engine.
pub(crate) enum Outcome {
    /// Every image is done.
    Done { pictures: Vec<RgbImage>, device_time: Duration },
    /// The model refused.
    Failed(Failure),
    /// The model crashed with this render in the batch.
    Crashed,
    /// Nobody waited for it any more.
    Stopped,
}

#[derive(Default)]
struct Watch {
    unwanted: AtomicBool,
    step: AtomicU32,
}

/// The engine's end: what it tells about one render.
pub(crate) struct EngineLine {
    watch: Arc<Watch>,
    reports: mpsc::Sender<Report>,
    outcome: oneshot::Sender<Outcome>,
}

impl EngineLine {
    pub(crate) fn is_unwanted(&self) -> bool {
        self.watch.unwanted.load(Ordering::Acquire)
    }

    pub(crate) fn stepped(&self, step: u32) {
        self.watch.step.store(step, Ordering::Release);
        self.show(Report::Step(step));
    }

    /// For show only: dropped when the task is behind.
    pub(crate) fn show(&self, report: Report) {
        drop(self.reports.try_send(report));
    }

    /// A task that has gone does not want to know.
    pub(crate) fn end(self, outcome: Outcome) {
        drop(self.outcome.send(outcome));
    }
}

/// The task's end: a render in the engine, or on its way there. Dropping it makes the engine forget
/// the render before its next step.
pub(crate) struct Running {
    watch: Arc<Watch>,
    reports: mpsc::Receiver<Report>,
    outcome: oneshot::Receiver<Outcome>,
}

/// What a render's task hears from the engine.
pub(crate) enum Heard {
    Report(Report),
    /// The last word.
    Outcome(Outcome),
}

impl Running {
    /// A pair of ends.
    pub(crate) fn line() -> (EngineLine, Self) {
        let watch = Arc::new(Watch::default());
        let (reports, reports_in) = mpsc::channel(REPORTS);
        let (outcome, outcome_in) = oneshot::channel();
        (
            EngineLine { watch: Arc::clone(&watch), reports, outcome },
            Self { watch, reports: reports_in, outcome: outcome_in },
        )
    }

    /// Steps done so far.
    pub(crate) fn step(&self) -> u32 {
        self.watch.step.load(Ordering::Acquire)
    }

    /// The next word; reports before the outcome. An engine that is gone crashed.
    pub(crate) async fn next(&mut self) -> Heard {
        tokio::select! {
            biased;
            Some(report) = self.reports.recv() => Heard::Report(report),
            outcome = &mut self.outcome => Heard::Outcome(outcome.unwrap_or(Outcome::Crashed)),
        }
    }

    /// Asks the engine to stop, waits until it has, and says how many steps were done.
    pub(crate) async fn leave(mut self) -> u32 {
        self.watch.unwanted.store(true, Ordering::Release);
        while let Heard::Report(_) = self.next().await {}
        self.step()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.unwanted.store(true, Ordering::Release);
    }
}
