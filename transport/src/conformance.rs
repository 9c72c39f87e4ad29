//! The promises of [`Transport`] as a suite: one public function per promise, each to be run on a
//! fresh transport that nobody else uses. [`exercise`] runs them all.
//!
//! A broken promise panics and says which. Nothing here sleeps: what must happen is waited for
//! (at most [`PATIENCE`]), and what must not happen is shown by something else happening first.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use futures::{FutureExt as _, StreamExt as _, stream};
use kraftr_protocol::message::{Control, Heartbeat, Job, Reply, Request};
use kraftr_protocol::{Class, Epoch, Event, EventBody, Lane, Progress, ProgressBody, RenderId, WorkerId};

use crate::{BoxSource, Delivery, Settlement, Transport, TransportError};

/// How long the suite waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every function of the suite, each on a fresh transport from `make`.
pub async fn exercise<T: Transport>(make: impl AsyncFn() -> T) {
    accepted_messages_arrive(&make().await).await;
    acknowledged_messages_do_not_return(&make().await).await;
    consumers_compete(&make().await).await;
    requeued_and_dropped_messages_return_marked(&make().await).await;
    lanes_are_consumed_in_order(&make().await).await;
    prefetch_bounds_what_is_held(&make().await).await;
    a_dropped_source_gives_back_and_lets_settle(&make().await).await;
    next_is_cancel_safe(&make().await).await;
    broadcasts_reach_every_subscriber(&make().await).await;
    slow_subscribers_hold_nobody_up(&make().await).await;
    calls_are_answered(&make().await).await;
    unanswered_calls_time_out(&make().await).await;
    a_crowd_settles_everything_once(make().await).await;
}

/// What was accepted before and after somebody subscribed arrives, in the order of publishing.
pub async fn accepted_messages_arrive(transport: &dyn Transport) {
    put_jobs(transport, &lane("a"), 0..2).await;
    transport.publish_event(event(0)).await.expect("an event is accepted before anybody listens");
    let mut jobs = jobs(transport, &["a"], 8).await;
    let mut events = transport.consume_events(8).await.expect("events can be consumed");
    put_jobs(transport, &lane("a"), 2..4).await;
    transport.publish_event(event(1)).await.expect("an event is accepted while somebody listens");
    for attempt in 0..4 {
        let delivery = next(&mut jobs).await;
        assert_eq!(delivery.body, job(attempt), "jobs arrive in order");
        assert!(!delivery.redelivered, "a first delivery is not marked");
        delivery.ack();
    }
    for attempt in 0..2 {
        let delivery = next(&mut events).await;
        assert_eq!(delivery.body, event(attempt), "events arrive in order and unchanged");
        delivery.ack();
    }
}

/// A job that is given back again and again leaves its lane, and the one behind it comes. Wants a transport that
/// gives up after a few times.
pub async fn what_comes_back_too_often_is_given_up(transport: &dyn Transport) {
    put_jobs(transport, &lane("a"), 0..2).await;
    let mut jobs = jobs(transport, &["a"], 1).await;
    loop {
        let delivery = next(&mut jobs).await;
        if delivery.body != job(0) {
            assert_eq!(delivery.body, job(1), "the one behind it is not given up");
            delivery.ack();
            break;
        }
    }
    let mut given_up = transport.consume_given_up().await.expect("what is given up can be consumed");
    let delivery = next(&mut given_up).await;
    assert_eq!(delivery.body, job(0), "what was given up is delivered");
    delivery.ack();
    // A place is free again: nothing else was given up before this one.
    put_jobs(transport, &lane("a"), 2..3).await;
    let (given, first) = (given_up.next(), next(&mut jobs));
    match select(pin!(given), pin!(first)).await {
        Either::Left(_) => panic!("an acknowledged delivery came back"),
        Either::Right((delivery, _)) => assert_eq!(delivery.body, job(2)),
    }
}

