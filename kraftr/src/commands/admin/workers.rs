//! `kraftr admin worker`: tells workers something over the broker.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kraftr_protocol::message::Control;

use crate::cli::{AdminArgs, WorkerCommand};
use crate::config::concerns::Amqp;
use crate::config::{Role, Scope, Settings};
use crate::{connect, output};

/// How long the broker is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) async fn run(args: &AdminArgs, command: &WorkerCommand) -> Result<()> {
    let mut settings = Settings::load(&args.flags.sources(), Scope::Role(Role::Admin));
    let broker: Option<Amqp> = settings.read();
    let broker = connect::reach_broker(&settings.finish(broker)?, PATIENCE).await?;
    let control = match command {
        WorkerCommand::Drain { whom } => Control::Drain { worker: whom.worker },
        WorkerCommand::Load { release, whom } => {
            Control::Load { worker: whom.worker, release: release.clone() }
        }
    };
    let heard = broker.tell(control).await.context("the workers were not told")?;
    broker.close().await;
    if !heard {
        bail!("no worker is connected to this broker under this namespace");
    }
    output::line("told; the workers' log says what became of it")?;
    Ok(())
}
