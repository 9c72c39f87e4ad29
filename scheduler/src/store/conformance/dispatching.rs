//! Windows, order, claims, epochs.

use super::{
    Applied, AtOnce, Bench, ClaimOutcome, Class, Digest, Duration, EventBody, Held, Job, LeaseVerdict,
    NewRender, NotGranted, Notice, REPLICA, RenderId, Status, Term, Topic, UploadRequest, Uuid, delivered,
    limits, new_render, worker,
};

/// A lane without a present worker gets nothing; one with workers gets a bounded window.
pub async fn the_window_is_bounded(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    for _ in 0..10 {
        bench.submit(&tenant, 1).await;
    }
    assert_eq!(bench.dispatch().await, 0);
    bench.announce(worker(1), 2, Vec::new()).await;
    assert_eq!(bench.dispatch().await, 2 * (1 + limits::LOOKAHEAD));
    assert_eq!(bench.dispatch().await, 0);
    bench.announce(worker(2), 1, Vec::new()).await;
    assert_eq!(bench.dispatch().await, 1 + limits::LOOKAHEAD);
    (bench.advance)(limits::WORKER_PRESENCE + Duration::from_secs(1));
    assert_eq!(bench.dispatch().await, 0, "workers that are not seen have no window");
    bench.audit().await;
}

/// The urgent class goes first, and within a class the oldest.
pub async fn urgent_first_then_oldest(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    let mut expected = Vec::new();
    for class in [Class::Batch, Class::Interactive] {
        let new = NewRender { class, ..new_render(&tenant, 1) };
        let outcomes = bench.store.submit_renders(&[new.clone(), new], None).await.expect("store");
        let ids = outcomes.into_iter().map(|outcome| outcome.expect("accepted").id).collect::<Vec<_>>();
        expected.splice(0..0, ids.into_iter().map(|id| (class, id)));
    }
    bench.announce(worker(1), 2, Vec::new()).await;
    bench.dispatch().await;
    let order: Vec<_> = bench.jobs().await.into_iter().map(|(lane, job)| (lane.class, job.render)).collect();
    assert_eq!(order, expected);
}

/// What the leader submits goes at once as far as places are free, and never before what waits there.
pub async fn nobody_waits_for_a_free_place(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    let term = bench.lead().await;
    let submit = async |class, term: Option<Term>| {
        let new = NewRender { class, ..new_render(&tenant, 1) };
        let at_once = term.map(AtOnce::from);
        let outcome = bench.store.submit_renders(&[new], at_once).await.expect("store").remove(0);
        outcome.expect("the tenant has the credits")
    };
    let status = async |class, term| submit(class, term).await.status;
    let (urgent, patient) = (Class::Interactive, Class::Batch);
    let first = submit(urgent, Some(term)).await;
    assert_eq!(first.status, Status::Queued, "nobody takes jobs yet");
    bench.announce(worker(1), 1, Vec::new()).await;
    assert_eq!(status(urgent, Some(term)).await, Status::Queued, "somebody waits there");
    assert_eq!(bench.dispatch().await, 2);
    assert_eq!(status(urgent, Some(term)).await, Status::Queued, "the window is full");
    assert_eq!(status(patient, None).await, Status::Queued, "not the leader");
    assert_eq!(bench.dispatch().await, 1);
    let at_once = submit(patient, Some(term)).await;
    assert_eq!((at_once.status, at_once.attempts, at_once.revision), (Status::Dispatched, 1, 2));
    let jobs = bench.jobs().await;
    let (lane, job) = jobs.last().expect("jobs");
    assert_eq!((lane.class, *job), (patient, Job { render: at_once.id, attempt: 1 }));
    let history = bench.store.transitions(at_once.id, 0).await.expect("store");
    let steps: Vec<_> = history.iter().map(|step| (step.revision, step.status)).collect();
    assert_eq!(steps, [(1, Status::Queued), (2, Status::Dispatched)]);
    let stored = bench.store.render(tenant.org, at_once.id).await.expect("store");
    assert_eq!(stored, Some(at_once), "the answer is what was written");
    // A place is free, but it belongs to the one that waits.
    let (_, job) = jobs[0];
    bench.deliver(job).await;
    assert_eq!(status(urgent, Some(term)).await, Status::Queued);
    assert_eq!(bench.dispatch().await, 1);
    bench.store.resign(REPLICA).await.expect("store");
    let (_, job) = jobs[2];
    bench.deliver(job).await;
    assert_eq!(status(patient, Some(term)).await, Status::Queued, "the term is over");
    bench.audit().await;
}

