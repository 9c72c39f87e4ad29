//! Brings back renders that were lost on the way, while this replica leads.

use std::time::Duration;

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
        if let Err(error) = step(app).await {
            tracing::error!(%error, "reaping failed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
