use futures::FutureExt as _;
use kraftr_protocol::message::{Control, Reply};
use kraftr_transport::conformance;
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_transport::{Settlement, Transport, TransportError};

use crate::words::{event, heartbeat, job, lane, step};

/// As a simulator uses it: no timers, everything by polling once.
fn timeless() -> InProcess {
    InProcess::new(Bounds { call_timeout: None, ..Bounds::default() })
}

fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("it is ready without waiting")
}

#[tokio::test]
async fn conforms() {
    conformance::exercise(async || InProcess::new(Bounds::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_without_timers_on_several_threads() {
    conformance::exercise(async || timeless()).await;
}

#[test]
fn everything_is_ready_at_once_without_a_runtime() {
    let transport = timeless();
    let mut jobs = now(transport.consume_jobs(&[lane()], 2)).unwrap();
    let mut progress = now(transport.consume_progress()).unwrap();
    let mut calls = now(transport.serve_calls()).unwrap();
    now(transport.publish_job(&lane(), job(1))).unwrap();
    transport.publish_progress(step(3));
    let mut asked = transport.call(heartbeat());
    assert!((&mut asked).now_or_never().is_none());

    assert_eq!(now(jobs.next()).unwrap().body, job(1));
    assert_eq!(now(progress.next()).unwrap(), step(3));
    now(calls.next()).unwrap().answer(Reply::Fenced);
    assert_eq!(now(asked).unwrap(), Reply::Fenced);
}

#[test]
fn a_dropped_call_ends_at_once() {
    let transport = timeless();
    let mut calls = now(transport.serve_calls()).unwrap();
    let mut asked = transport.call(heartbeat());
    assert!((&mut asked).now_or_never().is_none());
    drop(now(calls.next()));
    assert!(matches!(now(asked), Err(TransportError::Timeout { millis: 0 })));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_serves_ends_in_time() {
    let limit = std::time::Duration::from_millis(1_500);
    let transport = InProcess::new(Bounds { call_timeout: Some(limit), ..Bounds::default() });
    let outcome = transport.call(heartbeat()).await;
    assert!(matches!(outcome, Err(TransportError::Timeout { millis: 1_500 })), "{outcome:?}");
}

#[test]
fn a_caller_that_has_gone_is_skipped() {
    let transport = timeless();
    let mut gone = transport.call(heartbeat());
    assert!((&mut gone).now_or_never().is_none());
    drop(gone);
    let mut calls = now(transport.serve_calls()).unwrap();
    assert!(calls.next().now_or_never().is_none());
}

#[test]
fn requeued_deliveries_return_to_their_places_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let transport = timeless();
        let mut jobs = now(transport.consume_jobs(&[lane()], 8)).unwrap();
        for attempt in 0..4 {
            now(transport.publish_job(&lane(), job(attempt))).unwrap();
        }
        let mut held: Vec<_> = (0..3).map(|_| now(jobs.next())).collect();
        for n in order {
            held[n].take().unwrap().settle(Settlement::Requeue);
        }
        let again: Vec<_> = (0..4).map(|_| now(jobs.next()).unwrap()).collect();
        let attempts: Vec<u32> = again.iter().map(|delivery| delivery.body.attempt).collect();
        assert_eq!(attempts, [0, 1, 2, 3], "requeued in order {order:?}");
    }
}

#[tokio::test]
async fn what_comes_back_too_often_is_given_up() {
    let transport = InProcess::new(Bounds { requeues: 3, ..Bounds::default() });
    conformance::what_comes_back_too_often_is_given_up(&transport).await;
}

#[test]
fn queues_are_bounded() {
    let bounds =
        Bounds { jobs_per_lane: 2, requeues: 9, events: 1, calls: 1, broadcasts: 2, call_timeout: None };
    let transport = InProcess::new(bounds);
    now(transport.publish_job(&lane(), job(0))).unwrap();
    now(transport.publish_job(&lane(), job(1))).unwrap();
    let refused = now(transport.publish_job(&lane(), job(2))).unwrap_err();
    assert_eq!(refused.to_string(), "lane cpu.noop.interactive is full");
    assert!(!refused.is_permanent());

    let mut jobs = now(transport.consume_jobs(&[lane()], 8)).unwrap();
    let held = now(jobs.next());
    now(transport.publish_job(&lane(), job(2))).unwrap();
    drop(held);
    assert_eq!(now(jobs.next()).unwrap().body, job(0), "a requeue is never refused");

    now(transport.publish_event(event(0))).unwrap();
    assert!(matches!(now(transport.publish_event(event(1))), Err(TransportError::Full { .. })));

    let mut asked = transport.call(heartbeat());
    assert!((&mut asked).now_or_never().is_none());
    assert!(matches!(now(transport.call(heartbeat())), Err(TransportError::Full { .. })));
    drop(asked);
    assert!(transport.call(heartbeat()).now_or_never().is_none(), "callers that have gone take no room");

    let mut progress = now(transport.consume_progress()).unwrap();
    (1..=3).for_each(|n| transport.publish_progress(step(n)));
    assert_eq!(now(progress.next()).unwrap(), step(2), "the oldest goes first");
}

#[test]
fn closing_ends_everything() {
    let transport = timeless();
    let mut jobs = now(transport.consume_jobs(&[lane()], 8)).unwrap();
    let mut control = now(transport.consume_control()).unwrap();
    let mut calls = now(transport.serve_calls()).unwrap();
    now(transport.publish_job(&lane(), job(0))).unwrap();
    now(transport.publish_job(&lane(), job(1))).unwrap();
    let held = now(jobs.next()).unwrap();
    let mut asked = transport.call(heartbeat());
    assert!((&mut asked).now_or_never().is_none());

    transport.close();
    transport.close();
    assert!(now(jobs.next()).is_none());
    assert!(now(control.next()).is_none());
    assert!(now(calls.next()).is_none());
    assert!(matches!(now(asked), Err(TransportError::Closed)));
    drop(held);
    assert!(matches!(now(transport.publish_job(&lane(), job(2))), Err(TransportError::Closed)));
    assert!(matches!(now(transport.publish_event(event(0))), Err(TransportError::Closed)));
    assert!(matches!(now(transport.call(heartbeat())), Err(TransportError::Closed)));
    assert!(matches!(now(transport.consume_events(1)), Err(TransportError::Closed)));
    assert!(matches!(now(transport.consume_progress()), Err(TransportError::Closed)));
    transport.publish_control(Control::Drain { worker: None });
}

#[tokio::test]
async fn closing_wakes_those_who_wait() {
    let transport = timeless();
    let mut jobs = transport.consume_jobs(&[lane()], 1).await.unwrap();
    let mut progress = transport.consume_progress().await.unwrap();
    let waiting = tokio::spawn(async move { (jobs.next().await.is_none(), progress.next().await.is_none()) });
    let asking = tokio::spawn({
        let transport = transport.clone();
        async move { transport.call(heartbeat()).await }
    });
    tokio::task::yield_now().await;
    transport.close();
    assert_eq!(waiting.await.unwrap(), (true, true));
    assert!(matches!(asking.await.unwrap(), Err(TransportError::Closed)));
}

#[test]
fn the_last_clone_closes() {
    let transport = timeless();
    let clone = transport.clone();
    let mut jobs = now(transport.consume_jobs(&[lane()], 1)).unwrap();
    drop(transport);
    assert!(jobs.next().now_or_never().is_none());
    drop(clone);
    assert!(now(jobs.next()).is_none());
}