/// Whoever submits learns of the jobs that go at once before they are committed, and of no others; the outbox has them
/// all the same.
pub async fn jobs_go_ahead_of_their_commit(bench: &Bench) {
    let tenant = bench.tenant(4).await;
    let term = bench.lead().await;
    bench.announce(worker(1), 1, Vec::new()).await;
    let submit = async |renders: &[NewRender], published: bool| {
        let mut told = Vec::new();
        let mut ahead = |jobs: &[_]| {
            told.extend_from_slice(jobs);
            published
        };
        let at_once = AtOnce { term, ahead: Some(&mut ahead) };
        let outcomes = bench.store.submit_renders(renders, Some(at_once)).await.expect("store");
        (told, outcomes)
    };
    // The third finds no credits.
    let new = new_render(&tenant, 1);
    let (told, outcomes) = submit(&[new.clone(), new.clone(), new.clone()], true).await;
    assert!(outcomes[..2].iter().all(Result::is_ok) && outcomes[2].is_err());
    let accepted: Vec<_> = outcomes.into_iter().flatten().map(|render| render.id).collect();
    assert_eq!(told.iter().map(|(_, job)| job.render).collect::<Vec<_>>(), accepted);
    assert_eq!(bench.jobs().await, told);
    bench.granted(told[0].1).await;
    let (told, _) = submit(&[new], true).await;
    assert!(told.is_empty(), "what is refused has no job");
    let rich = bench.tenant(10).await;
    let (told, _) = submit(&[new_render(&rich, 1)], true).await;
    assert!(told.is_empty(), "the window is full");
    bench.announce(worker(2), 4, Vec::new()).await;
    assert_eq!(bench.dispatch().await, 1);
    let (told, _) = submit(&[new_render(&rich, 1)], false).await;
    assert_eq!(told.len(), 1);
    assert_eq!(bench.jobs().await.last(), told.last(), "the outbox has it, whoever publishes it");
    bench.audit().await;
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
    assert_eq!(bench.claim(nobody, worker(1)).await, ClaimOutcome::NotThere);
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
    for _ in 0..4 {
        let render = bench.submit(&tenant, 1).await;
        bench.store.cancel_render(tenant.org, render.id).await.expect("store");
    }
    let rows = bench.store.outbox(100).await.expect("store");
    assert!(rows.len() >= 4 && rows.is_sorted_by_key(|row| row.id));
    assert_eq!(bench.store.outbox(100).await.expect("store"), rows);
    bench.store.settle_outbox(&[rows[0].id]).await.expect("store");
    bench.store.defer_outbox(&[rows[1].id]).await.expect("store");
    assert_eq!(bench.store.outbox(100).await.expect("store"), rows[2..]);
    (bench.advance)(Duration::from_secs(10));
    let back = bench.store.outbox(100).await.expect("store");
    assert_eq!((back[0].id, back[0].tries), (rows[1].id, 1));
}

/// Rows of one render keep their order while one of them is put off, and hold up nobody else.
pub async fn the_outbox_keeps_the_order_of_a_render(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let (held, other) = (bench.submit(&tenant, 1).await.id, bench.submit(&tenant, 1).await.id);
    bench.announce(worker(1), 4, Vec::new()).await;
    assert_eq!(bench.dispatch().await, 2);
    let rows = bench.store.outbox(100).await.expect("store");
    let jobs: Vec<i64> =
        rows.iter().filter(|row| matches!(row.topic, Topic::Job { .. })).map(|row| row.id).collect();
    let first = rows.iter().find(|row| row.topic.render() == Some(held)).expect("its job waits").id;
    bench.store.defer_outbox(&[first]).await.expect("store");
    for render in [held, other] {
        bench.store.cancel_render(tenant.org, render).await.expect("store");
    }
    let renders: Vec<_> =
        bench.store.outbox(100).await.expect("store").iter().filter_map(|row| row.topic.render()).collect();
    assert_eq!(renders, [other, other], "a cancel waits behind the job that was put off");
    (bench.advance)(Duration::from_secs(10));
    let rows = bench.store.outbox(100).await.expect("store");
    let of_held: Vec<_> = rows.iter().filter(|row| row.topic.render() == Some(held)).collect();
    assert_eq!(of_held.len(), 2);
    assert!(jobs.contains(&of_held[0].id) && matches!(of_held[1].topic, Topic::Cancel { .. }));
}

/// One replica leads at a time; another may when it resigned or went silent, and a term that is over
/// dispatches nothing.
pub async fn one_replica_leads(bench: &Bench) {
    let store = &bench.store;
    let [one, other] = [10, 20].map(Uuid::from_u128);
    let lead = async |replica| store.lead(replica).await.expect("store");
    let first = lead(one).await.expect("nobody leads yet");
    assert_eq!(lead(one).await, Some(first), "renewing goes on with the term");
    assert_eq!(lead(other).await, None);
    store.resign(other).await.expect("store");
    assert_eq!(lead(other).await, None, "only who leads can resign");
    assert_eq!(store.dispatch(first).await.expect("store"), Some(0));
    store.resign(one).await.expect("store");
    assert_eq!(store.dispatch(first).await.expect("store"), None, "who resigned dispatches nothing");
    let second = lead(other).await.expect("the lead is free");
    assert!(second > first);
    (bench.advance)(limits::LEADER_RENEW);
    assert_eq!(lead(one).await, None, "the lease lasts");
    (bench.advance)(limits::LEADER_LEASE);
    assert_eq!(store.dispatch(second).await.expect("store"), None, "a lease that ran out dispatches nothing");
    let third = lead(one).await.expect("the lease ran out");
    assert!(third > second);
    assert_eq!(store.dispatch(second).await.expect("store"), None, "an old leader dispatches nothing");
    assert_eq!(store.dispatch(third).await.expect("store"), Some(0));
}

/// Whoever commits tells whoever waits for that.
pub async fn commits_are_noticed(bench: &Bench) {
    let mut notices = bench.store.notices();
    let mut until = async |wanted: &dyn Fn(&Notice) -> bool| {
        let search = async {
            loop {
                match notices.recv().await {
                    Ok(notice) if wanted(&notice) => break,
                    Ok(_) => {}
                    Err(error) => panic!("no notice: {error}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), search).await.expect("a notice comes");
    };
    let changed = |render| move |notice: &Notice| matches!(notice, Notice::Changed(renders) if renders.contains(&render));
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 1).await.id;
    until(&|notice| *notice == Notice::Queue).await;
    until(&changed(render)).await;
    bench.announce(worker(1), 1, Vec::new()).await;
    until(&|notice| *notice == Notice::Queue).await;
    bench.dispatch().await;
    until(&|notice| *notice == Notice::Outbox).await;
    until(&changed(render)).await;
    bench.store.cancel_render(tenant.org, render).await.expect("store");
    until(&|notice| *notice == Notice::Queue).await;
}
