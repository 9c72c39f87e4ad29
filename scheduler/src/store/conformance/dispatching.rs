//! Windows, order, claims, epochs.

use super::{
    Applied, Bench, ClaimOutcome, Class, Digest, Duration, EventBody, Held, Job, LeaseVerdict, NewRender,
    NotGranted, RenderId, Status, UploadRequest, Uuid, delivered, limits, new_render, worker,
};

/// A lane without a present worker gets nothing; one with workers gets a bounded window.
pub async fn the_window_is_bounded(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    for _ in 0..10 {
        bench.submit(&tenant, 1).await;
    }
    assert_eq!(bench.store.dispatch().await.expect("store"), 0);
    bench.announce(worker(1), 2, Vec::new()).await;
    assert_eq!(bench.store.dispatch().await.expect("store"), 2 * (1 + limits::LOOKAHEAD));
    assert_eq!(bench.store.dispatch().await.expect("store"), 0);
    bench.announce(worker(2), 1, Vec::new()).await;
    assert_eq!(bench.store.dispatch().await.expect("store"), 1 + limits::LOOKAHEAD);
    (bench.advance)(limits::WORKER_PRESENCE + Duration::from_secs(1));
    assert_eq!(bench.store.dispatch().await.expect("store"), 0, "workers that are not seen have no window");
    bench.audit().await;
}

/// The urgent class goes first, and within a class the oldest.
pub async fn urgent_first_then_oldest(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    let mut expected = Vec::new();
    for class in [Class::Batch, Class::Interactive] {
        let new = NewRender { class, ..new_render(&tenant, 1) };
        let outcomes = bench.store.submit_renders(&[new.clone(), new]).await.expect("store");
        let ids = outcomes.into_iter().map(|outcome| outcome.expect("accepted").id).collect::<Vec<_>>();
        expected.splice(0..0, ids.into_iter().map(|id| (class, id)));
    }
    bench.announce(worker(1), 2, Vec::new()).await;
    bench.store.dispatch().await.expect("store");
    let order: Vec<_> = bench.jobs().await.into_iter().map(|(lane, job)| (lane.class, job.render)).collect();
    assert_eq!(order, expected);
}

/// Every granted claim raises the epoch and fences the one before it.
pub async fn claims_raise_the_epoch(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 1).await;
    let (job, first) = bench.run(render.id).await;
    let ClaimOutcome::Granted(second) = bench.claim(job, worker(2)).await else {
        panic!("a redelivered job may be claimed by another worker");
    };
    assert!(second.render.epoch > first);
    let held = [first, second.render.epoch].map(|epoch| Held { render: render.id, epoch });
    assert_eq!(
        bench.announce(worker(1), 1, held.to_vec()).await,
        [LeaseVerdict::Fenced, LeaseVerdict::Renewed]
    );
    assert_eq!(bench.report(job, first, delivered(1)).await, Applied::Stale);
    for (held, expected) in held.into_iter().zip([false, true]) {
        let request = UploadRequest {
            held,
            sample: 0,
            sha256: Digest::of(b"x"),
            bytes: 1,
            content_type: "image/png".into(),
        };
        assert_eq!(bench.store.authorise_upload(&request).await.expect("store").is_some(), expected);
    }
    assert_eq!(bench.report(job, held[1].epoch, delivered(1)).await, Applied::Changed(Status::Succeeded));
    bench.audit().await;
}

/// A claim is refused for what is not there, has ended, waits, or was dispatched anew.
pub async fn claims_are_refused_when_not_current(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let nobody = Job { render: RenderId(Uuid::from_u128(5)), attempt: 1 };
    assert_eq!(bench.claim(nobody, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::NotWanted));
    let render = bench.submit(&tenant, 1).await;
    let early = Job { render: render.id, attempt: 0 };
    assert_eq!(bench.claim(early, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::StaleAttempt));
    let (first, epoch) = bench.run(render.id).await;
    bench.report(first, epoch, EventBody::HandedBack).await;
    assert_eq!(bench.claim(first, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::StaleAttempt));
    let (second, epoch) = bench.run(render.id).await;
    assert_eq!(second.attempt, 2);
    assert_eq!(bench.claim(first, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::StaleAttempt));
    bench.report(second, epoch, delivered(1)).await;
    assert_eq!(bench.claim(second, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::NotWanted));
    bench.audit().await;
}

/// Outbox rows come in the order of their commits, stay until they are settled, and wait when put off.
pub async fn the_outbox_keeps_what_is_not_settled(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    for _ in 0..2 {
        let render = bench.submit(&tenant, 1).await;
        bench.store.cancel_render(tenant.org, render.id).await.expect("store");
    }
    let rows = bench.store.outbox(100).await.expect("store");
    assert!(rows.len() >= 4 && rows.is_sorted_by_key(|row| row.id));
    assert_eq!(bench.store.outbox(100).await.expect("store"), rows);
    bench.store.settle_outbox(&[rows[0].id]).await.expect("store");
    bench.store.defer_outbox(rows[1].id).await.expect("store");
    assert_eq!(bench.store.outbox(100).await.expect("store"), rows[2..]);
    (bench.advance)(Duration::from_secs(10));
    let back = bench.store.outbox(100).await.expect("store");
    assert_eq!((back[0].id, back[0].tries), (rows[1].id, 1));
}
