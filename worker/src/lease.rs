//! Leases: how long a worker may believe that a render is its own.
//!
//! The scheduler's store is authoritative. A claim is identified by its render and its epoch; a
//! later claim has a higher epoch, and whatever the earlier one still sends is refused (fenced).
//!
//! ```text
//!            claim granted                     Renewed
//!                  |                          +-------+
//!                  v                          v       |
//! (reserved) -> trusted ----- heartbeat ------+-------+
//!                  | Cancel, hand-back, time limit -> ordered to stop -> report -> released
//!                  | Fenced                        -> gone: report nothing
//!                  | trust window ends             -> gone: report nothing
//! ```
//!
//! The trust window is `[sent, sent + lease)`: it counts from when the request that was granted or
//! renewed was *sent*, on this machine's monotonic clock. The store counts from when it handled that
//! request, which is later, so the window here ends first and two workers never both trust a render.
//! No answer, a late answer and an answer that cannot be read change nothing: the window runs out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kraftr_protocol::message::{Grant, Heartbeat, Held, Job, LeaseVerdict, Reply, Request};
use kraftr_protocol::{Lane, RenderId, WorkerId};
use kraftr_transport::Transport;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::claim::{Answer, ask};

/// Why a render stops before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its owner cancelled it.
    Cancel,
    /// It ran longer than a render may.
    TimeLimit,
    /// The worker drains and its grace is over.
    HandBack,
    /// Another claim took over, or the render has ended.
    Fenced,
    /// It could not be renewed in time.
    Lost,
}

impl Stop {
    /// For the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::TimeLimit => "time limit",
            Self::HandBack => "handed back",
            Self::Fenced => "fenced",
            Self::Lost => "lease lost",
        }
    }
}

#[derive(Clone, Copy)]
struct State {
    trusted_until: Instant,
    fenced: bool,
    /// The first order to stop; later ones change nothing.
    order: Option<Stop>,
}

/// One granted claim.
pub(crate) struct Lease {
    /// Which claim.
    pub(crate) held: Held,
    length: Duration,
    deadline: Instant,
    state: watch::Sender<State>,
}

impl Lease {
    fn new(grant: &Grant, asked: Instant) -> Self {
        let length = Duration::from_millis(grant.lease_ms);
        Self {
            held: Held { render: grant.render, epoch: grant.epoch },
            length,
            deadline: asked + Duration::from_millis(grant.time_limit_ms),
            state: watch::Sender::new(State { trusted_until: asked + length, fenced: false, order: None }),
        }
    }

    fn renew(&self, sent: Instant) {
        self.state.send_modify(|state| state.trusted_until = state.trusted_until.max(sent + self.length));
    }

    fn fence(&self) {
        self.state.send_modify(|state| state.fenced = true);
    }

    fn order(&self, why: Stop) {
        self.state.send_modify(|state| state.order = state.order.or(Some(why)));
    }

    /// Resolves as soon as work on the render must stop.
    pub(crate) async fn stopped(&self) -> Stop {
        self.first(|state| state.order, Some(self.deadline)).await
    }

    /// Resolves as soon as nothing may be reported about the claim.
    pub(crate) async fn gone(&self) -> Stop {
        self.first(|_| None, None).await
    }

    /// Being gone outranks every order: an order is reported, a claim that is gone is not.
    async fn first(&self, order: impl Fn(&State) -> Option<Stop>, deadline: Option<Instant>) -> Stop {
        let mut changes = self.state.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            let now = Instant::now();
            if state.fenced {
                return Stop::Fenced;
            }
            if now >= state.trusted_until {
                return Stop::Lost;
            }
            if let Some(why) = order(&state) {
                return why;
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Stop::TimeLimit;
            }
            let wake = deadline.map_or(state.trusted_until, |deadline| deadline.min(state.trusted_until));
            tokio::select! {
                () = sleep_until(wake) => {}
                changed = changes.changed() => changed.expect("the sender is `self`"),
            }
        }
    }
}

#[derive(Default)]
struct Table {
    /// `None` while the claim is being asked for.
    entries: BTreeMap<(RenderId, u32), Option<Arc<Lease>>>,
    handing_back: bool,
}

/// The claims of one worker.
#[derive(Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
}

impl Leases {
    /// Makes room for a claim, or `None` when the same job is here already.
    pub(crate) fn reserve(self: &Arc<Self>, job: Job) -> Option<Reservation> {
        let key = (job.render, job.attempt);
        let mut table = self.lock();
        if table.entries.contains_key(&key) {
            return None;
        }
        table.entries.insert(key, None);
        drop(table);
        Some(Reservation { leases: Arc::clone(self), key })
    }

