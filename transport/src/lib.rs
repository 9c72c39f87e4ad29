//! How scheduler and workers reach each other: jobs, events, progress, calls and control.
//!
//! One trait with an embedded side ([`in_process`]) and a broker side ([`rabbit`]), held to the same
//! promises by one conformance suite ([`conformance`]). The database is the only source of truth: every message
//! here may be lost, doubled, delayed or reordered without losing a render or a credit.

pub mod conformance;
pub mod faults;
pub mod in_process;
pub mod rabbit;

use async_trait::async_trait;
use kraftr_protocol::message::{Control, Job, Reply, Request};
use kraftr_protocol::{Event, Lane, Progress};

/// Why a message could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The other side is gone for good: this transport was shut down.
    #[error("the transport is closed")]
    Closed,
    /// Nobody confirmed or answered in time; whether the message arrived is unknown.
    #[error("no answer within {millis} ms")]
    Timeout {
        /// How long was waited; 0 when it was plain at once that no answer comes.
        millis: u64,
    },
    /// The broker cannot be reached, or its address is wrong.
    #[error("the broker is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A bounded queue is full.
    #[error("{queue} is full")]
    Full {
        /// Which queue.
        queue: String,
    },
}

impl TransportError {
    /// True when trying again cannot help.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// What a consumer decided about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done with: forget the message.
    Ack,
    /// Not done with: deliver it again, to anyone, marked as redelivered.
    Requeue,
}

/// A message that stays the queue's until it is settled. Dropping it unsettled requeues it, so a
/// consumer that dies gives back what it held.
pub struct Delivery<T> {
    /// The message.
    pub body: T,
    /// True when somebody may have seen it before.
    pub redelivered: bool,
    settle: Option<Box<dyn FnOnce(Settlement) + Send>>,
}

impl<T> Delivery<T> {
    /// A delivery that tells `settle` once what became of it.
    pub fn new(body: T, redelivered: bool, settle: impl FnOnce(Settlement) + Send + 'static) -> Self {
        Self { body, redelivered, settle: Some(Box::new(settle)) }
    }

    /// Settles it; never blocks.
    pub fn settle(mut self, settlement: Settlement) {
        if let Some(settle) = self.settle.take() {
            settle(settlement);
        }
    }

    /// Forget the message.
    pub fn ack(self) {
        self.settle(Settlement::Ack);
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(Settlement::Requeue);
        }
    }
}

/// A call that waits for its answer. Dropping it unanswered ends it for the caller in
/// [`TransportError::Timeout`], at once where the transport can tell.
pub struct Call {
    /// What is asked.
    pub request: Request,
    answer: Box<dyn FnOnce(Reply) + Send>,
}

impl Call {
    /// A call whose answer goes to `answer`.
    pub fn new(request: Request, answer: impl FnOnce(Reply) + Send + 'static) -> Self {
        Self { request, answer: Box::new(answer) }
    }

    /// Answers it; never blocks. An answer to a caller that has gone is dropped.
    pub fn answer(self, reply: Reply) {
        (self.answer)(reply);
    }
}

/// A subscription: messages one by one until the transport closes.
#[async_trait]
pub trait Source<T>: Send {
    /// The next message, or `None` once the transport is closed. Cancel safe: a message is either
    /// returned or stays where it was.
    async fn next(&mut self) -> Option<T>;
}

/// A boxed [`Source`].
pub type BoxSource<T> = Box<dyn Source<T>>;

/// The seam between scheduler and workers.
///
/// Promises, each checked by [`conformance`]:
/// - A job or event that `publish_*` answered `Ok` for is delivered at least once to some consumer
///   that is subscribed now or later, unless the broker loses its storage.
/// - Consumers of one queue compete: an unsettled delivery is with one of them at a time.
/// - A job that is given back too often is given up: it leaves its lane, and
///   [`consume_given_up`](Transport::consume_given_up) delivers it.
/// - A requeued or dropped delivery comes back with `redelivered` set, before what was published
///   after it where nobody else took that in the meantime.
/// - An acknowledged delivery does not come back.
/// - Dropping a source gives back what `next` has not returned yet; deliveries that it did return
///   stay with their holder, who may still settle them.
/// - Lanes are consumed in the order given: a job of an earlier lane is delivered before one of a
///   later lane that waits at the same time.
/// - A consumer holds at most `prefetch` unsettled deliveries.
/// - Progress and control go to every subscriber there is now, and may drop when one is slow.
/// - A call is answered at most once, or ends in [`TransportError::Timeout`].
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Queues a job in its lane; returns once it is safe there.
    async fn publish_job(&self, lane: &Lane, job: Job) -> Result<(), TransportError>;

    /// Takes jobs from `lanes`, at most `prefetch` (one or more) unsettled at a time.
    async fn consume_jobs(
        &self,
        lanes: &[Lane],
        prefetch: usize,
    ) -> Result<BoxSource<Delivery<Job>>, TransportError>;

    /// Takes jobs that were given back too often and given up. Whoever takes one looks at the database: the message
    /// itself decides nothing.
    async fn consume_given_up(&self) -> Result<BoxSource<Delivery<Job>>, TransportError>;

    /// Queues an event; returns once it is safe there.
    async fn publish_event(&self, event: Event) -> Result<(), TransportError>;

    /// Takes events, at most `prefetch` (one or more) unsettled at a time.
    async fn consume_events(&self, prefetch: usize) -> Result<BoxSource<Delivery<Event>>, TransportError>;

    /// Shows progress to whoever listens; never blocks, may drop.
    fn publish_progress(&self, progress: Progress);

    /// Listens to progress.
    async fn consume_progress(&self) -> Result<BoxSource<Progress>, TransportError>;

    /// Asks the scheduler.
    async fn call(&self, request: Request) -> Result<Reply, TransportError>;

    /// Takes calls; schedulers compete for them.
    async fn serve_calls(&self) -> Result<BoxSource<Call>, TransportError>;

    /// Tells every worker; never blocks, may drop.
    fn publish_control(&self, control: Control);

    /// Listens to control.
    async fn consume_control(&self) -> Result<BoxSource<Control>, TransportError>;
}