/// After an acknowledgement the next message comes, and nothing comes again.
pub async fn acknowledged_messages_do_not_return(transport: &dyn Transport) {
    let mut first = jobs(transport, &["a"], 1).await;
    put_jobs(transport, &lane("a"), 0..3).await;
    for attempt in 0..2 {
        let delivery = next(&mut first).await;
        assert_eq!(delivery.body, job(attempt));
        delivery.ack();
    }
    drop(first);
    let mut second = jobs(transport, &["a"], 8).await;
    assert_eq!(next(&mut second).await.body, job(2), "acknowledged jobs are gone for other consumers too");
}

/// Two consumers of one queue share its messages; each is with one of them.
pub async fn consumers_compete(transport: &dyn Transport) {
    let mut left = jobs(transport, &["a"], 2).await;
    let mut right = jobs(transport, &["a"], 2).await;
    put_jobs(transport, &lane("a"), 0..4).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(next(&mut left).await);
        held.push(next(&mut right).await);
    }
    let mut attempts: Vec<u32> = held.iter().map(|delivery| delivery.body.attempt).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [0, 1, 2, 3], "no job is with two consumers");
}

/// A message that is given back, said or unsaid, comes again and says so.
pub async fn requeued_and_dropped_messages_return_marked(transport: &dyn Transport) {
    let mut source = jobs(transport, &["a"], 1).await;
    put_jobs(transport, &lane("a"), 0..2).await;
    next(&mut source).await.settle(Settlement::Requeue);
    let again = next(&mut source).await;
    assert_eq!(again.body, job(0), "a requeued job comes before what was published after it");
    assert!(again.redelivered, "a requeued job is marked");
    drop(again);
    let again = next(&mut source).await;
    assert_eq!((again.body, again.redelivered), (job(0), true), "a dropped job comes again, marked");
    again.ack();
    let other = next(&mut source).await;
    assert_eq!((other.body, other.redelivered), (job(1), false), "the mark is the message's own");

    let mut events = transport.consume_events(1).await.expect("events can be consumed");
    transport.publish_event(event(0)).await.expect("an event is accepted");
    drop(next(&mut events).await);
    assert!(next(&mut events).await.redelivered, "a dropped event comes again, marked");
}

/// Of jobs that wait at the same time, those of the lane named first come first; other lanes' never.
pub async fn lanes_are_consumed_in_order(transport: &dyn Transport) {
    put_jobs(transport, &lane("late"), 0..2).await;
    put_jobs(transport, &lane("other"), 2..3).await;
    put_jobs(transport, &lane("early"), 3..5).await;
    let mut source = jobs(transport, &["early", "late"], 1).await;
    for attempt in [3, 4, 0, 1] {
        let delivery = next(&mut source).await;
        assert_eq!(delivery.body, job(attempt), "lanes are consumed in the order given");
        delivery.ack();
    }
    put_jobs(transport, &lane("late"), 5..6).await;
    assert_eq!(next(&mut source).await.body, job(5), "a lane that was not asked for stays untouched");
}

/// A consumer that holds `prefetch` messages gets no other until it settles one.
pub async fn prefetch_bounds_what_is_held(transport: &dyn Transport) {
    let mut full = jobs(transport, &["a"], 2).await;
    put_jobs(transport, &lane("a"), 0..2).await;
    let (first, _second) = (next(&mut full).await, next(&mut full).await);
    put_jobs(transport, &lane("a"), 2..4).await;
    let mut free = jobs(transport, &["a"], 8).await;
    for attempt in 2..4 {
        match select(pin!(full.next()), pin!(next(&mut free))).await {
            Either::Left(_) => panic!("a consumer that holds all it may hold got another job"),
            Either::Right((delivery, _)) => {
                assert_eq!(delivery.body, job(attempt), "what one may not take, another gets");
                delivery.ack();
            }
        }
    }
    drop(free);
    put_jobs(transport, &lane("a"), 4..5).await;
    first.ack();
    assert_eq!(next(&mut full).await.body, job(4), "settling one makes room for one");
}

