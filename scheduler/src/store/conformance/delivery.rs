//! Events in every state, retries, cancels, leases.

use super::{
    Applied, Bench, CancelOutcome, ClaimOutcome, Digest, DiscardOutcome, Duration, Epoch, EventBody,
    FailureCode, Held, Idempotency, Job, LeaseVerdict, NotGranted, ReplayOutcome, Status, SubmitError,
    Tenant, delivered, everything, failed, limits, worker,
};

/// Brings a fresh render into `status`; the claim is the one it has or had.
async fn bring_to(bench: &Bench, tenant: &Tenant, status: Status) -> (Job, Epoch) {
    let render = bench.submit(tenant, 1).await;
    let idle = (Job { render: render.id, attempt: 0 }, Epoch(0));
    let claim = match status {
        Status::Queued => idle,
        Status::Dispatched => {
            bench.announce(worker(1), 4, Vec::new()).await;
            bench.dispatch().await;
            (Job { render: render.id, attempt: 1 }, Epoch(0))
        }
        Status::Cancelled => {
            bench.store.cancel_render(tenant.org, render.id).await.expect("store");
            idle
        }
        Status::Expired => {
            (bench.advance)(limits::QUEUE_TIME_MAX + Duration::from_secs(1));
            bench.store.reap().await.expect("store");
            idle
        }
        Status::Running | Status::Succeeded | Status::Failed => {
            let (job, epoch) = bench.run(render.id).await;
            if status == Status::Succeeded {
                bench.report(job, epoch, delivered(1)).await;
            } else if status == Status::Failed {
                bench.report(job, epoch, failed(FailureCode::InputInvalid)).await;
            }
            (job, epoch)
        }
    };
    assert_eq!(bench.status(tenant, render.id).await, status);
    claim
}

/// From every state, every kind of event: only a running render's own claim changes it, and only as the
/// event says.
pub async fn events_change_only_the_claim_that_holds(bench: &Bench) {
    let tenant = bench.tenant(1_000).await;
    let bodies = [
        (delivered(1), Status::Succeeded),
        (failed(FailureCode::InputInvalid), Status::Failed),
        (failed(FailureCode::ModelError), Status::Queued),
        (EventBody::HandedBack, Status::Queued),
        (EventBody::EngineCrashed, Status::Queued),
        (EventBody::Cancelled { step: 1 }, Status::Queued),
    ];
    for status in Status::ALL {
        for (body, then) in &bodies {
            let (job, epoch) = bring_to(bench, &tenant, status).await;
            assert_eq!(bench.report(job, Epoch(epoch.0 + 1), body.clone()).await, Applied::Stale);
            let expected = if status == Status::Running { Applied::Changed(*then) } else { Applied::Stale };
            assert_eq!(bench.report(job, epoch, body.clone()).await, expected, "{body:?} while {status:?}");
            let after = if status == Status::Running { *then } else { status };
            assert_eq!(bench.status(&tenant, job.render).await, after);
            bench.store.cancel_render(tenant.org, job.render).await.expect("store");
        }
    }
    bench.audit().await;
}

/// A retryable failure comes back after a delay, and ends the render, refunded, at the third time.
pub async fn failures_are_retried_and_then_refunded(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let render = bench.submit(&tenant, 1).await;
    for n in 1..=limits::FAILURES_MAX {
        let (job, epoch) = bench.run(render.id).await;
        assert_eq!(job.attempt, n);
        bench.report(job, epoch, failed(FailureCode::ModelError)).await;
        assert_eq!(bench.dispatch().await, 0, "it waits before it is tried again");
        (bench.advance)(Duration::from_secs(30));
    }
    let render = bench.store.render(tenant.org, render.id).await.expect("store").expect("it is there");
    assert_eq!(render.status, Status::Failed);
    assert_eq!(render.failure.map(|failure| failure.code), Some(FailureCode::ModelError));
    assert_eq!(bench.balance(&tenant).await, (2, 0));
    bench.audit().await;
}

