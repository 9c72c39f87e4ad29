//! Brings back renders that were lost on the way, while this replica leads.
//!
//! It looks now and then, and at once when the broker gave a job up: that message only wakes it, and what has
//! become of the render is decided by its row.

use std::time::Duration;

use futures::FutureExt as _;
use kraftr_protocol::message::Job;
use kraftr_transport::{BoxSource, Delivery};
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
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = app.leadership.leading() => {}
        }
        // Only while this replica leads: a subscription takes messages in advance, and those of one that stands by
        // would wake nobody.
        match app.transport.consume_given_up().await {
            Ok(given_up) => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = lead(app, given_up) => {}
                }
            }
            Err(error) => return tracing::error!(%error, "what the broker gives up cannot be consumed"),
        }
    }
}

/// Passes until this replica leads no more, or until the transport closes.
async fn lead(app: &App, mut given_up: BoxSource<Delivery<Job>>) {
    while app.leadership.term().is_some() {
        if let Err(error) = step(app).await {
            tracing::error!(%error, "reaping failed");
        }
        let mut job = tokio::select! {
            () = tokio::time::sleep(EVERY) => continue,
            job = given_up.next() => job,
        };
        if job.is_none() {
            return;
        }
        // One pass serves all that wait.
        while let Some(delivery) = job {
            let Job { render, attempt } = delivery.body;
            tracing::warn!(render.id = %render, render.attempt = attempt, "the broker gave a job up");
            delivery.ack();
            job = given_up.next().now_or_never().flatten();
        }
    }
}
