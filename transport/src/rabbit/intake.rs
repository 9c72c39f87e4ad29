//! Deliveries that stay the queue's until they are settled, from one queue or from several in order.
//!
//! One task owns the channel. Broker side prefetch bounds each queue; the bound over all of them is kept
//! here. A later queue gives something only when every earlier one is empty, which is asked with a
//! `basic.get` (the only answer that comes after everything that was delivered before it), and only then:
//! where one queue is consumed, or all are quiet, nothing is asked. What arrives beyond the bound goes back,
//! so that nobody else waits for it.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt as _, Stream as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Link, Links};
use super::topology::Topology;
use crate::{BoxSource, Delivery, Settlement, Source};

/// How long a delivery beyond the bound waits for room before it goes back.
const SURPLUS_FOR: Duration = Duration::from_millis(20);
/// Pause after a failure on a connection that stands.
const PAUSE: Duration = Duration::from_millis(200);

struct Parcel<T> {
    body: T,
    redelivered: bool,
    session: u64,
    tag: u64,
}

/// What was decided about a delivery.
struct Settled {
    session: u64,
    tag: u64,
    settlement: Settlement,
}

/// What `next` may return, by queue, and how much of it was returned and is not settled.
struct Shelf<T> {
    ready: Vec<VecDeque<Parcel<T>>>,
    held: usize,
}

struct Shared<T> {
    shelf: Mutex<Shelf<T>>,
    filled: Notify,
}

impl<T> Shared<T> {
    fn shelf(&self) -> MutexGuard<'_, Shelf<T>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Intake<T> {
    links: Arc<Links>,
    shared: Arc<Shared<T>>,
    settlements: mpsc::UnboundedSender<Settled>,
    _gone: DropGuard,
}

/// Consumes `queues`, the first first, at most `prefetch` unsettled at a time.
pub(super) fn start<T: DeserializeOwned + Send + 'static>(
    links: Arc<Links>,
    topology: Arc<Topology>,
    queues: Vec<String>,
    prefetch: usize,
) -> BoxSource<Delivery<T>> {
    let ready = queues.iter().map(|_| VecDeque::new()).collect();
    let shelf = Mutex::new(Shelf { ready, held: 0 });
    let shared = Arc::new(Shared { shelf, filled: Notify::new() });
    let (settlements, settled) = mpsc::unbounded_channel();
    let gone = CancellationToken::new();
    let feeder = Feeder {
        links: Arc::clone(&links),
        topology,
        queues,
        prefetch,
        shared: Arc::clone(&shared),
        gone: gone.clone(),
        session: 0,
    };
    tokio::spawn(feeder.run(settled));
    Box::new(Intake { links, shared, settlements, _gone: gone.drop_guard() })
}

impl<T: Send + 'static> Intake<T> {
    fn take(&self) -> Option<Delivery<T>> {
        let mut shelf = self.shared.shelf();
        let parcel = shelf.ready.iter_mut().find_map(VecDeque::pop_front)?;
        shelf.held += 1;
        let (shared, settlements) = (Arc::clone(&self.shared), self.settlements.clone());
        let Parcel { body, redelivered, session, tag } = parcel;
        Some(Delivery::new(body, redelivered, move |settlement| {
            shared.shelf().held -= 1;
            // Without a feeder the channel is gone, and the broker has taken the message back.
            settlements.send(Settled { session, tag, settlement }).ok();
        }))
    }
}

#[async_trait]
impl<T: Send + 'static> Source<Delivery<T>> for Intake<T> {
    async fn next(&mut self) -> Option<Delivery<T>> {
        loop {
            let shared = Arc::clone(&self.shared);
            let filled = shared.filled.notified();
            if self.links.closed.is_cancelled() {
                return None;
            }
            if let Some(delivery) = self.take() {
                return Some(delivery);
            }
            tokio::select! {
                () = self.links.closed.cancelled() => return None,
                () = filled => {}
            }
        }
    }
}

/// The task behind an intake.
struct Feeder<T> {
    links: Arc<Links>,
    topology: Arc<Topology>,
    queues: Vec<String>,
    prefetch: usize,
    shared: Arc<Shared<T>>,
    gone: CancellationToken,
    session: u64,
}

