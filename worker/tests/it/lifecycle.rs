//! How a worker starts, claims, drains and ends.

use std::sync::Arc;
use std::time::Duration;

use kraftr_models::Registry;
use kraftr_protocol::message::{Control, Job};
use kraftr_protocol::{Class, EventBody, WorkerId};
use kraftr_provenance::KeyRing;
use kraftr_transport::in_process::{Bounds, InProcess};
use kraftr_transport::{Transport as _, TransportError};
use kraftr_worker::{Worker, WorkerConfig, WorkerError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::scheduler::{Fleet, NOOP, TRY_ON, config, lane, worker_id};

#[tokio::test]
async fn a_worker_announces_what_it_offers() {
    let mut fleet = Fleet::start(WorkerConfig { slots: 3, ..config() }).await;
    let heartbeat = fleet.heartbeat("the first heartbeat", |_| true).await;
    assert_eq!((heartbeat.worker, heartbeat.slots), (worker_id(), 3));
    assert_eq!(
        heartbeat.lanes,
        [
            lane(NOOP, Class::Interactive),
            lane(TRY_ON, Class::Interactive),
            lane(NOOP, Class::Batch),
            lane(TRY_ON, Class::Batch)
        ]
    );
    assert!(heartbeat.held.is_empty());
}

#[tokio::test]
async fn a_claim_is_repeated_until_it_is_answered() {
    let mut fleet = Fleet::start(WorkerConfig { heartbeat_every: Duration::from_hours(1), ..config() }).await;
    fleet.heartbeat("the announcement", |_| true).await;
    fleet.script(|script| script.unavailable = 3);
    fleet.submit(fleet.grant(1, NOOP, 1)).await;
    assert!(matches!(fleet.event().await.body, EventBody::Succeeded { .. }));
    assert_eq!(fleet.other_claims(), 4);
}

#[tokio::test]
async fn a_job_that_is_not_wanted_is_acknowledged() {
    let mut fleet = Fleet::start(config()).await;
    let job = Job { render: fleet.grant(1, NOOP, 1).render, attempt: 1 };
    fleet.transport.publish_job(&lane(NOOP, Class::Batch), job).await.unwrap();
    assert_eq!(fleet.claim().await, job);
    fleet.submit(fleet.grant(2, NOOP, 1)).await;
    fleet.event().await;
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_handed_back() {
    let mut fleet = Fleet::start(WorkerConfig { grace: Duration::ZERO, ..config() }).await;
    let grant = fleet.grant(1, TRY_ON, 100);
    fleet.submit(grant.clone()).await;
    fleet.first_step().await;
    fleet.ask_to_stop();
    let event = fleet.event().await;
    assert_eq!((event.render, event.body), (grant.render, EventBody::HandedBack));
    fleet.ended().await.unwrap();
    fleet.heartbeat("a heartbeat without lanes", |heartbeat| heartbeat.lanes.is_empty()).await;
    assert_eq!(fleet.jobs_left().await, []);
}

#[tokio::test]
async fn what_finishes_within_the_grace_is_delivered_and_nothing_else_is_claimed() {
    let grace = Duration::from_hours(1);
    let mut fleet = Fleet::start(WorkerConfig { slots: 2, grace, ..config() }).await;
    let grant = fleet.grant(1, TRY_ON, 15);
    fleet.submit(grant.clone()).await;
    fleet.first_step().await;
    fleet.tell(Control::Drain { worker: Some(worker_id()) });
    fleet.heartbeat("a heartbeat without lanes", |heartbeat| heartbeat.lanes.is_empty()).await;
    let late = fleet.grant(2, NOOP, 1);
    fleet.submit(late.clone()).await;
    let event = fleet.event().await;
    assert_eq!(event.render, grant.render);
    assert!(matches!(event.body, EventBody::Succeeded { .. }), "{event:?}");
    fleet.ended().await.unwrap();
    let job = Job { render: late.render, attempt: 1 };
    assert_eq!(fleet.jobs_left().await, [(job, false)], "untouched");
}

#[tokio::test]
async fn only_those_who_are_meant_drain() {
    let mut fleet = Fleet::start(config()).await;
    fleet.tell(Control::Drain { worker: Some(WorkerId(Uuid::from_u128(8))) });
    fleet.submit(fleet.grant(1, NOOP, 1)).await;
    assert!(matches!(fleet.event().await.body, EventBody::Succeeded { .. }));
    fleet.tell(Control::Drain { worker: None });
    fleet.ended().await.unwrap();
}

#[tokio::test]
async fn a_release_that_is_loaded_as_told_is_taken_from_then_on() {
    let mut fleet = Fleet::start(WorkerConfig { releases: vec![TRY_ON.to_owned()], ..config() }).await;
    fleet.submit(fleet.grant(1, NOOP, 1)).await;
    fleet.tell(Control::Load { worker: None, release: "no-such-release".to_owned() });
    fleet.tell(Control::Load { worker: Some(WorkerId(Uuid::from_u128(8))), release: NOOP.to_owned() });
    let offered = |heartbeat: &kraftr_protocol::message::Heartbeat| {
        heartbeat.lanes.iter().any(|lane| lane.release == NOOP)
    };
    fleet.submit(fleet.grant(2, TRY_ON, 1)).await;
    assert_eq!(
        fleet.event().await.render,
        fleet.grant(2, TRY_ON, 1).render,
        "the other release is not taken"
    );
    fleet.tell(Control::Load { worker: Some(worker_id()), release: NOOP.to_owned() });
    fleet.heartbeat("a heartbeat with the lanes of the new release", offered).await;
    assert_eq!(fleet.event().await.render, fleet.grant(1, NOOP, 1).render);
}

#[tokio::test]
async fn a_claim_on_its_way_does_not_hold_up_the_end() {
    let mut fleet = Fleet::start(WorkerConfig { grace: Duration::ZERO, ..config() }).await;
    fleet.heartbeat("the announcement", |_| true).await;
    fleet.script(|script| script.silent = true);
    let grant = fleet.grant(1, NOOP, 1);
    fleet.submit(grant.clone()).await;
    fleet.claim().await;
    assert_eq!(fleet.jobs_left().await, [(Job { render: grant.render, attempt: 1 }, true)], "given back");
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_closed_transport_ends_the_worker_with_an_error() {
    let mut fleet = Fleet::start(config()).await;
    fleet.submit(fleet.grant(1, TRY_ON, 100)).await;
    fleet.first_step().await;
    fleet.transport.close();
    let ended = fleet.ended().await;
    assert!(matches!(ended, Err(WorkerError::Transport(TransportError::Closed))), "{ended:?}");
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let transport = Arc::new(InProcess::new(Bounds::default()));
    let registry = Arc::new(Registry::bundled());
    let worker = |config| Worker::new(config, transport.clone(), registry.clone(), KeyRing::development());

    let refused = worker(WorkerConfig { slots: 0, max_batch: 0, ..config() }).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "worker configuration: slots: must be 1 to 256; max_batch: must be at least 1"
    );
    let unknown = WorkerConfig { releases: vec!["another".to_owned()], ..config() };
    let ended = worker(unknown).unwrap().run(CancellationToken::new()).await;
    assert!(matches!(&ended, Err(WorkerError::Load { what, .. }) if what == "another"), "{ended:?}");
    let device = WorkerConfig { device: "abacus".to_owned(), ..config() };
    let ended = worker(device).unwrap().run(CancellationToken::new()).await;
    assert!(matches!(&ended, Err(WorkerError::Load { what, .. }) if what == "abacus"), "{ended:?}");
}
