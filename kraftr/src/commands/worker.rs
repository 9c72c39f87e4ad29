//! `kraftr worker`: one worker on the broker. It holds no other credentials, whatever its environment
//! offers, but those that read weights, and these only when it is told to pull them.

use std::sync::Arc;

use anyhow::{Context, Result};
use kraftr_protocol::{Clock, Ids, WorkerId};
use kraftr_provenance::KeyRing;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_worker::Worker;
use serde::Serialize;

use crate::cli::WorkerArgs;
use crate::commands::config::DEVELOPMENT_KEY;
use crate::commands::model::pull;
use crate::commands::{Outcome, ReadyFile, stop_signal};
use crate::config::WorkerConfig;
use crate::connect;
use crate::logging;

/// What the ready file says.
#[derive(Serialize)]
struct Ready {
    worker: WorkerId,
}

/// Takes renders until it is asked to stop or told to drain.
pub async fn run(args: WorkerArgs, log: Option<String>) -> Result<Outcome> {
    let sources = args.flags.sources().with("log", log);
    let config = WorkerConfig::load(&sources)?;
    logging::start(config.process.log.as_str())?;
    let ready_file = ReadyFile::at(args.ready_file.as_deref())?;
    let stop = stop_signal()?;
    let keys = if let Some(keys) = config.watermark.keys.clone() {
        keys.0
    } else {
        tracing::warn!("{DEVELOPMENT_KEY}");
        KeyRing::development()
    };

    let registry = config.models.registry()?;
    if config.worker.pull {
        let pulled = pull::missing(&registry, config.worker.releases.as_deref(), &sources.environment);
        tokio::select! {
            pulled = pulled => pulled?,
            () = stop.cancelled() => return Ok(Outcome::Done),
        }
    }

    let broker = tokio::select! {
        broker = connect::reach_broker(&config.amqp, config.startup.patience) => broker?,
        () = stop.cancelled() => return Ok(Outcome::Done),
    };
    let id = WorkerId(SystemIds.uuid(SystemClock.now()));
    let told = told(id, &config);
    let mut worker = Worker::new(told, broker.clone(), Arc::new(registry), keys)?;
    let ready = worker.ready();
    let mut working = tokio::spawn(worker.run(stop));
    let ended = tokio::select! {
        ended = &mut working => ended,
        Ok(()) = ready => {
            ready_file.write(&Ready { worker: id })?;
            working.await
        }
    };
    drop(ready_file);
    let ended = ended.context("the worker crashed")?;
    broker.close().await;
    ended?;
    tracing::info!("stopped");
    Ok(Outcome::Done)
}

/// The worker's own words for what is configured.
fn told(id: WorkerId, config: &WorkerConfig) -> kraftr_worker::WorkerConfig {
    let worker = &config.worker;
    kraftr_worker::WorkerConfig {
        device: worker.device.clone(),
        slots: worker.slots.get(),
        releases: worker.releases.clone().unwrap_or_default(),
        grace: worker.grace,
        max_batch: worker.max_batch.get() as usize,
        preview_every: worker.preview_every.get(),
        ..kraftr_worker::WorkerConfig::new(id, worker.pool.as_str())
    }
}