    /// Stops a render if it is here.
    pub(crate) fn order(&self, render: RenderId, why: Stop) {
        for lease in self.held().iter().filter(|lease| lease.held.render == render) {
            lease.order(why);
        }
    }

    /// Stops every render, also those whose claims are still on their way.
    pub(crate) fn hand_back(&self) {
        self.lock().handing_back = true;
        for lease in self.held() {
            lease.order(Stop::HandBack);
        }
    }

    fn held(&self) -> Vec<Arc<Lease>> {
        self.lock().entries.values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table; dropping it ends the heartbeats for its claim.
pub(crate) struct Reservation {
    leases: Arc<Leases>,
    key: (RenderId, u32),
}

impl Reservation {
    /// Holds what was granted. A claim of an earlier attempt at the same render is fenced by this.
    pub(crate) fn hold(&self, grant: &Grant, asked: Instant) -> Arc<Lease> {
        let lease = Arc::new(Lease::new(grant, asked));
        let mut table = self.leases.lock();
        let render = (self.key.0, 0)..=(self.key.0, u32::MAX);
        for earlier in table.entries.range(render).filter_map(|(_, entry)| entry.as_ref()) {
            earlier.fence();
        }
        if table.handing_back {
            lease.order(Stop::HandBack);
        }
        table.entries.insert(self.key, Some(Arc::clone(&lease)));
        lease
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.leases.lock().entries.remove(&self.key);
    }
}

/// Keeps a worker known and its leases renewed.
pub(crate) struct Heart {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) worker: WorkerId,
    /// What it takes jobs from.
    pub(crate) lanes: watch::Receiver<Vec<Lane>>,
    pub(crate) slots: u32,
    pub(crate) every: Duration,
    /// From then on it offers no lanes.
    pub(crate) draining: CancellationToken,
}

impl Heart {
    /// Beats at once, then every `every`, and once more when the lanes change or the worker begins to drain; for ever.
    pub(crate) async fn run(mut self) {
        let mut announced_drain = false;
        loop {
            let next = Instant::now() + self.every;
            let draining = self.draining.is_cancelled();
            let lanes = self.lanes.borrow_and_update().clone();
            self.beat(if draining { Vec::new() } else { lanes }).await;
            announced_drain |= draining;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.draining.cancelled(), if !announced_drain => {}
                Ok(()) = self.lanes.changed(), if !draining => {}
            }
        }
    }

