//! Carries out what transactions promised: publishes jobs, tells watchers and workers, erases objects.
//!
//! A row is forgotten only after its deed is done, so a crash in between does it twice; every deed
//! may be done twice.

use std::time::Duration;

use kraftr_protocol::message::Control;
use kraftr_protocol::{Epoch, Progress, ProgressBody};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::{StoreError, Topic};

/// Rows of one pass.
const BATCH: u32 = 100;
/// How often it looks without being woken.
const POLL: Duration = Duration::from_millis(250);

/// One pass over the oldest rows that are due; says how many were done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let rows = app.store.outbox(BATCH).await?;
    let mut done = Vec::with_capacity(rows.len());
    for row in rows {
        match perform(app, &row.topic).await {
            Ok(()) => done.push(row.id),
            Err(error) => {
                tracing::warn!(outbox.id = row.id, outbox.tries = row.tries, error, "put off");
                app.store.defer_outbox(row.id).await?;
            }
        }
    }
    if !done.is_empty() {
        app.store.settle_outbox(&done).await?;
    }
    Ok(done.len())
}

async fn perform(app: &App, topic: &Topic) -> Result<(), String> {
    match topic {
        Topic::Job { lane, job } => {
            app.transport.publish_job(lane, *job).await.map_err(|error| error.to_string())?;
        }
        Topic::Changed { render } => {
            let body = ProgressBody::Changed;
            app.transport.publish_progress(Progress { render: *render, epoch: Epoch(0), body });
        }
        Topic::Cancel { render } => app.transport.publish_control(Control::Cancel { render: *render }),
        Topic::Erase { object_key } => {
            app.blobs.delete(object_key).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Passes until `shutdown`.
pub async fn run(app: &App, shutdown: CancellationToken) {
    loop {
        let woken = app.signals.outbox();
        match step(app).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => tracing::error!(%error, "the outbox could not be read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = woken => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