/// A source that goes leaves what it had not returned to others; what it returned can be settled.
pub async fn a_dropped_source_gives_back_and_lets_settle(transport: &dyn Transport) {
    let mut gone = jobs(transport, &["a"], 3).await;
    put_jobs(transport, &lane("a"), 0..3).await;
    let (kept, returned) = (next(&mut gone).await, next(&mut gone).await);
    drop(gone);
    let mut heir = jobs(transport, &["a"], 8).await;
    let other = next(&mut heir).await;
    assert_eq!(other.body, job(2), "what was not returned goes to another");
    drop(returned);
    let back = next(&mut heir).await;
    assert_eq!((back.body, back.redelivered), (job(1), true), "what is dropped later comes back too");
    kept.ack();
    put_jobs(transport, &lane("a"), 3..4).await;
    assert_eq!(next(&mut heir).await.body, job(3), "what was acknowledged after its source went is gone");
}

/// Giving up on `next` at any moment loses no message.
pub async fn next_is_cancel_safe(transport: &dyn Transport) {
    let mut source = jobs(transport, &["a"], 1).await;
    for attempt in 0..64 {
        let early = source.next().now_or_never().flatten();
        assert!(early.is_none(), "nothing is there yet");
        put_jobs(transport, &lane("a"), attempt..attempt + 1).await;
        let delivery = match source.next().now_or_never().flatten() {
            Some(delivery) => delivery,
            None => next(&mut source).await,
        };
        assert_eq!(delivery.body, job(attempt), "a cancelled `next` took nothing with it");
        delivery.ack();
    }
}

/// Progress and control go to everyone who listens now.
pub async fn broadcasts_reach_every_subscriber(transport: &dyn Transport) {
    let mut progress = [subscribe_progress(transport).await, subscribe_progress(transport).await];
    let mut control = [subscribe_control(transport).await, subscribe_control(transport).await];
    transport.publish_progress(step(1));
    transport.publish_control(Control::Drain { worker: None });
    for source in &mut progress {
        assert_eq!(next(source).await, step(1), "progress reaches every subscriber");
    }
    for source in &mut control {
        assert_eq!(next(source).await, Control::Drain { worker: None }, "control reaches every subscriber");
    }
}

/// Publishing goes on however far a subscriber is behind, and the subscriber still gets the newest.
pub async fn slow_subscribers_hold_nobody_up(transport: &dyn Transport) {
    const MANY: u32 = 20_000;
    let mut slow = subscribe_progress(transport).await;
    for n in 1..=MANY {
        transport.publish_progress(step(n));
    }
    let mut last = 0;
    while last < MANY {
        let ProgressBody::Step { step, .. } = next(&mut slow).await.body else {
            panic!("only steps were published");
        };
        assert!(step > last, "what is not dropped stays in order");
        last = step;
    }
}

/// Every call gets its own answer, from one of the servers.
pub async fn calls_are_answered(transport: &dyn Transport) {
    let servers = [
        transport.serve_calls().await.expect("calls can be served"),
        transport.serve_calls().await.expect("several can serve"),
    ];
    let serve = stream::iter(servers).for_each_concurrent(None, async |mut server| {
        while let Some(call) = server.next().await {
            let message = slots(&call.request).to_string();
            call.answer(Reply::Unavailable { message });
        }
    });
    let ask = join_all((0..32).map(async |n| (n, transport.call(request(n)).await)));
    let answers = match within("answers to calls", select(pin!(serve), pin!(ask))).await {
        Either::Left(_) => panic!("the servers stopped while the transport is open"),
        Either::Right((answers, _)) => answers,
    };
    for (n, answer) in answers {
        let answer = answer.expect("a call that is served is answered");
        assert_eq!(answer, Reply::Unavailable { message: n.to_string() }, "an answer goes to its caller");
    }
}

/// A call that the server drops ends in a timeout, and the server goes on.
pub async fn unanswered_calls_time_out(transport: &dyn Transport) {
    let mut server = transport.serve_calls().await.expect("calls can be served");
    let ask = async {
        let dropped = transport.call(request(1)).await;
        assert!(
            matches!(dropped, Err(TransportError::Timeout { .. })),
            "no answer is a timeout: {dropped:?}"
        );
        transport.call(request(2)).await.expect("the next call is answered")
    };
    let serve = async {
        drop(next(&mut server).await);
        let call = next(&mut server).await;
        assert_eq!(slots(&call.request), 2, "a call that timed out does not come again");
        call.answer(Reply::Fenced);
    };
    let (answer, ()) = within("an answer after a timeout", futures::future::join(ask, serve)).await;
    assert_eq!(answer, Reply::Fenced);
}