impl<T: DeserializeOwned + Send + 'static> Feeder<T> {
    async fn run(mut self, mut settled: mpsc::UnboundedReceiver<Settled>) {
        while let Ok(link) = self.links.standing().await {
            self.session += 1;
            let links = Arc::clone(&self.links);
            let outcome = tokio::select! {
                outcome = self.feed(&link, &mut settled) => outcome,
                () = links.gone(link.number) => Ok(false),
            };
            // The broker has taken everything back that was not settled.
            self.shared.shelf().ready.iter_mut().for_each(VecDeque::clear);
            match outcome {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) if self.links.closed.is_cancelled() => return,
                Err(error) => tracing::warn!(%error, queues = ?self.queues, "consuming on a new channel"),
            }
            if self.gone.is_cancelled() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Feeds from one channel; true when the intake is gone and everything it had returned is settled.
    async fn feed(&self, link: &Link, settled: &mut mpsc::UnboundedReceiver<Settled>) -> lapin::Result<bool> {
        for queue in &self.queues {
            let channel = link.channel().await?;
            self.topology.declare_consumed(&channel, queue).await?;
            channel.close(200, "declared".into()).await?;
        }
        let channel = link.channel().await?;
        let prefetch = u16::try_from(self.prefetch).unwrap_or(u16::MAX);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let lanes = self.queues.iter().map(|queue| LaneFeed::new(queue.clone())).collect();
        let mut session = Session {
            feeder: self,
            channel,
            lanes,
            unsettled: BTreeSet::new(),
            seen: Seen::default(),
            surplus_since: None,
        };
        session.feed(settled).await
    }
}

/// One queue of a session.
struct LaneFeed<T> {
    queue: String,
    consumer: Option<Consumer>,
    surplus: VecDeque<Parcel<T>>,
}

impl<T> LaneFeed<T> {
    fn new(queue: String) -> Self {
        Self { queue, consumer: None, surplus: VecDeque::new() }
    }
}

/// Tags rise by one on a channel, but its consumers hand them over side by side.
#[derive(Default)]
struct Seen {
    /// This tag and every one before it was seen.
    all_up_to: u64,
    beyond: BTreeSet<u64>,
}

impl Seen {
    fn note(&mut self, tag: u64) {
        self.beyond.insert(tag);
        while self.beyond.remove(&(self.all_up_to + 1)) {
            self.all_up_to += 1;
        }
    }
}

/// What lives as long as one channel.
struct Session<'f, T> {
    feeder: &'f Feeder<T>,
    channel: Channel,
    lanes: Vec<LaneFeed<T>>,
    /// Tags that the broker waits for.
    unsettled: BTreeSet<u64>,
    seen: Seen,
    surplus_since: Option<Instant>,
}

impl<T: DeserializeOwned + Send + 'static> Session<'_, T> {
    async fn feed(&mut self, settled: &mut mpsc::UnboundedReceiver<Settled>) -> lapin::Result<bool> {
        let gone = self.feeder.gone.clone();
        loop {
            if !gone.is_cancelled() {
                self.fill().await?;
            } else if self.unsettled.is_empty() {
                self.channel.close(200, "done".into()).await?;
                return Ok(true);
            }
            let surplus = self.lanes.iter().any(|lane| !lane.surplus.is_empty());
            self.surplus_since = surplus.then(|| self.surplus_since.unwrap_or_else(Instant::now));
            let give_back = self.surplus_since.map_or_else(Instant::now, |since| since + SURPLUS_FOR);
            tokio::select! {
                arrived = arrival(&mut self.lanes) => match arrived {
                    (at, Some(message)) => self.arrived(at, message?).await?,
                    // The broker cancelled the consumer: its queue is gone or moved.
                    (_, None) => return Ok(false),
                },
                first = settled.recv() => match first {
                    Some(first) => self.settle(first, settled).await?,
                    None => return Ok(true),
                },
                () = tokio::time::sleep_until(give_back), if surplus => self.give_back().await?,
                () = gone.cancelled(), if self.is_consuming() => self.leave().await?,
            }
        }
    }

    fn is_consuming(&self) -> bool {
        self.lanes.iter().any(|lane| lane.consumer.is_some())
    }

    fn room(&self) -> usize {
        let shelf = self.feeder.shared.shelf();
        let ready: usize = shelf.ready.iter().map(VecDeque::len).sum();
        self.feeder.prefetch.saturating_sub(shelf.held + ready)
    }