    async fn beat(&self, lanes: Vec<Lane>) {
        let leases = self.leases.held();
        let held: Vec<Held> = leases.iter().map(|lease| lease.held).collect();
        let sent = Instant::now();
        let beat = Heartbeat { worker: self.worker, lanes, slots: self.slots, held };
        match ask(&*self.transport, Request::Heartbeat(beat)).await {
            Answer::Reply(Reply::Leases { verdicts }) if verdicts.len() == leases.len() => {
                for (lease, verdict) in leases.iter().zip(verdicts) {
                    match verdict {
                        LeaseVerdict::Renewed => lease.renew(sent),
                        LeaseVerdict::Cancel => lease.order(Stop::Cancel),
                        LeaseVerdict::Fenced => lease.fence(),
                    }
                }
            }
            Answer::Reply(other) => tracing::warn!(?other, "the answer to a heartbeat is none"),
            Answer::Unavailable(reason) => tracing::warn!(%reason, "a heartbeat was not answered"),
            Answer::Closed => tracing::debug!("the transport is closed: no heartbeat"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kraftr_protocol::message::{Input, Link, Signing};
    use kraftr_protocol::{
        AssetId, Category, Class, Digest, Epoch, Format, GarmentPhoto, Quality, RenderSpec, Timestamp,
        WatermarkRef,
    };
    use tokio::time::advance;
    use uuid::Uuid;

    use super::*;

    const LEASE_MS: u64 = 1_000;

    fn job(attempt: u32) -> Job {
        Job { render: RenderId(Uuid::from_u128(1)), attempt }
    }

    fn grant(attempt: u32) -> Grant {
        let link = Link { url: String::new(), headers: Vec::new() };
        let input = Input { asset: AssetId(Uuid::nil()), sha256: Digest([0; 32]), link };
        Grant {
            render: job(attempt).render,
            attempt,
            epoch: Epoch(i64::from(attempt)),
            spec: RenderSpec {
                release: "noop".to_owned(),
                category: Category::Tops,
                garment_photo: GarmentPhoto::FlatLay,
                quality: Quality::Fast,
                steps: 1,
                guidance: 1.0,
                seed: 0,
                samples: 1,
                format: Format::Png,
                scene: None,
            },
            class: Class::Batch,
            person: input.clone(),
            garment: input,
            signing: Signing { chain: String::new(), at: Timestamp(0) },
            watermark: WatermarkRef([0; 8]),
            lease_ms: LEASE_MS,
            time_limit_ms: 5 * LEASE_MS,
        }
    }

    async fn pass(millis: u64) {
        advance(Duration::from_millis(millis)).await;
    }

    /// Why the lease says to stop now, and whether it is gone now.
    fn now(lease: &Lease) -> (Option<Stop>, Option<Stop>) {
        (lease.stopped().now_or_never(), lease.gone().now_or_never())
    }

    #[tokio::test(start_paused = true)]
    async fn trust_ends_a_lease_after_the_last_request_that_was_renewed_was_sent() {
        let asked = Instant::now();
        // The answer took 400 ms: that time is gone.
        pass(400).await;
        let lease = Lease::new(&grant(1), asked);
        pass(599).await;
        assert_eq!(now(&lease), (None, None));
        let sent = Instant::now();
        pass(0).await;
        lease.renew(sent);
        pass(999).await;
        assert_eq!(now(&lease), (None, None));
        lease.renew(asked);
        assert_eq!(now(&lease), (None, None), "an answer that was overtaken shortens nothing");
        pass(1).await;
        assert_eq!(now(&lease), (Some(Stop::Lost), Some(Stop::Lost)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken() {
        let lease = Lease::new(&grant(1), Instant::now());
        let started = Instant::now();
        assert_eq!(lease.stopped().await, Stop::Lost);
        assert_eq!(started.elapsed().as_millis(), u128::from(LEASE_MS));

        let lease = Arc::new(Lease::new(&grant(1), Instant::now()));
        let waiting = tokio::spawn({
            let lease = Arc::clone(&lease);
            async move { lease.stopped().await }
        });
        tokio::task::yield_now().await;
        lease.order(Stop::Cancel);
        assert_eq!(waiting.await.unwrap(), Stop::Cancel);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_order_counts_and_gone_outranks_it() {
        let lease = Lease::new(&grant(1), Instant::now());
        lease.order(Stop::HandBack);
        lease.order(Stop::Cancel);
        assert_eq!(now(&lease), (Some(Stop::HandBack), None));
        lease.fence();
        assert_eq!(now(&lease), (Some(Stop::Fenced), Some(Stop::Fenced)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_render_that_takes_too_long_stops_but_may_say_so() {
        let lease = Lease::new(&grant(1), Instant::now());
        for _ in 0..10 {
            assert_eq!(now(&lease), (None, None));
            lease.renew(Instant::now());
            pass(LEASE_MS / 2).await;
        }
        assert_eq!(now(&lease), (Some(Stop::TimeLimit), None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_job_is_held_once_and_a_newer_attempt_fences_the_older() {
        let leases = Arc::<Leases>::default();
        let first = leases.reserve(job(1)).unwrap();
        assert!(leases.reserve(job(1)).is_none(), "while it is being claimed");
        let older = first.hold(&grant(1), Instant::now());
        assert!(leases.reserve(job(1)).is_none(), "while it runs");

        let second = leases.reserve(job(2)).unwrap();
        assert_eq!(now(&older), (None, None), "a claim that is only asked for fences nothing");
        let newer = second.hold(&grant(2), Instant::now());
        assert_eq!((now(&older).0, now(&newer).0), (Some(Stop::Fenced), None));

        drop(first);
        assert_eq!(leases.held().len(), 1);
        assert!(leases.reserve(job(1)).is_some(), "once it has left");
    }

    #[tokio::test(start_paused = true)]
    async fn handing_back_also_stops_what_is_granted_later() {
        let leases = Arc::<Leases>::default();
        let (early, late) = (leases.reserve(job(1)).unwrap(), leases.reserve(job(2)).unwrap());
        let early = early.hold(&grant(1), Instant::now());
        leases.hand_back();
        let late = late.hold(&grant(2), Instant::now());
        assert_eq!(now(&late).0, Some(Stop::HandBack));
        assert_eq!(now(&early).1, Some(Stop::Fenced), "a newer attempt is here");
    }
}
