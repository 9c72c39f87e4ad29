//! Wake-ups inside one process. They only make loops prompt: every loop also polls, so a lost
//! wake-up costs latency and nothing else.

use tokio::sync::Notify;

/// One wake-up for each loop that waits for work of others.
#[derive(Debug, Default)]
pub struct Signals {
    dispatch: Notify,
    outbox: Notify,
}

impl Signals {
    /// A transaction may have queued a render, freed a place or written an outbox row.
    pub fn committed(&self) {
        self.dispatch.notify_one();
        self.outbox.notify_one();
    }

    /// Resolves when there may be something to dispatch.
    pub async fn dispatch(&self) {
        self.dispatch.notified().await;
    }

    /// Resolves when there may be outbox rows.
    pub async fn outbox(&self) {
        self.outbox.notified().await;
    }
}
