//! Competing consumers over named queues, each message with one of them at a time.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Backlog, admit, lock, wait};
use crate::{BoxSource, Delivery, Settlement, Source, TransportError};

/// A message with its place in the order of publishing, to which it returns when it is requeued.
struct Parcel<T> {
    place: u64,
    body: T,
    /// How often it was given back.
    requeues: u32,
}

struct Waiting<K, T> {
    places: u64,
    queues: HashMap<K, VecDeque<Parcel<T>>>,
}

impl<K, T> Default for Waiting<K, T> {
    fn default() -> Self {
        Self { places: 0, queues: HashMap::new() }
    }
}

pub(super) struct Queue<K, T> {
    name: fn(&K) -> String,
    capacity: usize,
    backlog: Mutex<Backlog<Waiting<K, T>>>,
    changed: Notify,
    gives_up: Option<GivesUp<T>>,
}

/// Where messages go that are given back once too often.
struct GivesUp<T> {
    requeues_max: u32,
    to: Arc<Queue<(), T>>,
}

impl<K, T> Queue<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + 'static,
{
    pub(super) fn new(name: fn(&K) -> String, capacity: usize) -> Self {
        Self { name, capacity, backlog: Backlog::new(), changed: Notify::new(), gives_up: None }
    }

    /// The same, but what is given back more than `requeues_max` times goes to another queue.
    pub(super) fn giving_up(self, requeues_max: u32, to: Arc<Queue<(), T>>) -> Self {
        Self { gives_up: Some(GivesUp { requeues_max, to }), ..self }
    }

    pub(super) fn publish(&self, key: K, body: T) -> Result<(), TransportError> {
        {
            let mut backlog = lock(&self.backlog);
            if backlog.closed {
                return Err(TransportError::Closed);
            }
            let Waiting { places, queues } = &mut backlog.waiting;
            if let Some(queue) = queues.get(&key) {
                admit(queue, self.capacity, || (self.name)(&key))?;
            }
            let queue = queues.entry(key).or_default();
            queue.push_back(Parcel { place: *places, body, requeues: 0 });
            *places += 1;
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn consume(
        self: &Arc<Self>,
        keys: Vec<K>,
        prefetch: usize,
    ) -> Result<BoxSource<Delivery<T>>, TransportError> {
        if lock(&self.backlog).closed {
            return Err(TransportError::Closed);
        }
        Ok(Box::new(Consumer { queue: Arc::clone(self), keys, prefetch, held: Arc::default() }))
    }

    pub(super) fn close(&self) {
        {
            let mut backlog = lock(&self.backlog);
            backlog.closed = true;
            backlog.waiting.queues.clear();
        }
        self.changed.notify_waiters();
    }

    fn requeue(&self, key: K, parcel: Parcel<T>) {
        if let Some(GivesUp { requeues_max, to }) = &self.gives_up
            && parcel.requeues >= *requeues_max
        {
            if let Err(error) = to.publish((), parcel.body) {
                tracing::warn!(%error, queue = (self.name)(&key), "a message that was given up is dropped");
            }
            return;
        }
        let mut backlog = lock(&self.backlog);
        if backlog.closed {
            return;
        }
        let queue = backlog.waiting.queues.entry(key).or_default();
        let at = queue.partition_point(|other| other.place < parcel.place);
        queue.insert(at, Parcel { requeues: parcel.requeues + 1, ..parcel });
    }
}

struct Consumer<K, T> {
    queue: Arc<Queue<K, T>>,
    keys: Vec<K>,
    prefetch: usize,
    held: Arc<AtomicUsize>,
}

impl<K, T> Consumer<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + 'static,
{
    fn take(&self) -> Poll<Option<Delivery<T>>> {
        let mut backlog = lock(&self.queue.backlog);
        if backlog.closed {
            return Poll::Ready(None);
        }
        if self.held.load(Ordering::Acquire) >= self.prefetch {
            return Poll::Pending;
        }
        let queues = &mut backlog.waiting.queues;
        let taken = self.keys.iter().find_map(|key| Some((key, queues.get_mut(key)?.pop_front()?)));
        match taken {
            Some((key, parcel)) => {
                self.held.fetch_add(1, Ordering::AcqRel);
                Poll::Ready(Some(self.deliver(key.clone(), parcel)))
            }
            None => Poll::Pending,
        }
    }

    fn deliver(&self, key: K, parcel: Parcel<T>) -> Delivery<T> {
        let (queue, held) = (Arc::clone(&self.queue), Arc::clone(&self.held));
        let (body, redelivered) = (parcel.body.clone(), parcel.requeues > 0);
        Delivery::new(body, redelivered, move |settlement| {
            if settlement == Settlement::Requeue {
                queue.requeue(key, parcel);
            }
            held.fetch_sub(1, Ordering::AcqRel);
            queue.changed.notify_waiters();
        })
    }
}

#[async_trait]
impl<K, T> Source<Delivery<T>> for Consumer<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + 'static,
{
    async fn next(&mut self) -> Option<Delivery<T>> {
        wait(&self.queue.changed, || self.take()).await
    }
}
