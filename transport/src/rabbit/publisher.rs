//! Persistent, confirmed, mandatory: what this says `Ok` to is in a queue on disk.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::link::{Link, Links};
use super::topology::Topology;
use crate::TransportError;

/// Pause before a message that the broker refused is published again.
const PAUSE: Duration = Duration::from_millis(50);

/// Publishes on one channel, many messages at once.
pub(super) struct Publisher {
    links: Arc<Links>,
    topology: Arc<Topology>,
    timeout: Duration,
    open: Mutex<Option<Open>>,
}

/// The channel of one link, and the lanes that were declared on it.
struct Open {
    link: u64,
    channel: Channel,
    declared: HashSet<String>,
}

/// What became of one try.
enum Tried {
    Stored,
    /// No queue took it.
    Returned,
    /// The broker or the channel failed; it may or may not be stored.
    Failed(String),
}

impl Publisher {
    pub(super) fn new(links: Arc<Links>, topology: Arc<Topology>, timeout: Duration) -> Self {
        Self { links, topology, timeout, open: Mutex::default() }
    }

    /// Publishes until the broker confirms. `lane` is the queue to declare first. A try whose outcome is unknown
    /// is repeated, so a message may be stored twice.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        lane: Option<&str>,
        body: &[u8],
    ) -> Result<(), TransportError> {
        let until = Instant::now() + self.timeout;
        let attempts = async {
            loop {
                let link = self.links.standing().await?;
                match self.attempt(&link, exchange, key, lane, body).await {
                    Tried::Stored => return Ok(()),
                    Tried::Returned => {
                        tracing::warn!(
                            queue = key,
                            "a message came back: its queue is gone; declaring it again"
                        );
                        self.forget(&link, lane).await;
                    }
                    Tried::Failed(error) => tracing::warn!(queue = key, error, "publishing again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let timed_out = TransportError::Timeout { millis: self.timeout.as_millis() as u64 };
        tokio::select! {
            outcome = attempts => outcome,
            () = self.links.closed.cancelled() => Err(TransportError::Closed),
            () = tokio::time::sleep_until(until) => Err(timed_out),
        }
    }

    /// Publishes once; false when no queue took it.
    pub(super) async fn try_publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
    ) -> Result<bool, TransportError> {
        let link = self.links.wait(self.timeout).await?;
        let attempt = self.attempt(&link, exchange, key, None, body);
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Tried::Stored) => Ok(true),
            Ok(Tried::Returned) => Ok(false),
            Ok(Tried::Failed(reason)) => Err(TransportError::Unavailable { reason }),
            Err(_) => Err(TransportError::Timeout { millis: self.timeout.as_millis() as u64 }),
        }
    }

    async fn attempt(
        &self,
        link: &Link,
        exchange: &str,
        key: &str,
        lane: Option<&str>,
        body: &[u8],
    ) -> Tried {
        let channel = match self.channel(link, lane).await {
            Ok(channel) => channel,
            Err(error) => return Tried::Failed(error.to_string()),
        };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        link.counters.published();
        let confirmed = async {
            channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
        };
        let confirmation = tokio::select! {
            confirmed = confirmed => confirmed,
            () = self.links.gone(link.number) => return Tried::Failed("the connection was lost".to_owned()),
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => Tried::Stored,
            Ok(Confirmation::Ack(Some(_))) => Tried::Returned,
            Ok(Confirmation::Nack(_)) => Tried::Failed("the broker could not store it".to_owned()),
            Ok(Confirmation::NotRequested) => Tried::Failed("the channel does not confirm".to_owned()),
            Err(error) => Tried::Failed(error.to_string()),
        }
    }

    /// The channel of that link, with the lane declared.
    async fn channel(&self, link: &Link, lane: Option<&str>) -> lapin::Result<Channel> {
        let mut open = self.open.lock().await;
        if open.as_ref().is_none_or(|open| open.link != link.number || !open.channel.status().connected()) {
            let channel = link.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            *open = Some(Open { link: link.number, channel, declared: HashSet::new() });
        }
        let open = open.as_mut().expect("it was opened above");
        if let Some(lane) = lane.filter(|lane| !open.declared.contains(*lane)) {
            // A declaration that is refused closes its channel: not the one that others publish on.
            let channel = link.channel().await?;
            self.topology.declare_lane(&channel, lane).await?;
            channel.close(200, "declared".into()).await?;
            open.declared.insert(lane.to_owned());
        }
        Ok(open.channel.clone())
    }

    async fn forget(&self, link: &Link, lane: Option<&str>) {
        let mut open = self.open.lock().await;
        if let (Some(open), Some(lane)) = (open.as_mut().filter(|open| open.link == link.number), lane) {
            open.declared.remove(lane);
        }
    }
}
