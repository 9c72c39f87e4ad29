//! The transport inside one process: bounded queues behind mutexes.
//!
//! Publishing and settling happen in the call itself, and every `next` looks at its queue before it
//! waits, so a simulator that polls each source once (`now_or_never`) sees everything that was
//! published before. Nothing here uses a timer except a call's time limit, and that only when one is
//! configured.

mod broadcast;
mod calls;
mod queue;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use kraftr_protocol::message::{Control, Job, Reply, Request};
use kraftr_protocol::{Event, Lane, Progress};
use tokio::sync::Notify;

use self::broadcast::Broadcast;
use self::calls::Calls;
use self::queue::Queue;
use crate::{BoxSource, Call, Delivery, Transport, TransportError};

/// Jobs that wait in one lane. The dispatcher's window keeps far fewer there.
pub const JOBS_PER_LANE_MAX: usize = 4_096;
/// How often a job may be given back before it is given up.
pub const REQUEUES_MAX: u32 = 1_000;
/// Events that wait for the scheduler.
pub const EVENTS_MAX: usize = 65_536;
/// Calls that wait for the scheduler.
pub const CALLS_MAX: usize = 4_096;
/// Broadcasts that wait for one subscriber before its oldest are dropped.
pub const BROADCASTS_MAX: usize = 1_024;
/// How long a call waits for its answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds of an [`InProcess`] transport.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Jobs that wait in one lane; requeued ones may exceed it.
    pub jobs_per_lane: usize,
    /// How often a job may be given back before it is given up.
    pub requeues: u32,
    /// Events that wait; requeued ones may exceed it.
    pub events: usize,
    /// Calls that wait.
    pub calls: usize,
    /// Broadcasts that wait for one subscriber before its oldest are dropped.
    pub broadcasts: usize,
    /// How long a call waits for its answer; `None` waits until it is answered or dropped, and needs
    /// no timer.
    pub call_timeout: Option<Duration>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            jobs_per_lane: JOBS_PER_LANE_MAX,
            requeues: REQUEUES_MAX,
            events: EVENTS_MAX,
            calls: CALLS_MAX,
            broadcasts: BROADCASTS_MAX,
            call_timeout: Some(CALL_TIMEOUT),
        }
    }
}

/// A transport for scheduler and workers of one process. Clones share their queues; the last one to
/// go closes them.
#[derive(Clone)]
pub struct InProcess {
    shared: Arc<Shared>,
}

struct Shared {
    jobs: Arc<Queue<Lane, Job>>,
    events: Arc<Queue<(), Event>>,
    /// Jobs that were given back too often.
    given_up: Arc<Queue<(), Job>>,
    calls: Arc<Calls>,
    progress: Broadcast<Progress>,
    control: Broadcast<Control>,
}

impl InProcess {
    /// Empty queues with these bounds.
    pub fn new(bounds: Bounds) -> Self {
        let given_up = Arc::new(Queue::new(|()| "what was given up".to_owned(), bounds.jobs_per_lane));
        let jobs = Queue::new(|lane: &Lane| format!("lane {lane}"), bounds.jobs_per_lane);
        Self {
            shared: Arc::new(Shared {
                jobs: Arc::new(jobs.giving_up(bounds.requeues, Arc::clone(&given_up))),
                events: Arc::new(Queue::new(|()| "the event queue".to_owned(), bounds.events)),
                given_up,
                calls: Arc::new(Calls::new(bounds.calls, bounds.call_timeout)),
                progress: Broadcast::new(bounds.broadcasts),
                control: Broadcast::new(bounds.broadcasts),
            }),
        }
    }

    /// Ends every subscription, refuses everything published from now on and forgets what waits.
    /// Closing twice is fine.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.jobs.close();
        self.events.close();
        self.given_up.close();
        self.calls.close();
        self.progress.close();
        self.control.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn publish_job(&self, lane: &Lane, job: Job) -> Result<(), TransportError> {
        self.shared.jobs.publish(lane.clone(), job)
    }

    async fn consume_jobs(
        &self,
        lanes: &[Lane],
        prefetch: usize,
    ) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.shared.jobs.consume(lanes.to_vec(), prefetch)
    }

    async fn consume_given_up(&self) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.shared.given_up.consume(vec![()], 1)
    }

    async fn publish_event(&self, event: Event) -> Result<(), TransportError> {
        self.shared.events.publish((), event)
    }

    async fn consume_events(&self, prefetch: usize) -> Result<BoxSource<Delivery<Event>>, TransportError> {
        self.shared.events.consume(vec![()], prefetch)
    }

    fn publish_progress(&self, progress: Progress) {
        self.shared.progress.publish(&progress);
    }

    async fn consume_progress(&self) -> Result<BoxSource<Progress>, TransportError> {
        self.shared.progress.subscribe()
    }

    async fn call(&self, request: Request) -> Result<Reply, TransportError> {
        self.shared.calls.call(request).await
    }

    async fn serve_calls(&self) -> Result<BoxSource<Call>, TransportError> {
        self.shared.calls.serve()
    }

    fn publish_control(&self, control: Control) {
        self.shared.control.publish(&control);
    }

    async fn consume_control(&self) -> Result<BoxSource<Control>, TransportError> {
        self.shared.control.subscribe()
    }
}

/// What waits in a queue, until it is closed.
struct Backlog<T> {
    closed: bool,
    waiting: T,
}

impl<T: Default> Backlog<T> {
    fn new() -> Mutex<Self> {
        Mutex::new(Self { closed: false, waiting: T::default() })
    }
}

/// Backlogs stay consistent between any two statements, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `take` now and after every notification until it is ready. The wish to be notified comes
/// before the look, so that nothing falls in between.
async fn wait<T>(changed: &Notify, mut take: impl FnMut() -> Poll<T>) -> T {
    loop {
        let notified = changed.notified();
        if let Poll::Ready(taken) = take() {
            return taken;
        }
        notified.await;
    }
}

/// `Full` when `waiting` has reached `capacity`.
fn admit<T>(
    waiting: &VecDeque<T>,
    capacity: usize,
    name: impl FnOnce() -> String,
) -> Result<(), TransportError> {
    if waiting.len() < capacity { Ok(()) } else { Err(TransportError::Full { queue: name() }) }
}
