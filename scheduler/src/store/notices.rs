//! Hints from whoever committed to whoever may have something to do now.

use std::sync::Arc;

use kraftr_protocol::{RenderId, Status};
use tokio::sync::broadcast;

use super::work::Work;
use crate::domain::lease;

/// Hints that wait for one listener; who is slower polls.
const WAITING_MAX: usize = 1_024;

/// Renders that wait to be told to other replicas; of more, those who watch hear when they ask again.
const CHANGED_MAX: usize = 10_000;

/// What a commit may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A render waits, or there is room for one.
    Queue,
    /// An outbox row was written.
    Outbox,
    /// These renders changed.
    Changed(Arc<[RenderId]>),
}

/// Where a store sends its notices.
pub(super) fn channel() -> broadcast::Sender<Notice> {
    broadcast::Sender::new(WAITING_MAX)
}

/// What one transaction has to tell.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) queue: bool,
    pub(super) outbox: bool,
    pub(super) changed: Vec<RenderId>,
}

impl Notices {
    /// What a unit of work has to tell.
    pub(super) fn of(work: &Work<'_>) -> Self {
        let mut changed: Vec<RenderId> = work.history.iter().map(|line| line.render).collect();
        changed.dedup();
        let freed = |(before, after)| lease::is_in_flight(before) && !lease::is_in_flight(after);
        let queue = work.submitted.values().any(|row| row.render.status == Status::Queued)
            || work.changed.values().any(|change| freed((change.before.0, change.after.render.status)));
        Self { queue, outbox: !work.outbox.is_empty() && !work.gone_ahead, changed }
    }

    /// Takes in what another transaction has to tell.
    pub(super) fn merge(&mut self, other: Self) {
        self.queue |= other.queue;
        self.outbox |= other.outbox;
        let room = CHANGED_MAX.saturating_sub(self.changed.len());
        self.changed.extend(other.changed.into_iter().take(room));
    }

    /// Sends it within this process; nobody may listen.
    pub(super) fn send(&self, channel: &broadcast::Sender<Notice>) {
        if self.queue {
            channel.send(Notice::Queue).ok();
        }
        if self.outbox {
            channel.send(Notice::Outbox).ok();
        }
        if !self.changed.is_empty() {
            channel.send(Notice::Changed(self.changed.clone().into())).ok();
        }
    }
}
