//! The transport over RabbitMQ, 3.10 or later.
//!
//! ```text
//! <ns>.jobs      direct   -> <ns>.jobs.<lane>   quorum, one for each lane; given up: -> <ns>.dead, a queue
//! <ns>.events    queue, quorum                                             given up: -> <ns>.dead.events
//! <ns>.calls     queue, bounded in time and length; answers by direct reply-to
//! <ns>.progress  fanout   -> an exclusive, bounded queue of each listener
//! <ns>.control   fanout   -> an exclusive, bounded queue of each listener
//! ```
//!
//! The namespace carries the version: a change of an argument is a new namespace. Everything is declared
//! again after each connection. Jobs and events are persistent and confirmed, with as many in flight as are
//! published; calls that wait at the same moment travel together. One supervisor keeps the connection
//! (module `link`); whoever needs a channel takes it from the link that stands and takes another when it breaks.

mod broadcast;
mod calls;
mod intake;
mod link;
mod publisher;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kraftr_protocol::message::{Control, Job, Reply, Request};
use kraftr_protocol::{Event, Lane, Progress};
use secrecy::{ExposeSecret as _, SecretString};

use self::broadcast::Broadcast;
use self::calls::Calls;
use self::link::Links;
use self::publisher::Publisher;
use self::topology::Topology;
use crate::{BoxSource, Call, Delivery, Transport, TransportError};

/// How a [`RabbitMq`] behaves.
#[derive(Debug, Clone)]
pub struct RabbitConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…`.
    pub url: SecretString,
    /// What every exchange and queue is named after; a version is part of it.
    pub namespace: String,
    /// How long the first connection is waited for.
    pub patience: Duration,
    /// How long a job or event may wait for the broker's confirmation, reconnections included.
    pub confirm_timeout: Duration,
    /// How long a call waits for its answer.
    pub call_timeout: Duration,
    /// Deliveries of one job or event before the broker gives it up. High, since a lost connection counts as one.
    pub delivery_limit: u32,
}

impl RabbitConfig {
    /// The defaults, for the broker at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            namespace: "kraftr.v1".into(),
            patience: Duration::from_secs(30),
            confirm_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
            delivery_limit: 1_000,
        }
    }
}

/// Given-up jobs that a consumer holds at most.
const GIVEN_UP_AT_ONCE: usize = 16;

/// How many messages there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// Handed to the broker.
    pub published: u64,
    /// Taken from it.
    pub delivered: u64,
}

/// What is in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// Its name.
    pub queue: String,
    /// Messages that wait and consumers that take them; absent when there is no such queue.
    pub depth: Option<(u32, u32)>,
}

/// [`Transport`] over RabbitMQ. Dropping it closes it without waiting.
pub struct RabbitMq {
    links: Arc<Links>,
    topology: Arc<Topology>,
    publisher: Publisher,
    calls: Arc<Calls>,
    progress: Broadcast,
    control: Broadcast,
}

impl RabbitMq {
    /// Connects; returns once the broker has everything that is declared at the start, or when the patience
    /// is over. From then on it lives through every restart of the broker.
    pub async fn connect(config: RabbitConfig) -> Result<Self, TransportError> {
        let topology = Arc::new(Topology::new(&config.namespace, config.delivery_limit, config.call_timeout));
        let links = Links::open(config.url.expose_secret(), Arc::clone(&topology))?;
        links.wait(config.patience).await?;
        Ok(Self {
            publisher: Publisher::new(Arc::clone(&links), Arc::clone(&topology), config.confirm_timeout),
            calls: Calls::start(Arc::clone(&links), topology.calls(), config.call_timeout),
            progress: Broadcast::start(Arc::clone(&links), topology.progress()),
            control: Broadcast::start(Arc::clone(&links), topology.control()),
            links,
            topology,
        })
    }

    /// What waits in the queues of these lanes, in the events' queue and in the two queues of what was given up.
    pub async fn depths(&self, lanes: &[Lane]) -> Result<Vec<QueueDepth>, TransportError> {
        let lanes = lanes.iter().map(|lane| self.topology.lane(lane));
        let others = [self.topology.events(), self.topology.dead(), self.topology.dead_events()];
        let link = self.links.standing().await?;
        let mut depths = Vec::new();
        for queue in lanes.chain(others) {
            let depth = topology::depth(&link, &queue).await;
            let depth = depth.map_err(|error| TransportError::Unavailable { reason: error.to_string() })?;
            depths.push(QueueDepth { queue, depth });
        }
        Ok(depths)
    }

    /// Messages that were handed to the broker and taken from it since this was made. Calls that travel together are
    /// one message.
    pub fn messages(&self) -> Messages {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.links.counters;
        Messages { published: count(&counters.published), delivered: count(&counters.delivered) }
    }

    /// Tells every worker and waits until the broker has handed it to their queues; false when nobody listens.
    pub async fn tell(&self, control: Control) -> Result<bool, TransportError> {
        self.publisher.try_publish(&self.topology.control(), "", &json(&control)).await
    }

    /// The queue of a lane.
    pub fn queue_of(&self, lane: &Lane) -> String {
        self.topology.lane(lane)
    }

    /// Ends every subscription, refuses everything from now on, and closes the connection. What was published is
    /// confirmed already; calls under way end in a timeout.
    pub async fn close(&self) {
        self.links.close().await;
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.links.stop();
    }
}

fn json<T: serde::Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have string keys only")
}

#[async_trait]
impl Transport for RabbitMq {
    async fn publish_job(&self, lane: &Lane, job: Job) -> Result<(), TransportError> {
        let queue = self.topology.lane(lane);
        self.publisher.publish(&self.topology.jobs(), &queue, Some(&queue), &json(&job)).await
    }

    async fn consume_jobs(
        &self,
        lanes: &[Lane],
        prefetch: usize,
    ) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.links.open_or_closed()?;
        let queues = lanes.iter().map(|lane| self.topology.lane(lane)).collect();
        Ok(intake::start(Arc::clone(&self.links), Arc::clone(&self.topology), queues, prefetch))
    }

    async fn consume_given_up(&self) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.links.open_or_closed()?;
        let queues = vec![self.topology.dead()];
        Ok(intake::start(Arc::clone(&self.links), Arc::clone(&self.topology), queues, GIVEN_UP_AT_ONCE))
    }

    async fn publish_event(&self, event: Event) -> Result<(), TransportError> {
        self.publisher.publish("", &self.topology.events(), None, &json(&event)).await
    }

    async fn consume_events(&self, prefetch: usize) -> Result<BoxSource<Delivery<Event>>, TransportError> {
        self.links.open_or_closed()?;
        let queues = vec![self.topology.events()];
        Ok(intake::start(Arc::clone(&self.links), Arc::clone(&self.topology), queues, prefetch))
    }

    fn publish_progress(&self, progress: Progress) {
        self.progress.publish(json(&progress));
    }

    async fn consume_progress(&self) -> Result<BoxSource<Progress>, TransportError> {
        broadcast::subscribe(Arc::clone(&self.links), self.topology.progress()).await
    }

    async fn call(&self, request: Request) -> Result<Reply, TransportError> {
        self.calls.call(request).await
    }

    async fn serve_calls(&self) -> Result<BoxSource<Call>, TransportError> {
        self.links.open_or_closed()?;
        Ok(calls::serve(Arc::clone(&self.links), self.topology.calls()))
    }

    fn publish_control(&self, control: Control) {
        self.control.publish(json(&control));
    }

    async fn consume_control(&self) -> Result<BoxSource<Control>, TransportError> {
        broadcast::subscribe(Arc::clone(&self.links), self.topology.control()).await
    }
}
