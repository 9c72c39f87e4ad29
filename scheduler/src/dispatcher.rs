//! Moves waiting renders into the lanes' windows.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::StoreError;

/// How often it looks without being woken: retries become due and workers come and go.
const POLL: Duration = Duration::from_millis(250);

/// One pass; says how many renders were dispatched.
pub async fn step(app: &App) -> Result<u32, StoreError> {
    let dispatched = app.store.dispatch().await?;
    if dispatched > 0 {
        app.signals.committed();
    }
    Ok(dispatched)
}

/// Passes until `shutdown`.
pub async fn run(app: &App, shutdown: CancellationToken) {
    loop {
        let woken = app.signals.dispatch();
        if let Err(error) = step(app).await {
            tracing::error!(%error, "dispatch failed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = woken => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
