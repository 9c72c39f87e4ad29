//! Brings back renders that were lost on the way, while this replica leads.
//!
//! It looks now and then, and at once when the broker gave a job up: that message only wakes it, and what has
//! become of the render is decided by its row.

use std::time::Duration;

use kraftr_protocol::message::Job;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::{Reaped, StoreError};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);

/// One pass.
pub async fn step(app: &App) -> Result<Reaped, StoreError> {
    let reaped = app.store.reap().await?;
    if !reaped.is_empty() {
        tracing::warn!(requeued = reaped.requeued.len(), ended = reaped.ended.len(), "reaped");
    }
    Ok(reaped)
}

/// Passes until `shutdown`.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut given_up = match app.transport.consume_given_up().await {
        Ok(given_up) => given_up,
        Err(error) => return tracing::error!(%error, "what the broker gives up cannot be consumed"),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = app.leadership.leading() => {}
        }
        if let Err(error) = step(app).await {
            tracing::error!(%error, "reaping failed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
            job = given_up.next() => match job {
                Some(job) => {
                    let Job { render, attempt } = job.body;
                    tracing::warn!(render.id = %render, render.attempt = attempt, "the broker gave a job up");
                    job.ack();
                }
                None => return,
            },
        }
    }
}