/// A waiting render is cancelled at once; a running one is asked to stop, and whatever its worker
/// reports then, nothing is charged.
pub async fn a_cancel_never_charges(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    for status in [Status::Queued, Status::Dispatched] {
        let (job, _) = bring_to(bench, &tenant, status).await;
        let outcome = bench.store.cancel_render(tenant.org, job.render).await.expect("store");
        assert!(matches!(outcome, CancelOutcome::Cancelled(_)), "{outcome:?}");
    }
    for body in [EventBody::Cancelled { step: 3 }, delivered(1), EventBody::HandedBack] {
        let (job, epoch) = bring_to(bench, &tenant, Status::Running).await;
        let outcome = bench.store.cancel_render(tenant.org, job.render).await.expect("store");
        assert!(matches!(outcome, CancelOutcome::Requested(_)), "{outcome:?}");
        let held = vec![Held { render: job.render, epoch }];
        assert_eq!(bench.announce(worker(1), 4, held).await, [LeaseVerdict::Cancel]);
        assert_eq!(bench.report(job, epoch, body.clone()).await, Applied::Changed(Status::Cancelled));
        let outcome = bench.store.cancel_render(tenant.org, job.render).await.expect("store");
        let CancelOutcome::AlreadyEnded(render) = outcome else { panic!("{outcome:?}") };
        assert_eq!(render.cancelled_at_step.is_some(), matches!(body, EventBody::Cancelled { .. }));
    }
    assert_eq!(bench.balance(&tenant).await, (100, 0));
    let stranger = bench.tenant(0).await;
    let (job, _) = bring_to(bench, &tenant, Status::Queued).await;
    let outcome = bench.store.cancel_render(stranger.org, job.render).await.expect("store");
    assert_eq!(outcome, CancelOutcome::NotFound);
    bench.audit().await;
}

/// A lease that is renewed holds; one that is not sends the render back, and twenty lost ones make it poison.
pub async fn lost_leases_requeue_and_then_poison(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let render = bench.submit(&tenant, 1).await;
    let (_, epoch) = bench.run(render.id).await;
    for _ in 0..3 {
        (bench.advance)(limits::LEASE.saturating_sub(Duration::from_secs(1)));
        assert_eq!(
            bench.announce(worker(1), 4, vec![Held { render: render.id, epoch }]).await,
            [LeaseVerdict::Renewed]
        );
        assert!(bench.store.reap().await.expect("store").is_empty());
    }
    for _ in 1..limits::LOST_LEASES_MAX {
        (bench.advance)(limits::LEASE + Duration::from_secs(1));
        assert_eq!(bench.store.reap().await.expect("store").requeued, [render.id]);
        bench.run(render.id).await;
    }
    (bench.advance)(limits::LEASE + Duration::from_secs(1));
    assert_eq!(bench.store.reap().await.expect("store").ended, [render.id]);
    let render = bench.store.render(tenant.org, render.id).await.expect("store").expect("it is there");
    assert_eq!(render.failure.map(|failure| failure.code), Some(FailureCode::LeaseLost));
    assert_eq!(bench.balance(&tenant).await, (2, 0));
    bench.audit().await;
}

/// A job message that nobody claims is sent again, and its late claim is refused.
pub async fn lost_job_messages_are_sent_again(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let (job, _) = bring_to(bench, &tenant, Status::Dispatched).await;
    (bench.advance)(limits::DISPATCH_PATIENCE + Duration::from_secs(1));
    assert_eq!(bench.store.reap().await.expect("store").requeued, [job.render]);
    assert_eq!(bench.claim(job, worker(1)).await, ClaimOutcome::NotGranted(NotGranted::StaleAttempt));
    let (again, _) = bench.run(job.render).await;
    assert_eq!(again.attempt, 2);
    bench.audit().await;
}

/// A cancelled render whose worker vanished ends without it.
pub async fn a_cancel_survives_its_worker(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let (job, _) = bring_to(bench, &tenant, Status::Running).await;
    bench.store.cancel_render(tenant.org, job.render).await.expect("store");
    (bench.advance)(limits::LEASE + Duration::from_secs(1));
    assert_eq!(bench.store.reap().await.expect("store").ended, [job.render]);
    assert_eq!(bench.status(&tenant, job.render).await, Status::Cancelled);
    assert_eq!(bench.balance(&tenant).await, (2, 0));
    bench.audit().await;
}