/// Publishers and consumers that give back and cancel at every turn: each job is acknowledged once.
pub async fn a_crowd_settles_everything_once(transport: impl Transport) {
    const PUBLISHERS: u32 = 4;
    const EACH: u32 = 250;
    let transport = Arc::new(transport);
    let (done, mut acknowledged) = tokio::sync::mpsc::channel::<u32>(64);
    let mut crowd = tokio::task::JoinSet::new();
    for consumer in 0..3u32 {
        let (transport, done) = (Arc::clone(&transport), done.clone());
        crowd.spawn(async move {
            let mut source = jobs(&*transport, &["a", "b"], 4).await;
            while let Some(delivery) = source.next().await {
                drop(source.next().now_or_never());
                let attempt = delivery.body.attempt;
                if !delivery.redelivered && attempt % 3 == consumer {
                    delivery.settle(Settlement::Requeue);
                } else {
                    delivery.ack();
                    if done.send(attempt).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    for publisher in 0..PUBLISHERS {
        let transport = Arc::clone(&transport);
        crowd.spawn(async move {
            let lane = lane(if publisher % 2 == 0 { "a" } else { "b" });
            put_jobs(&*transport, &lane, publisher * EACH..(publisher + 1) * EACH).await;
        });
    }
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    while times.len() < (PUBLISHERS * EACH) as usize {
        let attempt = within("another acknowledged job", acknowledged.recv()).await.expect("consumers run");
        *times.entry(attempt).or_default() += 1;
    }
    crowd.abort_all();
    assert!(times.values().all(|&times| times == 1), "no job is acknowledged twice");
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

async fn next<T>(source: &mut BoxSource<T>) -> T {
    within("the next message", source.next()).await.expect("the source is open")
}

async fn jobs(transport: &dyn Transport, releases: &[&str], prefetch: usize) -> BoxSource<Delivery<Job>> {
    let lanes: Vec<Lane> = releases.iter().copied().map(lane).collect();
    transport.consume_jobs(&lanes, prefetch).await.expect("jobs can be consumed")
}

async fn put_jobs(transport: &dyn Transport, lane: &Lane, attempts: std::ops::Range<u32>) {
    for attempt in attempts {
        transport.publish_job(lane, job(attempt)).await.expect("a job is accepted");
    }
}

async fn subscribe_progress(transport: &dyn Transport) -> BoxSource<Progress> {
    transport.consume_progress().await.expect("progress can be consumed")
}

async fn subscribe_control(transport: &dyn Transport) -> BoxSource<Control> {
    transport.consume_control().await.expect("control can be consumed")
}

fn lane(release: &str) -> Lane {
    Lane { pool: "conformance".to_owned(), release: release.to_owned(), class: Class::Batch }
}

fn render() -> RenderId {
    "rnd_00000000000000000000000001".parse().expect("a well-formed id")
}

fn worker() -> WorkerId {
    "wrk_00000000000000000000000001".parse().expect("a well-formed id")
}

fn job(attempt: u32) -> Job {
    Job { render: render(), attempt }
}

fn event(attempt: u32) -> Event {
    Event { render: render(), attempt, epoch: Epoch(1), worker: worker(), body: EventBody::HandedBack }
}

fn step(step: u32) -> Progress {
    Progress { render: render(), epoch: Epoch(1), body: ProgressBody::Step { step, steps: step } }
}

fn request(slots: u32) -> Request {
    Request::Heartbeat(Heartbeat { worker: worker(), lanes: Vec::new(), slots, held: Vec::new() })
}

fn slots(request: &Request) -> u32 {
    match request {
        Request::Heartbeat(heartbeat) => heartbeat.slots,
        other => panic!("only heartbeats were sent, not {other:?}"),
    }
}
