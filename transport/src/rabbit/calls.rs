//! Calls and their answers: those that wait at the same moment travel in one message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use kraftr_protocol::message::{Reply, Request};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::json;
use super::link::{Link, Links};
use crate::{BoxSource, Call, Source, TransportError};

/// The queue that stands for "back to whoever asked, on the connection it asked on".
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Calls of one message.
const TOGETHER_MAX: usize = 64;
/// Calls that wait to be sent.
const WAITING_MAX: usize = 4_096;
/// Pause after a failure on a connection that stands.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Question {
    id: u64,
    request: Request,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    id: u64,
    /// Absent when the call was dropped.
    reply: Option<Reply>,
}

type Waiting = HashMap<u64, oneshot::Sender<Reply>>;

/// The asking side.
pub(super) struct Calls {
    links: Arc<Links>,
    questions: mpsc::Sender<Question>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    timeout: Duration,
    _task: AbortOnDropHandle<()>,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets a call whose caller has gone.
struct Asked<'c>(&'c Mutex<Waiting>, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(self.0).remove(&self.1);
    }
}

impl Calls {
    pub(super) fn start(links: Arc<Links>, queue: String, timeout: Duration) -> Arc<Self> {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let task = tokio::spawn(ask_all(Arc::clone(&links), queue, asked, Arc::clone(&waiting)));
        let task = AbortOnDropHandle::new(task);
        Arc::new(Self { links, questions, waiting, next: AtomicU64::new(0), timeout, _task: task })
    }

    pub(super) async fn call(&self, request: Request) -> Result<Reply, TransportError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let _asked = Asked(&self.waiting, id);
        let answered = async {
            let dropped = TransportError::Timeout { millis: 0 };
            match self.questions.send(Question { id, request }).await {
                Ok(()) => reply.await.map_err(|_| dropped),
                Err(_) => Err(TransportError::Closed),
            }
        };
        tokio::select! {
            biased;
            () = self.links.closed.cancelled() => Err(TransportError::Closed),
            reply = answered => reply,
            () = tokio::time::sleep(self.timeout) => {
                Err(TransportError::Timeout { millis: self.timeout.as_millis() as u64 })
            }
        }
    }
}

async fn ask_all(
    links: Arc<Links>,
    queue: String,
    mut asked: mpsc::Receiver<Question>,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Ok(link) = links.standing().await {
        tokio::select! {
            outcome = ask_on(&link, &queue, &mut asked, &waiting) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "calls are asked on a new channel");
                }
            }
            () = links.gone(link.number) => {}
        }
        // Their answers would come on the channel that is gone.
        lock(&waiting).clear();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_on(
    link: &Link,
    queue: &str,
    asked: &mut mpsc::Receiver<Question>,
    waiting: &Mutex<Waiting>,
) -> lapin::Result<()> {
    let channel = link.channel().await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut answers =
        channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
    let mut together = Vec::new();
    loop {
        tokio::select! {
            answer = answers.next() => match answer {
                None => return Ok(()),
                Some(message) => {
                    link.counters.delivered();
                    hand_out(&message?.data, waiting);
                }
            },
            count = asked.recv_many(&mut together, TOGETHER_MAX) => {
                if count == 0 {
                    return Ok(());
                }
                // Nobody waits any more for those that waited for a connection too long.
                together.retain(|question| lock(waiting).contains_key(&question.id));
                let properties = BasicProperties::default().with_reply_to(REPLY_TO.into());
                link.counters.published();
                publish(&channel, queue, &json(&together), properties).await?;
                together.clear();
            }
        }
    }
}

async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<()> {
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.map(drop)
}

fn hand_out(message: &[u8], waiting: &Mutex<Waiting>) {
    let answers: Vec<Answer> = match serde_json::from_slice(message) {
        Ok(answers) => answers,
        Err(error) => return tracing::warn!(%error, "answers that cannot be read were dropped"),
    };
    let mut waiting = lock(waiting);
    for Answer { id, reply } in answers {
        // Removing the caller without an answer tells it that there is none.
        if let (Some(caller), Some(reply)) = (waiting.remove(&id), reply) {
            caller.send(reply).ok();
        }
    }
}

/// An answer on its way to whoever asked.
struct Outgoing {
    reply_to: String,
    answer: Answer,
}

