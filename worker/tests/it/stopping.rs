//! Renders that are stopped: by their owner, by the scheduler, by the clock.

use kraftr_protocol::message::{Control, Grant, Job, LeaseVerdict};
use kraftr_protocol::{Class, Event, EventBody, FailureCode};
use kraftr_transport::Transport as _;

use crate::scheduler::{Fleet, NOOP, TRY_ON, artifact, config, lane};

/// More steps than any of these tests waits for.
const MANY: u32 = 100;

/// A render that is in the engine and has most of its steps to do.
async fn under_way(fleet: &mut Fleet) -> Grant {
    let grant = fleet.grant(1, TRY_ON, MANY);
    fleet.submit(grant.clone()).await;
    fleet.first_step().await;
    grant
}

fn cancelled_at(event: &Event) -> u32 {
    match event.body {
        EventBody::Cancelled { step } => step,
        ref other => panic!("not cancelled: {other:?}"),
    }
}

#[tokio::test]
async fn a_cancel_takes_effect_between_two_steps() {
    let mut fleet = Fleet::start(config()).await;
    let grant = under_way(&mut fleet).await;
    fleet.tell(Control::Cancel { render: grant.render });
    let event = fleet.event().await;
    assert_eq!(event.render, grant.render);
    assert!((1..MANY).contains(&cancelled_at(&event)), "{event:?}");
    assert_eq!(fleet.objects.get(&artifact(grant.render, event.epoch, 0)), None);
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_cancel_that_only_the_heartbeat_tells_of_works_too() {
    let mut fleet = Fleet::start(config()).await;
    let grant = under_way(&mut fleet).await;
    fleet.verdict(grant.render, LeaseVerdict::Cancel);
    assert!((1..MANY).contains(&cancelled_at(&fleet.event().await)));
    fleet.heartbeat("a heartbeat without it", |heartbeat| heartbeat.held.is_empty()).await;
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_cancel_of_another_render_changes_nothing() {
    let mut fleet = Fleet::start(config()).await;
    fleet.tell(Control::Cancel { render: fleet.grant(2, NOOP, 1).render });
    fleet.submit(fleet.grant(1, NOOP, 1)).await;
    assert!(matches!(fleet.event().await.body, EventBody::Succeeded { .. }));
}

#[tokio::test]
async fn a_fenced_render_stops_silently() {
    let mut fleet = Fleet::start(config()).await;
    let grant = under_way(&mut fleet).await;
    fleet.heartbeat("a heartbeat with it", |heartbeat| heartbeat.held.len() == 1).await;
    fleet.verdict(grant.render, LeaseVerdict::Fenced);
    fleet.heartbeat("a heartbeat without it", |heartbeat| heartbeat.held.is_empty()).await;
    // The slot is free: the next render runs.
    fleet.submit(fleet.grant(2, NOOP, 1)).await;
    assert_eq!(fleet.event().await.render.0.as_u128(), 2);
    assert_eq!(fleet.jobs_left().await, [], "the fenced job is acknowledged");
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_render_that_is_fenced_at_its_upload_stops_silently() {
    let mut fleet = Fleet::start(config()).await;
    fleet.script(|script| script.fence_uploads = true);
    let fenced = fleet.grant(1, NOOP, 1);
    fleet.submit(fenced.clone()).await;
    fleet.claim().await;
    fleet.heartbeat("a heartbeat without it", |heartbeat| heartbeat.held.is_empty()).await;
    fleet.script(|script| script.fence_uploads = false);
    fleet.submit(fleet.grant(2, NOOP, 1)).await;
    assert_eq!(fleet.event().await.render.0.as_u128(), 2);
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_worker_that_cannot_renew_stops_by_itself_and_gives_the_job_back() {
    let mut fleet = Fleet::start(config()).await;
    let mut grant = fleet.grant(1, TRY_ON, MANY);
    grant.lease_ms = 400;
    fleet.submit(grant.clone()).await;
    fleet.first_step().await;
    fleet.script(|script| {
        script.silent = true;
        // Next time it is short enough to finish.
        script.grants.get_mut(&grant.render).unwrap().spec.steps = 2;
        script.grants.get_mut(&grant.render).unwrap().lease_ms = 60_000;
    });
    assert_eq!(fleet.claim().await.render, grant.render, "the first claim");
    assert_eq!(fleet.claim().await.render, grant.render, "the job came back and is claimed again");
    fleet.script(|script| script.silent = false);
    let event = fleet.event().await;
    assert!(matches!(event.body, EventBody::Succeeded { .. }), "{event:?}");
    assert_eq!(event.epoch.0, 2, "nothing was said about the lost claim");
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_render_that_takes_too_long_fails() {
    let mut fleet = Fleet::start(config()).await;
    let mut grant = fleet.grant(1, TRY_ON, MANY);
    grant.time_limit_ms = 300;
    fleet.submit(grant).await;
    let EventBody::Failed { failure } = fleet.event().await.body else { panic!("not failed") };
    assert_eq!(failure.code, FailureCode::TimeLimit);
}

#[tokio::test]
async fn a_duplicate_of_a_job_that_runs_is_acknowledged() {
    let mut fleet = Fleet::start(kraftr_worker::WorkerConfig { slots: 2, ..config() }).await;
    let grant = fleet.grant(1, TRY_ON, 25);
    fleet.submit(grant.clone()).await;
    fleet.first_step().await;
    let job = Job { render: grant.render, attempt: 1 };
    fleet.transport.publish_job(&lane(TRY_ON, Class::Interactive), job).await.unwrap();
    // Behind the duplicate in the same lane: when this is done, the duplicate has been dealt with.
    fleet.submit(fleet.grant(2, TRY_ON, 1)).await;
    let (first, second) = (fleet.event().await, fleet.event().await);
    assert_eq!(first.render.0.as_u128(), 2);
    assert_eq!((second.render, second.epoch.0), (grant.render, 1));
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_claims(), 2);
    assert_eq!(fleet.other_events(), []);
}
