//! The engine: one thread that owns the models and advances renders one denoise step at a time.
//!
//! Every turn it takes the commands that have come, forgets the renders that nobody waits for any
//! more, picks a batch ([`batch::pick`]), runs one forward pass and hands control back. So renders
//! join and leave a running batch, an urgent one overtakes within a step, and stopping takes at most
//! a step. Nothing here waits for a network.

pub(crate) mod batch;
pub(crate) mod command;
mod fault;
mod residency;
mod slot;
mod turn;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kraftr_models::{Device, Model, ModelError, Registry};
use kraftr_protocol::spec::releases_of;
use tokio::sync::{mpsc, oneshot};

use self::command::{Begin, Command, Load};
pub(crate) use self::fault::{Fault, guarded};
use self::residency::Residency;
use self::turn::Engine;

/// How long a stopping worker waits for the engine to come to the end of its step.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How the engine goes about its work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineSettings {
    /// Samples in one forward pass.
    pub(crate) max_batch: usize,
    /// Steps between two previews of a sample; 0 makes none.
    pub(crate) preview_every: u32,
    /// Commands that wait while a step runs.
    pub(crate) commands: usize,
}

/// The engine is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub(crate) struct EngineGone;

/// The way to the engine. Dropping it stops the engine after its step.
pub(crate) struct EngineHandle {
    commands: mpsc::Sender<Command>,
    residency: Arc<Residency>,
    thread: JoinHandle<()>,
}

impl EngineHandle {
    /// Starts the thread; it has no models yet.
    pub(crate) fn start(
        registry: Arc<Registry>,
        device: Device,
        settings: EngineSettings,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel(settings.commands);
        let residency = Arc::new(Residency::new(registry, device));
        let engine = Engine::new(inbox, Arc::clone(&residency), settings);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || engine.run())?;
        Ok(Self { commands, residency, thread })
    }

    /// Loads what a lane's release needs, as far as it is not there yet; for scenes the release must also be able to find
    /// the people that they are put behind.
    pub(crate) async fn make_ready(&self, runs_on: &str) -> Result<Result<(), ModelError>, EngineGone> {
        let (release, painter) = releases_of(runs_on);
        for name in [Some(release), painter].into_iter().flatten() {
            if self.model(name).is_none()
                && let Err(error) = self.load(name).await?
            {
                return Ok(Err(error));
            }
        }
        Ok(match (painter, self.model(release)) {
            (Some(_), Some(model)) => model.finds_subjects(),
            _ => Ok(()),
        })
    }

    /// Loads a release in the engine's thread.
    pub(crate) async fn load(&self, release: &str) -> Result<Result<(), ModelError>, EngineGone> {
        let (done, loaded) = oneshot::channel();
        let command = Command::Load(Load { release: release.to_owned(), done });
        self.commands.send(command).await.map_err(|_| EngineGone)?;
        loaded.await.map_err(|_| EngineGone)
    }

    /// A loaded release, for work that needs no device.
    pub(crate) fn model(&self, release: &str) -> Option<Arc<Model>> {
        self.residency.get(release)
    }

    /// Hands a prepared render over; waits while too many commands are on their way.
    pub(crate) async fn begin(&self, begin: Begin) -> Result<(), EngineGone> {
        self.commands.send(Command::Begin(Box::new(begin))).await.map_err(|_| EngineGone)
    }

    /// Resolves when the thread has ended by itself.
    pub(crate) async fn gone(&self) {
        self.commands.closed().await;
    }

    /// Asks the thread to end and waits for that, but not for ever: it may be in a long step.
    pub(crate) async fn stop(self) {
        drop(self.commands);
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        match tokio::time::timeout(STOP_PATIENCE, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the engine's thread had crashed"),
            Err(_) => tracing::warn!("the engine is still in a step: not waiting for it"),
        }
    }
}
