use futures::FutureExt as _;
use kraftr_protocol::message::Reply;
use kraftr_protocol::{Event, Progress};
use kraftr_transport::conformance;
use kraftr_transport::faults::{CallRates, Faults, Faulty, Rates};
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_transport::{BoxSource, Delivery, Transport, TransportError};

use crate::words::{event, heartbeat, job, lane, step};

const NEVER: Rates = Rates { loss: 0.0, duplication: 0.0, delay: 0.0, reordering: 0.0 };

fn faulty(seed: u64, faults: Faults) -> Faulty<InProcess> {
    Faulty::new(InProcess::new(Bounds { call_timeout: None, ..Bounds::default() }), seed, faults)
}

fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("it is ready without waiting")
}

fn events(transport: &impl Transport) -> BoxSource<Delivery<Event>> {
    now(transport.consume_events(1_000)).unwrap()
}

/// The renders whose events are there now, all acknowledged.
fn drain(source: &mut BoxSource<Delivery<Event>>) -> Vec<u128> {
    std::iter::from_fn(|| source.next().now_or_never().flatten())
        .map(|delivery| {
            let n = delivery.body.render.0.as_u128();
            delivery.ack();
            n
        })
        .collect()
}

fn publish(transport: &impl Transport, n: u128) {
    now(transport.publish_event(event(n))).unwrap();
}

#[tokio::test]
async fn conforms_without_faults() {
    conformance::exercise(async || Faulty::new(InProcess::new(Bounds::default()), 1, Faults::default()))
        .await;
}

#[test]
fn lost_duplicated_and_delayed() {
    let always = |rates| faulty(1, Faults { events: rates, ..Faults::default() });

    let losing = always(Rates { loss: 1.0, ..NEVER });
    publish(&losing, 1);
    assert_eq!((drain(&mut events(&losing)), losing.held()), (vec![], 0));

    let doubling = always(Rates { duplication: 1.0, ..NEVER });
    publish(&doubling, 1);
    assert_eq!(drain(&mut events(&doubling)), [1, 1]);

    let delaying = always(Rates { delay: 1.0, ..NEVER });
    let mut source = events(&delaying);
    (1..=3).for_each(|n| publish(&delaying, n));
    assert_eq!((drain(&mut source), delaying.held()), (vec![], 3));
    assert_eq!(now(delaying.release_all()), 3);
    assert_eq!((drain(&mut source), delaying.held()), (vec![1, 2, 3], 0));

    publish(&delaying, 4);
    delaying.lose_held();
    assert_eq!(now(delaying.release_all()), 0);
}

#[test]
fn a_reordered_message_waits_for_the_next_of_its_kind() {
    let transport = faulty(1, Faults { events: Rates { reordering: 1.0, ..NEVER }, ..Faults::default() });
    let mut source = events(&transport);
    publish(&transport, 1);
    transport.set_faults(Faults::default());
    now(transport.publish_job(&lane(), job(1))).unwrap();
    assert_eq!(drain(&mut source), [0; 0], "a job overtakes no event");
    publish(&transport, 2);
    assert_eq!(drain(&mut source), [2, 1]);
}

#[test]
fn releasing_some_keeps_the_rest() {
    let transport = faulty(3, Faults { events: Rates { delay: 1.0, ..NEVER }, ..Faults::default() });
    let mut source = events(&transport);
    (0..100).for_each(|n| publish(&transport, n));
    let released = now(transport.release_some());
    assert!((20..80).contains(&released), "about half of 100, not {released}");
    assert_eq!(transport.held(), 100 - released);
    let mut seen = drain(&mut source);
    assert_eq!(seen.len(), released);
    assert!(!seen.is_sorted(), "in random order");
    now(transport.release_all());
    seen.extend(drain(&mut source));
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>(), "nothing is lost or doubled");
}

