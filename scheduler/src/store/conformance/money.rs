//! Grants, holds, captures, voids, idempotency.

use super::{
    Applied, Arc, AssetId, Bench, Credits, Digest, Duration, EventBody, FailureCode, GpuMillis, Idempotency,
    NewRender, Resource, Status, SubmitError, Tenant, Ticket, Uuid, artifact, delivered, everything, failed,
    limits, new_render,
};
use crate::domain::ledger::EntryKind;

/// A grant counts once for each reference of an org.
pub async fn grants_count_once(bench: &Bench) {
    let tenant = bench.tenant(0).await;
    assert!(bench.store.grant(tenant.org, Credits(5), "invoice 1").await.expect("store"));
    assert!(!bench.store.grant(tenant.org, Credits(5), "invoice 1").await.expect("store"));
    assert!(bench.store.grant(tenant.org, Credits(5), "invoice 2").await.expect("store"));
    assert_eq!(bench.balance(&tenant).await, (10, 0));
    bench.audit().await;
}

/// A submission holds its price, and is refused without a trace when that is more than what is available.
pub async fn submit_holds_or_refuses(bench: &Bench) {
    let tenant = bench.tenant(3).await;
    let render = bench.submit(&tenant, 1).await;
    assert_eq!((render.status, render.revision), (Status::Queued, 1));
    assert_eq!(bench.balance(&tenant).await, (3, 2));
    let refused = bench.store.submit_renders(&[new_render(&tenant, 1)], None).await.expect("store").remove(0);
    assert_eq!(refused, Err(SubmitError::InsufficientCredits { available: Credits(1), price: Credits(2) }));
    assert_eq!(bench.balance(&tenant).await, (3, 2));
    assert_eq!(bench.store.renders(tenant.org, None, &everything()).await.expect("store").len(), 1);
    bench.audit().await;
}

/// Within one batch each submission stands or falls by itself.
pub async fn a_batch_is_judged_one_by_one(bench: &Bench) {
    let tenant = bench.tenant(5).await;
    let gone = NewRender { garment: AssetId(Uuid::from_u128(9)), ..new_render(&tenant, 1) };
    let batch = [new_render(&tenant, 2), gone, new_render(&tenant, 1), new_render(&tenant, 1)];
    let outcomes = bench.store.submit_renders(&batch, None).await.expect("store");
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(SubmitError::AssetGone(AssetId(Uuid::from_u128(9)))));
    assert!(matches!(outcomes[2], Err(SubmitError::InsufficientCredits { .. })));
    assert_eq!(bench.balance(&tenant).await, (5, 4));
    bench.audit().await;
}

/// Racing submissions never hold more than there is.
pub async fn racing_submissions_never_overdraw(bench: &Bench) {
    let tenant = bench.tenant(7).await;
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (store, new) = (Arc::clone(&bench.store), new_render(&tenant, 1));
        racing
            .spawn(async move { store.submit_renders(&[new], None).await.expect("store").remove(0).is_ok() });
    }
    let accepted = racing.join_all().await.into_iter().filter(|accepted| *accepted).count();
    assert_eq!(accepted, 3);
    assert_eq!(bench.balance(&tenant).await, (7, 6));
    bench.audit().await;
}

/// A delivered render is captured once, however often it is reported.
pub async fn success_captures_once(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 2).await;
    let (job, epoch) = bench.run(render.id).await;
    assert_eq!(bench.report(job, epoch, delivered(2)).await, Applied::Changed(Status::Succeeded));
    for body in [delivered(2), failed(FailureCode::InputInvalid), EventBody::HandedBack] {
        assert_eq!(bench.report(job, epoch, body).await, Applied::Stale);
    }
    assert_eq!(bench.balance(&tenant).await, (6, 0));
    let kinds: Vec<_> = bench
        .store
        .ledger_of_render(render.id)
        .await
        .expect("store")
        .iter()
        .map(|entry| entry.kind)
        .collect();
    assert_eq!(kinds, [EntryKind::Hold, EntryKind::Capture]);
    bench.audit().await;
}

