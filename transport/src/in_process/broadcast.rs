//! To everyone who listens now; a slow listener loses its oldest messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Backlog, lock, wait};
use crate::{BoxSource, Source, TransportError};

struct Inbox<T> {
    backlog: Mutex<Backlog<VecDeque<T>>>,
    changed: Notify,
}

pub(super) struct Broadcast<T> {
    capacity: usize,
    subscribers: Mutex<Backlog<Vec<Weak<Inbox<T>>>>>,
}

impl<T: Clone + Send + 'static> Broadcast<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, subscribers: Backlog::new() }
    }

    pub(super) fn publish(&self, message: &T) {
        for inbox in self.inboxes() {
            {
                let waiting = &mut lock(&inbox.backlog).waiting;
                if waiting.len() >= self.capacity {
                    waiting.pop_front();
                }
                waiting.push_back(message.clone());
            }
            inbox.changed.notify_waiters();
        }
    }

    pub(super) fn subscribe(&self) -> Result<BoxSource<T>, TransportError> {
        let mut subscribers = lock(&self.subscribers);
        if subscribers.closed {
            return Err(TransportError::Closed);
        }
        let inbox = Arc::new(Inbox { backlog: Backlog::new(), changed: Notify::new() });
        subscribers.waiting.push(Arc::downgrade(&inbox));
        Ok(Box::new(Subscription { inbox }))
    }

    pub(super) fn close(&self) {
        lock(&self.subscribers).closed = true;
        for inbox in self.inboxes() {
            lock(&inbox.backlog).closed = true;
            inbox.changed.notify_waiters();
        }
    }

    /// Those who still listen; forgets the others.
    fn inboxes(&self) -> Vec<Arc<Inbox<T>>> {
        let mut inboxes = Vec::new();
        lock(&self.subscribers).waiting.retain(|inbox| {
            let inbox = inbox.upgrade();
            inboxes.extend(inbox.clone());
            inbox.is_some()
        });
        inboxes
    }
}

struct Subscription<T> {
    inbox: Arc<Inbox<T>>,
}

impl<T> Subscription<T> {
    fn take(&self) -> Poll<Option<T>> {
        let mut backlog = lock(&self.inbox.backlog);
        if backlog.closed {
            return Poll::Ready(None);
        }
        match backlog.waiting.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None => Poll::Pending,
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Source<T> for Subscription<T> {
    async fn next(&mut self) -> Option<T> {
        wait(&self.inbox.changed, || self.take()).await
    }
}
