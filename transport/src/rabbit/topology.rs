//! Exchanges and queues: their names and how they are declared. Declaring what is there changes nothing.

use std::time::Duration;

use kraftr_protocol::Lane;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use super::link::Link;

/// The reply code for what is not there.
const NOT_FOUND: u16 = 404;
/// Messages that the broker gave up and that are kept to be looked at.
const DEAD_MAX: i64 = 100_000;
/// Calls that wait for a scheduler.
const CALLS_MAX: i64 = 10_000;
/// Broadcasts that wait for one listener before its oldest are dropped.
const BROADCASTS_MAX: i64 = 1_024;

pub(super) struct Topology {
    namespace: String,
    delivery_limit: u32,
    call_timeout: Duration,
}

impl Topology {
    pub(super) fn new(namespace: &str, delivery_limit: u32, call_timeout: Duration) -> Self {
        Self { namespace: namespace.to_owned(), delivery_limit, call_timeout }
    }

    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    pub(super) fn jobs(&self) -> String {
        self.named("jobs")
    }

    /// The queue of a lane, which is also its routing key.
    pub(super) fn lane(&self, lane: &Lane) -> String {
        self.named(&format!("jobs.{lane}"))
    }

    pub(super) fn events(&self) -> String {
        self.named("events")
    }

    pub(super) fn calls(&self) -> String {
        self.named("calls")
    }

    pub(super) fn progress(&self) -> String {
        self.named("progress")
    }

    pub(super) fn control(&self) -> String {
        self.named("control")
    }

    pub(super) fn dead(&self) -> String {
        self.named("dead")
    }

    pub(super) fn dead_events(&self) -> String {
        self.named("dead.events")
    }

    /// Everything but the lanes, which are declared when somebody uses them.
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        for (name, kind) in [
            (self.jobs(), ExchangeKind::Direct),
            (self.progress(), ExchangeKind::Fanout),
            (self.control(), ExchangeKind::Fanout),
        ] {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await?;
        }
        for dead in [self.dead(), self.dead_events()] {
            let bounds = [("x-max-length", DEAD_MAX.into()), ("x-overflow", text("drop-head"))];
            declare_queue(channel, &dead, "quorum", &bounds).await?;
        }
        declare_queue(channel, &self.events(), "quorum", &self.limits(&self.dead_events())).await?;
        let ttl = i64::try_from(self.call_timeout.as_millis()).unwrap_or(i64::MAX);
        let bounds = [
            ("x-message-ttl", ttl.into()),
            ("x-max-length", CALLS_MAX.into()),
            ("x-overflow", text("drop-head")),
        ];
        declare_queue(channel, &self.calls(), "classic", &bounds).await
    }

    /// The queue of a lane, by its name.
    pub(super) async fn declare_lane(&self, channel: &Channel, queue: &str) -> lapin::Result<()> {
        declare_queue(channel, queue, "quorum", &self.limits(&self.dead())).await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), self.jobs().into(), queue.into(), options, FieldTable::default())
            .await
    }

    /// A queue that is about to be consumed.
    pub(super) async fn declare_consumed(&self, channel: &Channel, queue: &str) -> lapin::Result<()> {
        if queue.starts_with(&self.named("jobs.")) { self.declare_lane(channel, queue).await } else { Ok(()) }
    }

    /// A listener's own queue of a fanout exchange; it goes with its connection.
    pub(super) async fn declare_listener(channel: &Channel, exchange: &str) -> lapin::Result<String> {
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let bounds = [("x-max-length", BROADCASTS_MAX.into()), ("x-overflow", text("drop-head"))];
        let queue = channel.queue_declare("".into(), options, table(&bounds)).await?;
        let name = queue.name().as_str().to_owned();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name.as_str().into(), exchange.into(), "".into(), options, FieldTable::default())
            .await?;
        Ok(name)
    }

    /// Nothing is delivered for ever, and what is given up is kept in `dead`.
    fn limits(&self, dead: &str) -> [(&'static str, AMQPValue); 3] {
        [
            ("x-delivery-limit", i64::from(self.delivery_limit).into()),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(dead)),
        ]
    }
}

/// Messages that wait in a queue and its consumers; `None` when there is no such queue.
pub(super) async fn depth(link: &Link, queue: &str) -> lapin::Result<Option<(u32, u32)>> {
    // A queue that is not there closes the channel.
    let channel = link.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
        Ok(found) => {
            channel.close(200, "looked".into()).await?;
            Ok(Some((found.message_count(), found.consumer_count())))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal) if refusal.get_id() == NOT_FOUND)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn table(arguments: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    table
}

async fn declare_queue(
    channel: &Channel,
    name: &str,
    kind: &str,
    arguments: &[(&str, AMQPValue)],
) -> lapin::Result<()> {
    let mut arguments = table(arguments);
    arguments.insert("x-queue-type".into(), text(kind));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.map(drop)
}