/// A partial result is charged for its part, and the rest of the hold is free again.
pub async fn a_partial_result_is_charged_its_part(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 4).await;
    let (job, epoch) = bench.run(render.id).await;
    bench.report(job, epoch, delivered(3)).await;
    assert_eq!(bench.balance(&tenant).await, (4, 0));
    let entries = bench.store.ledger(tenant.org, &everything()).await.expect("store");
    assert_eq!(entries[0].kind, EntryKind::Capture);
    assert_eq!(
        (entries[0].amount, entries[0].posted_after, entries[0].held_after),
        (Credits(6), Credits(4), Credits(0))
    );
    bench.audit().await;
}

/// A report that does not fit the render is a failure of the worker, never a charge.
pub async fn a_report_that_does_not_fit_is_no_delivery(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 2).await;
    let (job, epoch) = bench.run(render.id).await;
    let twice = EventBody::Succeeded { artifacts: vec![artifact(0), artifact(0)], device_time: GpuMillis(1) };
    assert_eq!(bench.report(job, epoch, twice).await, Applied::Changed(Status::Queued));
    assert_eq!(bench.balance(&tenant).await, (10, 4));
    bench.audit().await;
}

async fn reserve(bench: &Bench, tenant: &Tenant, key: &str, body: &[u8]) -> Idempotency {
    bench.store.begin_idempotent(tenant.org, key, Digest::of(body)).await.expect("store")
}

fn fresh(outcome: Idempotency) -> Ticket {
    match outcome {
        Idempotency::Fresh(ticket) => ticket,
        other => panic!("expected a fresh reservation, got {other:?}"),
    }
}

/// One key makes one render: repeated, in flight, and with another body.
pub async fn an_idempotency_key_charges_once(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let ticket = fresh(reserve(bench, &tenant, "k", b"body").await);
    assert_eq!(reserve(bench, &tenant, "k", b"body").await, Idempotency::InFlight);
    assert_eq!(reserve(bench, &tenant, "k", b"other").await, Idempotency::Mismatch);
    let new = NewRender { ticket: Some(ticket.clone()), ..new_render(&tenant, 1) };
    let outcome = bench.store.submit_renders(&[new.clone(), new.clone()], None).await.expect("store");
    let render = outcome[0].clone().expect("the first is accepted");
    assert_eq!(outcome[1], Err(SubmitError::TicketLost));
    (bench.advance)(limits::IDEMPOTENCY_LEASE * 10);
    assert_eq!(reserve(bench, &tenant, "k", b"body").await, Idempotency::Done(Resource::Render(render.id)));
    assert_eq!(reserve(bench, &tenant, "k", b"other").await, Idempotency::Mismatch);
    assert_eq!(bench.balance(&tenant).await, (10, 2));
    bench.audit().await;
}

/// A request that made nothing frees its key at once; one that vanished frees it when its reservation
/// lapses, and can then no longer complete.
pub async fn an_unfinished_request_frees_its_key(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let given_up = fresh(reserve(bench, &tenant, "k", b"body").await);
    bench.store.abandon_idempotent(&given_up).await.expect("store");
    let vanished = fresh(reserve(bench, &tenant, "k", b"other").await);
    (bench.advance)(limits::IDEMPOTENCY_LEASE + Duration::from_secs(1));
    let successor = fresh(reserve(bench, &tenant, "k", b"third").await);
    let late = NewRender { ticket: Some(vanished), ..new_render(&tenant, 1) };
    let outcome = bench.store.submit_renders(&[late], None).await.expect("store").remove(0);
    assert_eq!(outcome, Err(SubmitError::TicketLost));
    assert_eq!(bench.balance(&tenant).await, (10, 0));
    let asset = Resource::Asset(tenant.person);
    assert!(bench.store.complete_idempotent(&successor, asset).await.expect("store"));
    assert!(!bench.store.complete_idempotent(&successor, asset).await.expect("store"));
    bench.audit().await;
}
