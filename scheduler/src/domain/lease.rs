//! Leases: who may believe what, and until when.
//!
//! The store is authoritative. A claim is identified by its epoch, which rises at every grant; a lease
//! is the promise that the epoch will not rise, without a redelivered message, before `lease_until`.
//! It is counted by the store's clock from the transaction that grants or renews it. The worker counts
//! the same duration by its own monotonic clock from the moment it *asked*, which is earlier, so its
//! trust always ends before the store's:
//!
//! ```text
//! worker   ask ─────────────── trust: ask + lease ──┤ stops by itself
//! store         grant ──────── lease_until: grant + lease ──┤ reaper may requeue
//! ```
//!
//! After the lease the worker may still be running (a stopped process, a cut network); then the epoch
//! fences it: uploads are refused and events are stale.

use std::time::Duration;

use kraftr_protocol::{Status, Timestamp, limits};

/// True while a job message or a claim of the render may be with a worker.
pub const fn is_in_flight(status: Status) -> bool {
    matches!(status, Status::Dispatched | Status::Running)
}

/// Until when a render that is now `status` is left alone; `None` for a state without a lease.
pub fn lease_until(status: Status, now: Timestamp) -> Option<Timestamp> {
    let patience: Duration = match status {
        Status::Dispatched => limits::DISPATCH_PATIENCE,
        Status::Running => limits::LEASE,
        _ => return None,
    };
    Some(now.plus(patience))
}
