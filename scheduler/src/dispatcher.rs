//! Moves waiting renders into the lanes' windows, while this replica leads.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::{Notice, StoreError, Term};
use crate::wake::woken;

/// How often it looks without being woken: retries become due and workers come and go.
const POLL: Duration = Duration::from_millis(250);

/// One pass; says how many renders were dispatched, or `None` when that term is over.
pub async fn step(app: &App, term: Term) -> Result<Option<u32>, StoreError> {
    let dispatched = app.store.dispatch(term).await?;
    if dispatched.is_none() {
        app.leadership.lost(term);
    }
    Ok(dispatched)
}

/// Passes until `shutdown`.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut notices = app.store.notices();
    loop {
        let term = tokio::select! {
            () = shutdown.cancelled() => return,
            term = app.leadership.leading() => term,
        };
        if let Err(error) = step(app, term).await {
            tracing::error!(%error, "dispatch failed");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = woken(&mut notices, POLL, |notice| *notice == Notice::Queue) => {}
        }
    }
}
