//! To everyone who listens now; may drop, blocks nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::link::{Link, Links};
use super::topology::Topology;
use crate::{BoxSource, Source, TransportError};

/// Messages that wait to be published, and for one listener, before the oldest are dropped.
const WAITING_MAX: usize = 1_024;
/// How long a new listener waits until the broker knows it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failure on a connection that stands.
const PAUSE: Duration = Duration::from_millis(500);

/// A bounded line whose oldest make way.
pub(super) struct Line<T> {
    waiting: Mutex<VecDeque<T>>,
    added: Notify,
}

impl<T> Line<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), added: Notify::new() })
    }

    pub(super) fn add(&self, message: T) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= WAITING_MAX {
                waiting.pop_front();
            }
            waiting.push_back(message);
        }
        self.added.notify_one();
    }

    /// The oldest. Cancel safe.
    pub(super) async fn next(&self) -> T {
        loop {
            let added = self.added.notified();
            if let Some(message) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return message;
            }
            added.await;
        }
    }
}

/// The publishing side of one fanout exchange.
pub(super) struct Broadcast {
    line: Arc<Line<Vec<u8>>>,
    _task: AbortOnDropHandle<()>,
}

impl Broadcast {
    pub(super) fn start(links: Arc<Links>, exchange: String) -> Self {
        let line = Line::new();
        let task = tokio::spawn(publish_all(links, exchange, Arc::clone(&line)));
        Self { line, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn publish(&self, body: Vec<u8>) {
        self.line.add(body);
    }
}

async fn publish_all(links: Arc<Links>, exchange: String, line: Arc<Line<Vec<u8>>>) {
    while let Ok(link) = links.standing().await {
        if let Err(error) = publish_on(&link, &exchange, &line).await {
            tracing::debug!(%error, exchange, "a broadcast was dropped");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn publish_on(link: &Link, exchange: &str, line: &Line<Vec<u8>>) -> lapin::Result<()> {
    let channel = link.channel().await?;
    loop {
        let body = line.next().await;
        let options = BasicPublishOptions::default();
        link.counters.published();
        channel.basic_publish(exchange.into(), "".into(), options, &body, BasicProperties::default()).await?;
    }
}

/// Listens; returns once the broker has the listener's queue, where it answers in time.
pub(super) async fn subscribe<T: DeserializeOwned + Send + 'static>(
    links: Arc<Links>,
    exchange: String,
) -> Result<BoxSource<T>, TransportError> {
    links.open_or_closed()?;
    let line = Line::new();
    let (ready, heard) = oneshot::channel();
    let task = tokio::spawn(hear_all(Arc::clone(&links), exchange, Arc::clone(&line), ready));
    // A broker that is away now will be listened to when it is back.
    tokio::time::timeout(PATIENCE, heard).await.ok();
    Ok(Box::new(Listener { links, line, _task: AbortOnDropHandle::new(task) }))
}

struct Listener<T> {
    links: Arc<Links>,
    line: Arc<Line<T>>,
    _task: AbortOnDropHandle<()>,
}

#[async_trait]
impl<T: Send + 'static> Source<T> for Listener<T> {
    async fn next(&mut self) -> Option<T> {
        tokio::select! {
            biased;
            () = self.links.closed.cancelled() => None,
            message = self.line.next() => Some(message),
        }
    }
}

async fn hear_all<T: DeserializeOwned>(
    links: Arc<Links>,
    exchange: String,
    line: Arc<Line<T>>,
    ready: oneshot::Sender<()>,
) {
    let mut ready = Some(ready);
    while let Ok(link) = links.standing().await {
        if let Err(error) = hear(&link, &exchange, &line, &mut ready).await {
            tracing::debug!(%error, exchange, "listening again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn hear<T: DeserializeOwned>(
    link: &Link,
    exchange: &str,
    line: &Line<T>,
    ready: &mut Option<oneshot::Sender<()>>,
) -> lapin::Result<()> {
    let channel = link.channel().await?;
    let queue = Topology::declare_listener(&channel, exchange).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut messages =
        channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    if let Some(ready) = ready.take() {
        // Whoever waited may have stopped waiting.
        ready.send(()).ok();
    }
    while let Some(message) = messages.next().await {
        link.counters.delivered();
        match serde_json::from_slice(&message?.data) {
            Ok(message) => line.add(message),
            Err(error) => tracing::warn!(%error, exchange, "a broadcast that cannot be read was dropped"),
        }
    }
    Ok(())
}