    /// Moves what may be returned onto the shelf, earlier queues first.
    async fn fill(&mut self) -> lapin::Result<()> {
        for at in 0..self.lanes.len() {
            self.shelve(at);
            if self.room() == 0 {
                return Ok(());
            }
            if self.lanes[at].consumer.is_none() {
                let queue = self.lanes[at].queue.as_str().into();
                let options = BasicConsumeOptions::default();
                let consumer =
                    self.channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
                self.lanes[at].consumer = Some(consumer);
            }
            let later = &self.lanes[at + 1..];
            if later.iter().any(|lane| lane.consumer.is_none() || !lane.surplus.is_empty())
                && !self.empty(at).await?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes from that queue until it is empty; false when there is no more room before that.
    async fn empty(&mut self, at: usize) -> lapin::Result<bool> {
        while self.room() > 0 {
            let queue = self.lanes[at].queue.as_str().into();
            let got = self.channel.basic_get(queue, BasicGetOptions::default()).await?;
            // Whatever was delivered before the answer is here by now.
            while let Some(consumer) = &mut self.lanes[at].consumer
                && let Some(Some(message)) = consumer.next().now_or_never()
            {
                self.arrived(at, message?).await?;
            }
            let nothing = got.is_none() && self.lanes[at].surplus.is_empty();
            if let Some(message) = got {
                self.arrived(at, message.delivery).await?;
            }
            self.shelve(at);
            if nothing {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn shelve(&mut self, at: usize) {
        let mut room = self.room();
        let mut shelf = self.feeder.shared.shelf();
        while room > 0
            && let Some(parcel) = self.lanes[at].surplus.pop_front()
        {
            shelf.ready[at].push_back(parcel);
            room -= 1;
            self.feeder.shared.filled.notify_waiters();
        }
    }

    async fn arrived(&mut self, at: usize, message: lapin::message::Delivery) -> lapin::Result<()> {
        let tag = message.delivery_tag;
        self.feeder.links.counters.delivered();
        self.seen.note(tag);
        match serde_json::from_slice(&message.data) {
            Ok(body) => {
                self.unsettled.insert(tag);
                let parcel =
                    Parcel { body, redelivered: message.redelivered, session: self.feeder.session, tag };
                self.lanes[at].surplus.push_back(parcel);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, queue = self.lanes[at].queue, "a message that cannot be read is given up");
                self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await
            }
        }
    }

    /// Tells the broker about everything that was decided by now.
    async fn settle(
        &mut self,
        first: Settled,
        settled: &mut mpsc::UnboundedReceiver<Settled>,
    ) -> lapin::Result<()> {
        let mut acks = BTreeSet::new();
        let mut next = Some(first);
        while let Some(Settled { session, tag, settlement }) = next {
            // A tag of an earlier channel means nothing on this one.
            if session == self.feeder.session && self.unsettled.contains(&tag) {
                match settlement {
                    Settlement::Ack => drop(acks.insert(tag)),
                    Settlement::Requeue => self.requeue(tag).await?,
                }
            }
            next = settled.try_recv().ok();
        }
        // One acknowledgement for all that come before anything undecided or still on its way here.
        let (mut last, mut count) = (0, 0);
        while let Some(&tag) = self.unsettled.first()
            && tag <= self.seen.all_up_to
            && acks.remove(&tag)
        {
            self.unsettled.remove(&tag);
            (last, count) = (tag, count + 1);
        }
        if count > 0 {
            self.channel.basic_ack(last, BasicAckOptions { multiple: count > 1 }).await?;
        }
        for tag in acks {
            self.unsettled.remove(&tag);
            self.channel.basic_ack(tag, BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    async fn requeue(&mut self, tag: u64) -> lapin::Result<()> {
        self.unsettled.remove(&tag);
        self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await
    }

    /// Stops consuming the queues that have more than there is room for, and gives that back.
    async fn give_back(&mut self) -> lapin::Result<()> {
        for at in 0..self.lanes.len() {
            if !self.lanes[at].surplus.is_empty() {
                self.stop_consuming(at).await?;
            }
        }
        Ok(())
    }

    /// The intake is gone: everything goes back that it has not returned.
    async fn leave(&mut self) -> lapin::Result<()> {
        for at in 0..self.lanes.len() {
            self.stop_consuming(at).await?;
            let ready = std::mem::take(&mut self.feeder.shared.shelf().ready[at]);
            for parcel in ready {
                self.requeue(parcel.tag).await?;
            }
        }
        Ok(())
    }

    async fn stop_consuming(&mut self, at: usize) -> lapin::Result<()> {
        if let Some(mut consumer) = self.lanes[at].consumer.take() {
            self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            while let Some(Some(message)) = consumer.next().now_or_never() {
                self.arrived(at, message?).await?;
            }
        }
        let surplus = std::mem::take(&mut self.lanes[at].surplus);
        for parcel in surplus {
            self.requeue(parcel.tag).await?;
        }
        Ok(())
    }
}

/// The next message of any queue that is consumed; `None` when its consumer has ended.
async fn arrival<T>(lanes: &mut [LaneFeed<T>]) -> (usize, Option<lapin::Result<lapin::message::Delivery>>) {
    std::future::poll_fn(|context| {
        for (at, lane) in lanes.iter_mut().enumerate() {
            if let Some(consumer) = &mut lane.consumer
                && let Poll::Ready(message) = Pin::new(consumer).poll_next(context)
            {
                return Poll::Ready((at, message));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_not_seen_past() {
        let mut seen = Seen::default();
        for (tag, all_up_to) in [(1, 1), (3, 1), (4, 1), (2, 4), (6, 4), (5, 6)] {
            seen.note(tag);
            assert_eq!(seen.all_up_to, all_up_to);
        }
        assert!(seen.beyond.is_empty());
    }
}