/// Answers once, with nothing when it is dropped before.
struct Answering {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    reply_to: String,
    id: u64,
    reply: Option<Reply>,
}

impl Answering {
    fn answer(mut self, reply: Reply) {
        self.reply = Some(reply);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let answer = Answer { id: self.id, reply: self.reply.take() };
        // Without a task that sends, the caller runs into its time limit.
        self.outgoing.send(Outgoing { reply_to: std::mem::take(&mut self.reply_to), answer }).ok();
    }
}

/// The answering side.
pub(super) fn serve(links: Arc<Links>, queue: String) -> BoxSource<Call> {
    let (calls, taken) = mpsc::channel(WAITING_MAX);
    let task = tokio::spawn(serve_all(Arc::clone(&links), queue, calls));
    Box::new(Server { links, calls: taken, task: Some(AbortOnDropHandle::new(task)) })
}

struct Server {
    links: Arc<Links>,
    calls: mpsc::Receiver<Call>,
    task: Option<AbortOnDropHandle<()>>,
}

#[async_trait]
impl Source<Call> for Server {
    async fn next(&mut self) -> Option<Call> {
        tokio::select! {
            biased;
            () = self.links.closed.cancelled() => None,
            call = self.calls.recv() => call,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The task ends by itself: what was taken may still be answered.
        self.calls.close();
        drop(self.task.take().map(AbortOnDropHandle::detach));
    }
}

async fn serve_all(links: Arc<Links>, queue: String, calls: mpsc::Sender<Call>) {
    while let Ok(link) = links.standing().await {
        tokio::select! {
            outcome = serve_on(&link, &queue, &calls) => match outcome {
                Ok(()) if calls.is_closed() => return,
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "calls are served on a new channel"),
            },
            () = links.gone(link.number) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn serve_on(link: &Link, queue: &str, calls: &mpsc::Sender<Call>) -> lapin::Result<()> {
    let channel = link.channel().await?;
    let (outgoing, mut answers) = mpsc::unbounded_channel();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut questions =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    let mut open = Some(outgoing);
    loop {
        let mut together: Vec<Outgoing> = Vec::new();
        tokio::select! {
            message = questions.next(), if open.is_some() => match (message, &open) {
                (Some(message), Some(outgoing)) => {
                    link.counters.delivered();
                    take(&message?, outgoing, calls);
                }
                _ => return Ok(()),
            },
            count = answers.recv_many(&mut together, TOGETHER_MAX) => {
                if count == 0 {
                    return Ok(());
                }
                answer(link, &channel, together).await?;
            }
            () = calls.closed(), if open.is_some() => {
                // Takes nothing more, and goes when everything that was taken is answered.
                open = None;
                channel.basic_cancel(questions.tag(), lapin::options::BasicCancelOptions::default()).await?;
            }
        }
    }
}

/// Hands the calls of a message to whoever serves; a server that is swamped drops them.
fn take(
    message: &lapin::message::Delivery,
    outgoing: &mpsc::UnboundedSender<Outgoing>,
    calls: &mpsc::Sender<Call>,
) {
    let Some(reply_to) = message.properties.reply_to() else {
        return tracing::warn!("a call without a way back was dropped");
    };
    let questions: Vec<Question> = match serde_json::from_slice(&message.data) {
        Ok(questions) => questions,
        Err(error) => return tracing::warn!(%error, "calls that cannot be read were dropped"),
    };
    for Question { id, request } in questions {
        let answering =
            Answering { outgoing: outgoing.clone(), reply_to: reply_to.as_str().to_owned(), id, reply: None };
        let call = Call::new(request, move |reply| answering.answer(reply));
        if let Err(error) = calls.try_send(call) {
            tracing::warn!(%error, "a call was dropped");
        }
    }
}

async fn answer(link: &Link, channel: &Channel, together: Vec<Outgoing>) -> lapin::Result<()> {
    let mut by_caller: HashMap<String, Vec<Answer>> = HashMap::new();
    for Outgoing { reply_to, answer } in together {
        by_caller.entry(reply_to).or_default().push(answer);
    }
    for (reply_to, answers) in by_caller {
        link.counters.published();
        publish(channel, &reply_to, &json(&answers), BasicProperties::default()).await?;
    }
    Ok(())
}
