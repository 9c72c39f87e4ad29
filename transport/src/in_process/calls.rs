//! Questions that wait for a scheduler, and their answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use kraftr_protocol::message::{Reply, Request};
use tokio::sync::Notify;

use super::{Backlog, admit, lock, wait};
use crate::{BoxSource, Call, Source, TransportError};

struct Question {
    request: Request,
    answer: oneshot::Sender<Reply>,
}

pub(super) struct Calls {
    capacity: usize,
    timeout: Option<Duration>,
    backlog: Mutex<Backlog<VecDeque<Question>>>,
    changed: Notify,
}

impl Calls {
    pub(super) fn new(capacity: usize, timeout: Option<Duration>) -> Self {
        Self { capacity, timeout, backlog: Backlog::new(), changed: Notify::new() }
    }

    pub(super) async fn call(&self, request: Request) -> Result<Reply, TransportError> {
        let reply = self.ask(request)?;
        let answer = match self.timeout {
            None => reply.await,
            Some(limit) => tokio::time::timeout(limit, reply).await.map_err(|_| TransportError::Timeout {
                millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            })?,
        };
        answer.map_err(|oneshot::Canceled| {
            if lock(&self.backlog).closed {
                TransportError::Closed
            } else {
                TransportError::Timeout { millis: 0 }
            }
        })
    }

    fn ask(&self, request: Request) -> Result<oneshot::Receiver<Reply>, TransportError> {
        let (answer, reply) = oneshot::channel();
        {
            let mut backlog = lock(&self.backlog);
            if backlog.closed {
                return Err(TransportError::Closed);
            }
            if backlog.waiting.len() >= self.capacity {
                backlog.waiting.retain(|question| !question.answer.is_canceled());
            }
            admit(&backlog.waiting, self.capacity, || "the call queue".to_owned())?;
            backlog.waiting.push_back(Question { request, answer });
        }
        self.changed.notify_waiters();
        Ok(reply)
    }

    pub(super) fn serve(self: &Arc<Self>) -> Result<BoxSource<Call>, TransportError> {
        if lock(&self.backlog).closed {
            return Err(TransportError::Closed);
        }
        Ok(Box::new(Server { calls: Arc::clone(self) }))
    }

    pub(super) fn close(&self) {
        let unanswered = {
            let mut backlog = lock(&self.backlog);
            backlog.closed = true;
            std::mem::take(&mut backlog.waiting)
        };
        // Dropping a question wakes its caller, who looks at `closed`: not while the lock is held.
        drop(unanswered);
        self.changed.notify_waiters();
    }

    fn take(&self) -> Poll<Option<Call>> {
        let mut backlog = lock(&self.backlog);
        if backlog.closed {
            return Poll::Ready(None);
        }
        while let Some(Question { request, answer }) = backlog.waiting.pop_front() {
            if !answer.is_canceled() {
                // A caller that stopped waiting meanwhile has no use for the answer.
                return Poll::Ready(Some(Call::new(request, move |reply| drop(answer.send(reply)))));
            }
        }
        Poll::Pending
    }
}

struct Server {
    calls: Arc<Calls>,
}

#[async_trait]
impl Source<Call> for Server {
    async fn next(&mut self) -> Option<Call> {
        wait(&self.calls.changed, || self.calls.take()).await
    }
}
