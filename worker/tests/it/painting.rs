//! The second stage of renders with scenes: the person is dressed, and what is behind them is being painted.

use std::fs;
use std::time::Duration;

use kraftr_imaging::{Limits, RgbImage, decode};
use kraftr_models::Registry;
use kraftr_protocol::message::{Control, Grant};
use kraftr_protocol::spec::{Prompt, SceneSpec, with_scene};
use kraftr_protocol::{Class, Event, EventBody, FailureCode, ProgressBody};
use kraftr_worker::WorkerConfig;
use tempfile::TempDir;

use crate::scheduler::{Fleet, artifact, config, worker_id};

const DRESSER: &str = "dresser-random";
const PAINTER: &str = "painter-random";
const DRESSING: u32 = 2;
/// More steps of painting than any of these tests waits for.
const MANY: u32 = 100;

/// A folder with a try-on release and the painter of its scenes, whose steps take some time.
fn releases() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, manifest) in [
        ("painter", include_str!("../../../models/tests/fixtures/scene-painter.toml")),
        ("dresser", include_str!("../../../models/tests/fixtures/scene-dresser.toml")),
    ] {
        let slower = manifest
            .replace("size = [64, 64]", "size = [128, 128]")
            .replace("steps_max = 10", "steps_max = 100");
        fs::write(folder.path().join(format!("{name}.toml")), slower).unwrap();
        let random = open(&folder).init(name, folder.path(), 3, |_, _| ()).unwrap();
        fs::write(folder.path().join(format!("{}.toml", random.name)), random.to_toml()).unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> Registry {
    Registry::open(Some(folder.path()), Some(folder.path())).unwrap()
}

/// A worker for renders with scenes and without.
fn both() -> WorkerConfig {
    WorkerConfig { releases: vec![with_scene(DRESSER, PAINTER), DRESSER.to_owned()], ..config() }
}

fn plain(fleet: &Fleet, n: u128) -> Grant {
    fleet.grant(n, DRESSER, DRESSING)
}

/// A render whose scene takes so many steps; urgent ones overtake it.
fn placed(fleet: &Fleet, n: u128, steps: u32) -> Grant {
    let mut grant = Grant { class: Class::Batch, ..plain(fleet, n) };
    let (release, prompt) = (PAINTER.to_owned(), Prompt::new("a terrace above the sea"));
    grant.spec.scene = Some(SceneSpec { release, prompt, steps, guidance: 4.0 });
    grant
}

/// A render that is being painted and has most of its steps to do.
async fn under_way(fleet: &mut Fleet) -> Grant {
    let grant = placed(fleet, 1, MANY);
    fleet.submit(grant.clone()).await;
    fleet.step_after(DRESSING).await;
    grant
}

fn picture(fleet: &Fleet, event: &Event) -> RgbImage {
    assert!(matches!(event.body, EventBody::Succeeded { .. }), "{event:?}");
    let limits =
        Limits { bytes_max: 1 << 24, side_min: 1, side_max: 4_096, pixels_max: 1 << 24, aspect_max: 8 };
    let file = fleet.objects.get(&artifact(event.render, event.epoch, 0)).unwrap();
    decode(&file, &limits).unwrap().image
}

#[tokio::test]
async fn a_drain_hands_back_what_is_being_painted() {
    let folder = releases();
    let mut fleet = Fleet::start_with(open(&folder), WorkerConfig { grace: Duration::ZERO, ..both() }).await;
    let grant = under_way(&mut fleet).await;
    fleet.ask_to_stop();
    let event = fleet.event().await;
    assert_eq!((event.render, event.body), (grant.render, EventBody::HandedBack));
    fleet.ended().await.unwrap();
    assert_eq!(
        fleet.objects.get(&artifact(grant.render, event.epoch, 0)),
        None,
        "nothing half painted is shown"
    );
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn what_is_painted_within_the_grace_is_delivered() {
    let folder = releases();
    let mut fleet =
        Fleet::start_with(open(&folder), WorkerConfig { grace: Duration::from_hours(1), ..both() }).await;
    let grant = placed(&fleet, 1, 6);
    fleet.submit(grant.clone()).await;
    fleet.step_after(DRESSING).await;
    fleet.tell(Control::Drain { worker: Some(worker_id()) });
    fleet.heartbeat("a heartbeat without lanes", |heartbeat| heartbeat.lanes.is_empty()).await;
    let event = fleet.event().await;
    assert_eq!(event.render, grant.render);
    picture(&fleet, &event);
    fleet.ended().await.unwrap();
}

#[tokio::test]
async fn a_cancel_says_at_which_step_of_the_painting_it_came() {
    let folder = releases();
    let mut fleet = Fleet::start_with(open(&folder), both()).await;
    let grant = under_way(&mut fleet).await;
    fleet.tell(Control::Cancel { render: grant.render });
    let EventBody::Cancelled { step } = fleet.event().await.body else { panic!("not cancelled") };
    assert!((DRESSING + 1..DRESSING + MANY).contains(&step), "{step}");
    assert_eq!(fleet.jobs_left().await, []);
    assert_eq!(fleet.other_events(), []);
}

#[tokio::test]
async fn a_scene_that_takes_too_long_fails_and_the_next_render_is_served() {
    let folder = releases();
    let mut fleet = Fleet::start_with(open(&folder), both()).await;
    let mut grant = placed(&fleet, 1, MANY);
    grant.time_limit_ms = 1_500;
    fleet.submit(grant.clone()).await;
    let event = fleet.event().await;
    let EventBody::Failed { failure } = event.body else { panic!("not failed: {event:?}") };
    assert_eq!((event.render, failure.code), (grant.render, FailureCode::TimeLimit));
    let last = fleet.other_progress().into_iter().filter_map(|progress| match progress.body {
        ProgressBody::Step { step, .. } => Some(step),
        ProgressBody::Preview { .. } => None,
    });
    let last = last.max().unwrap();
    assert!((DRESSING + 1..DRESSING + MANY).contains(&last), "it was being painted: {last}");
    let next = plain(&fleet, 2);
    fleet.submit(next.clone()).await;
    let event = fleet.event().await;
    assert_eq!(event.render, next.render);
    picture(&fleet, &event);
}

/// The painter is there or not, at work or not: who asks for no scene sees nothing of it.
#[tokio::test]
async fn a_render_without_a_scene_is_the_same_with_a_painter_beside_it() {
    let folder = releases();
    let alone = {
        let config = WorkerConfig { releases: vec![DRESSER.to_owned()], ..config() };
        let mut fleet = Fleet::start_with(open(&folder), config).await;
        fleet.submit(plain(&fleet, 2)).await;
        let event = fleet.event().await;
        picture(&fleet, &event)
    };
    let mut fleet = Fleet::start_with(open(&folder), WorkerConfig { slots: 2, ..both() }).await;
    fleet.submit(plain(&fleet, 2)).await;
    let event = fleet.event().await;
    assert!(picture(&fleet, &event) == alone, "a painter that has nothing to do");

    let painted = under_way(&mut fleet).await;
    let mut beside = plain(&fleet, 3);
    (beside.person, beside.garment) = (plain(&fleet, 2).person, plain(&fleet, 2).garment);
    fleet.submit(beside.clone()).await;
    let event = fleet.event().await;
    assert_eq!(event.render, beside.render, "it overtakes the painting");
    assert!(picture(&fleet, &event) == alone, "a painter that paints");
    fleet.tell(Control::Cancel { render: painted.render });
    assert_eq!(fleet.event().await.render, painted.render);
}
