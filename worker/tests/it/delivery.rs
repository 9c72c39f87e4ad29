//! From a job message to artifacts and an event.

use kraftr_imaging::{Limits, RgbImage, decode};
use kraftr_protocol::message::{Grant, Request};
use kraftr_protocol::{
    ArtifactReport, Class, Digest, Event, EventBody, FailureClass, FailureCode, Format, ProgressBody,
};
use kraftr_provenance::credentials::{Anchors, Status, read};
use kraftr_provenance::{KeyRing, detect};

use crate::scheduler::{Fleet, NOOP, TRY_ON, artifact, config};

const LIMITS: Limits =
    Limits { bytes_max: 10_000_000, side_min: 16, side_max: 4_096, pixels_max: 10_000_000, aspect_max: 8 };

fn artifacts(event: &Event) -> &[ArtifactReport] {
    match &event.body {
        EventBody::Succeeded { artifacts, .. } => artifacts,
        other => panic!("not delivered: {other:?}"),
    }
}

/// The picture that was uploaded, after its report, its format and its mark were checked.
fn uploaded(fleet: &Fleet, event: &Event, grant: &Grant, sample: u32) -> RgbImage {
    let report = &artifacts(event)[sample as usize];
    let file = fleet.objects.get(&artifact(event.render, event.epoch, sample)).unwrap();
    assert_eq!((report.sample, report.bytes), (sample, file.len() as u64));
    assert_eq!(report.sha256, Digest::of(&file));
    assert_eq!(report.content_type, grant.spec.format.content_type());
    let decoded = decode(&file, &LIMITS).unwrap();
    assert_eq!(decoded.format.content_type(), report.content_type);
    assert_eq!((decoded.image.width(), decoded.image.height()), (report.width, report.height));
    let mark = detect(&decoded.image, &KeyRing::development());
    assert_eq!(mark.payload, Some(grant.watermark.of_sample(sample).0), "the upload carries its mark");
    let anchors = Anchors::from_pem(&fleet.script.lock().unwrap().authority.certificate).unwrap();
    let credentials = read(&file, decoded.format, &anchors);
    assert_eq!(credentials.status, Status::Trusted, "the upload carries its manifest: {credentials:?}");
    assert_eq!(credentials.release.as_deref(), Some(&*grant.spec.release));
    assert_eq!(credentials.reference, mark.payload, "the manifest is bound to the mark");
    decoded.image
}