/// A restart of the only process sends everything in flight back without blame, and what was cancelled ends.
pub async fn a_restart_requeues_without_blame(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    let (running, epoch) = bring_to(bench, &tenant, Status::Running).await;
    let (cancelled, _) = bring_to(bench, &tenant, Status::Running).await;
    bench.store.cancel_render(tenant.org, cancelled.render).await.expect("store");
    let (dispatched, _) = bring_to(bench, &tenant, Status::Dispatched).await;
    let reserve = || bench.store.begin_idempotent(tenant.org, "cut off", Digest::of(b"body"));
    assert!(matches!(reserve().await.expect("store"), Idempotency::Fresh(_)));
    assert_eq!(bench.store.requeue_in_flight().await.expect("store"), 3);
    assert!(
        matches!(reserve().await.expect("store"), Idempotency::Fresh(_)),
        "its request died with the process"
    );
    assert_eq!(bench.status(&tenant, running.render).await, Status::Queued);
    assert_eq!(bench.status(&tenant, dispatched.render).await, Status::Queued);
    assert_eq!(bench.status(&tenant, cancelled.render).await, Status::Cancelled);
    assert_eq!(bench.report(running, epoch, delivered(1)).await, Applied::Stale);
    bench.audit().await;
}

/// Every state a render went through is in its history, in order, with a reason.
pub async fn the_history_is_whole(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let (job, epoch) = bring_to(bench, &tenant, Status::Running).await;
    bench.report(job, epoch, delivered(1)).await;
    let history = bench.store.transitions(job.render, 0).await.expect("store");
    let states: Vec<_> = history.iter().map(|row| row.status).collect();
    assert_eq!(states, [Status::Queued, Status::Dispatched, Status::Running, Status::Succeeded]);
    assert_eq!(history.iter().map(|row| row.revision).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(history.iter().all(|row| !row.reason.is_empty()));
    assert_eq!(bench.store.transitions(job.render, 2).await.expect("store"), history[2..]);
}

/// A render that took workers down becomes a dead letter, which is decided once: replayed as another render
/// with a hold of its own, or discarded.
pub async fn poison_becomes_a_dead_letter(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let poison = async || {
        let render = bench.submit(&tenant, 1).await.id;
        for _ in 0..limits::CRASHES_MAX {
            (bench.advance)(Duration::from_mins(10));
            let (job, epoch) = bench.run(render).await;
            bench.report(job, epoch, EventBody::EngineCrashed).await;
        }
        assert_eq!(bench.status(&tenant, render).await, Status::Failed);
        render
    };
    let open = async || {
        let renders = bench.store.dead_letters(&everything()).await.expect("store");
        renders.into_iter().map(|render| render.id).collect::<Vec<_>>()
    };
    let first = poison().await;
    assert_eq!(open().await, [first]);
    assert_eq!(bench.balance(&tenant).await, (2, 0), "its credits went back");
    let letter = bench.store.dead_letter(first).await.expect("store").expect("it is there");
    assert!(letter.resolution.is_none() && letter.render.failure.is_some());

    let ReplayOutcome::Replayed(again) = bench.store.replay_dead_letter(first).await.expect("store") else {
        panic!("it can be replayed");
    };
    assert_eq!((again.status, again.spec.clone()), (Status::Queued, letter.render.spec));
    assert_eq!((bench.balance(&tenant).await, open().await), ((2, 2), vec![]));
    let twice = bench.store.replay_dead_letter(first).await.expect("store");
    assert!(
        matches!(twice, ReplayOutcome::AlreadyResolved(resolution) if resolution.replay == Some(again.id)),
        "{twice:?}"
    );
    bench.store.cancel_render(tenant.org, again.id).await.expect("store");

    let second = poison().await;
    let spent = bench.submit(&tenant, 1).await.id;
    let refused = bench.store.replay_dead_letter(second).await.expect("store");
    assert!(
        matches!(refused, ReplayOutcome::Refused(SubmitError::InsufficientCredits { .. })),
        "{refused:?}"
    );
    assert_eq!(open().await, [second], "what was refused stays open");
    assert_eq!(bench.store.discard_dead_letter(second).await.expect("store"), DiscardOutcome::Discarded);
    let twice = bench.store.discard_dead_letter(second).await.expect("store");
    assert!(matches!(twice, DiscardOutcome::AlreadyResolved(_)));
    assert_eq!(open().await, []);
    assert_eq!(bench.store.discard_dead_letter(spent).await.expect("store"), DiscardOutcome::NotFound);
    assert_eq!(bench.store.dead_letter(spent).await.expect("store"), None);
    bench.audit().await;
}