#[test]
fn what_is_refused_at_release_stays_held() {
    let bounds = Bounds { events: 1, call_timeout: None, ..Bounds::default() };
    let delay = Faults { events: Rates { delay: 1.0, ..NEVER }, ..Faults::default() };
    let transport = Faulty::new(InProcess::new(bounds), 1, delay);
    let mut source = events(&transport);
    (1..=2).for_each(|n| publish(&transport, n));
    assert_eq!((now(transport.release_all()), transport.held()), (1, 1));
    assert_eq!(drain(&mut source), [1]);
    assert_eq!((now(transport.release_all()), transport.held()), (1, 0));
    assert_eq!(drain(&mut source), [2]);
}

#[test]
fn an_unconfirmed_message_has_arrived() {
    let transport = faulty(1, Faults { unconfirmed: 1.0, ..Faults::default() });
    assert!(matches!(now(transport.publish_event(event(1))), Err(TransportError::Timeout { .. })));
    assert_eq!(drain(&mut events(&transport)), [1]);
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let rates = Rates { loss: 0.2, duplication: 0.2, delay: 0.2, reordering: 0.2 };
    let faults = Faults { events: rates, unconfirmed: 0.2, ..Faults::default() };
    let run = |seed| {
        let transport = faulty(seed, faults);
        let mut source = events(&transport);
        let mut seen = Vec::new();
        for n in 0..200 {
            seen.push(u128::from(now(transport.publish_event(event(n))).is_ok()));
            seen.extend(drain(&mut source));
            if n % 10 == 0 {
                now(transport.release_some());
            }
        }
        seen
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn without_loss_everything_arrives_in_the_end() {
    let rates = Rates { loss: 0.0, duplication: 0.3, delay: 0.3, reordering: 0.3 };
    for seed in 0..50 {
        let transport = faulty(seed, Faults { events: rates, ..Faults::default() });
        let mut source = events(&transport);
        (0..50).for_each(|n| publish(&transport, n));
        now(transport.release_all());
        let mut seen = drain(&mut source);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..50).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn progress_and_control_have_rates_of_their_own() {
    let transport = faulty(1, Faults { progress: Rates { duplication: 1.0, ..NEVER }, ..Faults::default() });
    let mut progress = now(transport.consume_progress()).unwrap();
    let mut control = now(transport.consume_control()).unwrap();
    transport.publish_progress(step(1));
    transport.publish_control(kraftr_protocol::message::Control::Drain { worker: None });
    let seen: Vec<Progress> = std::iter::from_fn(|| progress.next().now_or_never().flatten()).collect();
    assert_eq!(seen, [step(1), step(1)]);
    assert!(control.next().now_or_never().is_some());
    assert!(control.next().now_or_never().is_none());
}

/// The outcome of a call under `calls`, and how often the server heard it.
fn ask(calls: CallRates) -> (Result<Reply, TransportError>, usize) {
    let transport = faulty(1, Faults { calls, ..Faults::default() });
    let mut server = now(transport.serve_calls()).unwrap();
    let mut asked = transport.call(heartbeat());
    for heard in 0.. {
        if let Some(outcome) = (&mut asked).now_or_never() {
            return (outcome, heard);
        }
        now(server.next()).unwrap().answer(Reply::Unavailable { message: heard.to_string() });
    }
    unreachable!("a call ends")
}

#[test]
fn calls_lose_requests_and_replies() {
    let never = CallRates::default();
    let (outcome, heard) = ask(CallRates { request_loss: 1.0, ..never });
    assert!(matches!((outcome, heard), (Err(TransportError::Timeout { .. }), 0)));
    let (outcome, heard) = ask(CallRates { reply_loss: 1.0, ..never });
    assert!(matches!((outcome, heard), (Err(TransportError::Timeout { .. }), 1)));
    let (outcome, heard) = ask(CallRates { duplication: 1.0, ..never });
    assert_eq!((outcome.unwrap(), heard), (Reply::Unavailable { message: "1".to_owned() }, 2));
}