fn failure(event: &Event) -> (FailureCode, FailureClass) {
    match &event.body {
        EventBody::Failed { failure } => (failure.code, failure.class),
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_on_is_delivered_marked_with_every_step_and_previews() {
    let mut fleet = Fleet::start(kraftr_worker::WorkerConfig { preview_every: 2, ..config() }).await;
    let grant = fleet.grant(1, TRY_ON, 5);
    fleet.submit(grant.clone()).await;
    let event = fleet.event().await;
    assert_eq!((event.render, event.attempt, event.epoch.0), (grant.render, 1, 1));
    let picture = uploaded(&fleet, &event, &grant, 0);
    assert_eq!(picture.dimensions(), (384, 576));
    let EventBody::Succeeded { device_time, .. } = event.body else { panic!("not delivered") };
    assert!(device_time.0 > 0, "five steps of a network take some time");

    let mut steps = Vec::new();
    let mut previews = Vec::new();
    while steps.len() < 5 || previews.is_empty() {
        let progress = fleet.progress().await;
        assert_eq!((progress.render, progress.epoch.0), (grant.render, 1));
        match progress.body {
            ProgressBody::Step { step, steps: all } => steps.push((step, all)),
            ProgressBody::Preview { sample, step, content_type, data } => {
                previews.push((sample, step, content_type));
                let preview = decode(&data, &LIMITS).unwrap().image;
                assert_eq!(preview.dimensions(), (256, 384));
                let mark = detect(&preview, &KeyRing::development());
                assert_eq!(mark.payload, Some(grant.watermark.0), "previews are marked too");
            }
        }
    }
    assert_eq!(steps, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
    assert_eq!(previews[0], (0, 2, "image/jpeg".to_owned()));
    assert_eq!(fleet.jobs_left().await, [], "the job is acknowledged");
}

#[tokio::test]
async fn without_a_signature_nothing_is_uploaded() {
    let mut fleet = Fleet::start(config()).await;
    fleet.script(|script| script.refuse_signatures = true);
    let grant = fleet.grant(1, NOOP, 1);
    fleet.submit(grant.clone()).await;
    let event = fleet.event().await;
    assert_eq!(failure(&event), (FailureCode::SigningFailed, FailureClass::Retryable));
    assert_eq!(fleet.objects.get(&artifact(event.render, event.epoch, 0)), None);
}

#[tokio::test]
async fn samples_are_pictures_of_their_own_in_the_format_asked_for() {
    let mut fleet = Fleet::start(config()).await;
    for (n, format) in (1..).zip([Format::Png, Format::Jpeg, Format::Webp]) {
        let mut grant = fleet.grant(n, NOOP, 3);
        grant.spec.samples = 3;
        grant.spec.format = format;
        fleet.submit(grant.clone()).await;
        let event = fleet.event().await;
        assert_eq!(artifacts(&event).len(), 3);
        let pictures: Vec<RgbImage> = (0..3).map(|sample| uploaded(&fleet, &event, &grant, sample)).collect();
        assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2], "each has its own seed");
    }
    let mut single = fleet.grant(9, NOOP, 3);
    single.spec.seed += 2;
    single.watermark = single.watermark.of_sample(2);
    fleet.submit(single.clone()).await;
    let event = fleet.event().await;
    let mut third = fleet.grant(1, NOOP, 3);
    third.spec.samples = 3;
    // Their manifests tell them apart.
    let pixels = |key: &str| decode(&fleet.objects.get(key).unwrap(), &LIMITS).unwrap().image;
    let first = pixels(&artifact(third.render, kraftr_protocol::Epoch(1), 2));
    let alone = pixels(&artifact(event.render, event.epoch, 0));
    assert!(first == alone, "sample n is the picture of seed + n");
}

#[tokio::test]
async fn two_renders_advance_in_the_engine_at_once() {
    let mut fleet = Fleet::start(kraftr_worker::WorkerConfig { slots: 2, ..config() }).await;
    for n in 1..=2 {
        fleet.submit(fleet.grant(n, TRY_ON, 12)).await;
    }
    let (first, second) = (fleet.event().await, fleet.event().await);
    assert_eq!((artifacts(&first).len(), artifacts(&second).len()), (1, 1));
    let order: Vec<u128> =
        fleet.other_progress().iter().map(|progress| progress.render.0.as_u128()).collect();
    let spans = [1, 2].map(|n| {
        let first = order.iter().position(|&render| render == n).unwrap();
        first..order.iter().rposition(|&render| render == n).unwrap()
    });
    assert!(
        spans[0].contains(&spans[1].start) || spans[1].contains(&spans[0].start),
        "their steps come by turns: {order:?}"
    );
}

#[tokio::test]
async fn an_interactive_render_overtakes_a_batch_one() {
    let mut fleet = Fleet::start(kraftr_worker::WorkerConfig { slots: 2, max_batch: 1, ..config() }).await;
    let slow = kraftr_protocol::message::Grant { class: Class::Batch, ..fleet.grant(1, TRY_ON, 25) };
    fleet.submit(slow.clone()).await;
    fleet.first_step().await;
    let urgent = fleet.grant(2, TRY_ON, 3);
    fleet.submit(urgent.clone()).await;
    assert_eq!(fleet.event().await.render, urgent.render);
    assert_eq!(fleet.event().await.render, slow.render);
}

#[tokio::test]
async fn a_passing_fault_of_the_store_is_waited_out() {
    let mut fleet = Fleet::start(config()).await;
    fleet.objects.refuse("GET", &["503 Service Unavailable"]);
    fleet.objects.refuse("PUT", &["500 Internal Server Error", "503 Service Unavailable"]);
    let grant = fleet.grant(1, NOOP, 1);
    fleet.submit(grant.clone()).await;
    let event = fleet.event().await;
    uploaded(&fleet, &event, &grant, 0);
    assert_eq!(fleet.objects.refusals_left(), 0);
    assert!(fleet.objects.saw_header("x-of: 1"), "links are fetched with their headers");
    assert!(fleet.objects.saw_header("content-type: image/png"), "and so are uploads sent");
    for _ in 0..3 {
        let upload = |request| matches!(request, Request::Upload(_)).then_some(());
        fleet.request("a new link for every try", upload).await;
    }
}

#[tokio::test]
async fn an_input_with_another_digest_is_unavailable() {
    let mut fleet = Fleet::start(config()).await;
    let mut grant = fleet.grant(1, NOOP, 1);
    grant.garment.sha256 = Digest::of(b"something else");
    fleet.submit(grant).await;
    assert_eq!(failure(&fleet.event().await), (FailureCode::InputUnavailable, FailureClass::Retryable));

    let mut grant = fleet.grant(2, NOOP, 1);
    grant.person.link.url = fleet.objects.url("/missing");
    fleet.submit(grant).await;
    let event = fleet.event().await;
    assert_eq!(failure(&event), (FailureCode::InputUnavailable, FailureClass::Retryable));
    let EventBody::Failed { failure } = event.body else { panic!("not failed") };
    assert_eq!(failure.message, "the person picture could not be fetched: the answer was HTTP 404");
    assert_eq!(fleet.jobs_left().await, []);
}

#[tokio::test]
async fn an_input_that_is_no_picture_is_invalid_for_good() {
    let mut fleet = Fleet::start(config()).await;
    let text = b"this is not a picture";
    fleet.objects.put("/text", text);
    let mut grant = fleet.grant(1, NOOP, 1);
    grant.person.link.url = fleet.objects.url("/text");
    grant.person.sha256 = Digest::of(text);
    fleet.submit(grant).await;
    assert_eq!(failure(&fleet.event().await), (FailureCode::InputInvalid, FailureClass::Permanent));
}

#[tokio::test]
async fn an_upload_that_the_store_refuses_fails() {
    let mut fleet = Fleet::start(config()).await;
    fleet.objects.refuse("PUT", &["400 Bad Request"]);
    fleet.submit(fleet.grant(1, NOOP, 1)).await;
    assert_eq!(failure(&fleet.event().await), (FailureCode::UploadFailed, FailureClass::Retryable));
}

#[tokio::test]
async fn a_release_that_is_not_here_is_said_so() {
    let mut fleet = Fleet::start(config()).await;
    let mut grant = fleet.grant(1, NOOP, 1);
    fleet.submit(grant.clone()).await;
    fleet.event().await;
    grant.render.0 = uuid::Uuid::from_u128(2);
    fleet.script(|script| {
        let mut other = grant.clone();
        other.spec.release = "another".to_owned();
        script.grants.insert(grant.render, other);
    });
    let job = kraftr_protocol::message::Job { render: grant.render, attempt: 1 };
    let lane = crate::scheduler::lane(NOOP, Class::Interactive);
    kraftr_transport::Transport::publish_job(&fleet.transport, &lane, job).await.unwrap();
    assert_eq!(failure(&fleet.event().await).0, FailureCode::ReleaseUnavailable);
}
