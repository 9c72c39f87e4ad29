//! What happens to renders, whichever database keeps them: pure decisions on loaded rows.

use std::collections::{BTreeMap, BTreeSet};

use kraftr_protocol::message::{Held, Job, NotGranted, UploadRequest};
use kraftr_protocol::{
    ArtifactReport, AssetId, Credits, Epoch, Event, EventBody, Failure, FailureClass, FailureCode, GpuMillis,
    OrgId, RenderId, Status, Transition, WatermarkRef, WorkerId, limits,
};

use super::rows::{NewRender, Render, Topic, artifact_key};
use super::work::{ArtifactLine, Cause, RenderRow, Work};
use super::{Applied, Resource, StoreError, SubmitError};
use crate::domain::dispatch::OpenPlaces;
use crate::domain::ledger::{self as postings, EntryKind, charge};
use crate::domain::retry::{Blame, Trouble, Verdict, judge};

/// What submissions are judged by; the rows behind it are locked.
#[derive(Default)]
pub(super) struct Facts {
    /// Tokens of the idempotency keys that their requests still hold.
    pub(super) tickets: BTreeSet<(OrgId, String, i64)>,
    /// Assets that are there.
    pub(super) assets: BTreeSet<(OrgId, AssetId)>,
    /// Credits that can still be held.
    pub(super) available: BTreeMap<OrgId, Credits>,
    /// Places that need not be waited for.
    pub(super) open: OpenPlaces,
}

/// Accepts or refuses one submission, and dispatches it where it need not wait. What it accepts counts against the next.
pub(super) fn submit(
    work: &mut Work<'_>,
    new: &NewRender,
    facts: &mut Facts,
) -> Result<Result<Render, SubmitError>, StoreError> {
    let mut row = match accept(work, new, facts) {
        Ok(row) => row,
        Err(refused) => return Ok(Err(refused)),
    };
    work.submitted.insert(row.render.id, row.clone());
    if facts.open.take(&row.lane()) {
        dispatch(work, &mut row)?;
    }
    Ok(Ok(row.render))
}

/// Holds the price, or says why not.
fn accept(work: &mut Work<'_>, new: &NewRender, facts: &mut Facts) -> Result<RenderRow, SubmitError> {
    let ticket = new.ticket.as_ref();
    let key = ticket.map(|ticket| (ticket.org, ticket.key.clone(), ticket.token));
    if key.as_ref().is_some_and(|key| !facts.tickets.contains(key)) {
        return Err(SubmitError::TicketLost);
    }
    for asset in [new.person, new.garment] {
        if !facts.assets.contains(&(new.org, asset)) {
            return Err(SubmitError::AssetGone(asset));
        }
    }
    let available = facts.available.entry(new.org).or_default();
    if *available < new.price {
        return Err(SubmitError::InsufficientCredits { available: *available, price: new.price });
    }
    available.0 -= new.price.0;
    let row = queued(work, new);
    let id = row.render.id;
    work.record(&row, None, "submitted");
    let entries = postings::hold(new.org, new.price);
    work.post(new.org, EntryKind::Hold, &Cause::Render(id), new.price, entries);
    if let (Some(ticket), Some(key)) = (ticket, key) {
        facts.tickets.remove(&key);
        work.tickets.push((ticket.clone(), Resource::Render(id)));
    }
    Ok(row)
}

/// The same again, as another render.
pub(super) fn again(row: &RenderRow) -> NewRender {
    let render = &row.render;
    NewRender {
        org: render.org,
        ticket: None,
        model: render.model.clone(),
        spec: render.spec.clone(),
        pool: row.pool.clone(),
        class: render.class,
        person: render.person,
        garment: render.garment,
        price: render.price,
        estimate: row.estimate,
        webhook: render.webhook.clone(),
        metadata: render.metadata.clone(),
    }
}

fn queued(work: &Work<'_>, new: &NewRender) -> RenderRow {
    RenderRow {
        render: Render {
            id: RenderId(work.id()),
            org: new.org,
            status: Status::Queued,
            revision: 1,
            model: new.model.clone(),
            spec: new.spec.clone(),
            class: new.class,
            person: new.person,
            garment: new.garment,
            price: new.price,
            attempts: 0,
            epoch: Epoch(0),
            failure: None,
            cancel_requested_at: None,
            cancelled_at_step: None,
            watermark: WatermarkRef(work.ids.random()),
            webhook: new.webhook.clone(),
            metadata: new.metadata.clone(),
            artifacts: Vec::new(),
            created_at: work.now,
            started_at: None,
            finished_at: None,
        },
        pool: new.pool.clone(),
        estimate: new.estimate,
        worker: None,
        lease_until: None,
        not_before: work.now,
        blame: Blame::default(),
        device_ms: None,
    }
}

/// Sends a waiting render to its lane.
pub(super) fn dispatch(work: &mut Work<'_>, row: &mut RenderRow) -> Result<(), StoreError> {
    row.render.attempts += 1;
    let job = Job { render: row.render.id, attempt: row.render.attempts };
    let lane = row.lane();
    work.advance(row, Transition::Dispatch, "a worker has room", Credits(0))?;
    work.outbox.push(Topic::Job { lane, job });
    Ok(())
}

/// Grants a claim, or says why not.
pub(super) fn grant(
    work: &mut Work<'_>,
    row: &mut RenderRow,
    job: Job,
    worker: WorkerId,
) -> Result<Result<(), NotGranted>, StoreError> {
    if row.render.status.is_terminal() {
        return Ok(Err(NotGranted::NotWanted));
    }
    if row.render.attempts != job.attempt || row.render.status == Status::Queued {
        return Ok(Err(NotGranted::StaleAttempt));
    }
    if row.render.cancel_requested_at.is_some() {
        work.advance(row, Transition::Cancel, "cancelled by its owner", Credits(0))?;
        return Ok(Err(NotGranted::NotWanted));
    }
    if row.render.status == Status::Running {
        // The claim before this one is fenced from here on; whatever it uploaded is nobody's.
        erase_uploads(work, row);
    }
    row.render.epoch.0 += 1;
    row.render.started_at.get_or_insert(work.now);
    row.worker = Some(worker);
    work.advance(row, Transition::Claim, "claimed by a worker", Credits(0))?;
    Ok(Ok(()))
}

/// True when that claim still holds and delivers that image.
pub(super) fn may_sign(row: &RenderRow, held: Held, sample: u32) -> bool {
    row.held_at(held.epoch) && row.render.cancel_requested_at.is_none() && sample < row.render.spec.samples
}

/// True when the claim of that request still holds and may upload what it announces.
pub(super) fn may_upload(row: &RenderRow, request: &UploadRequest) -> bool {
    may_sign(row, request.held, request.sample)
        && request.content_type == row.render.spec.format.content_type()
        && (1..=limits::ARTIFACT_BYTES_MAX).contains(&request.bytes)
}

/// Applies what a worker reports about its claim; refuses it when the claim is no longer its own.
pub(super) fn apply(
    work: &mut Work<'_>,
    row: Option<&mut RenderRow>,
    event: &Event,
) -> Result<Applied, StoreError> {
    let Some(row) = row.filter(|row| row.held_at(event.epoch) && row.render.attempts == event.attempt) else {
        return Ok(Applied::Stale);
    };
    if row.render.cancel_requested_at.is_some() {
        if let EventBody::Cancelled { step } = event.body {
            row.render.cancelled_at_step = Some(step);
        }
        erase_uploads(work, row);
        work.advance(row, Transition::Cancel, "cancelled by its owner", Credits(0))?;
        return Ok(Applied::Changed(row.render.status));
    }
    match &event.body {
        EventBody::Succeeded { artifacts, device_time } => match consistent(row, artifacts) {
            Ok(()) => succeed(work, row, artifacts, *device_time)?,
            Err(failure) => trouble(work, row, Trouble::Failed(failure))?,
        },
        EventBody::Failed { failure } => trouble(work, row, Trouble::Failed(failure.clone()))?,
        EventBody::EngineCrashed => trouble(work, row, Trouble::Crashed)?,
        // A worker that stopped for a cancel nobody asked for has merely handed the render back.
        EventBody::HandedBack | EventBody::Cancelled { .. } => trouble(work, row, Trouble::HandedBack)?,
    }
    Ok(Applied::Changed(row.render.status))
}

/// A report names at least one image of the render, each at most once, in the format asked for.
fn consistent(row: &RenderRow, artifacts: &[ArtifactReport]) -> Result<(), Failure> {
    let spec = &row.render.spec;
    let fits = |(n, artifact): (usize, &ArtifactReport)| {
        artifact.sample < spec.samples
            && artifact.content_type == spec.format.content_type()
            && (1..=limits::ARTIFACT_BYTES_MAX).contains(&artifact.bytes)
            && artifacts[..n].iter().all(|earlier| earlier.sample != artifact.sample)
    };
    if !artifacts.is_empty() && artifacts.iter().enumerate().all(fits) {
        Ok(())
    } else {
        Err(Failure::new(FailureCode::ArtifactMissing, "the worker's report does not fit the render"))
    }
}

fn succeed(
    work: &mut Work<'_>,
    row: &mut RenderRow,
    artifacts: &[ArtifactReport],
    device_time: GpuMillis,
) -> Result<(), StoreError> {
    let held = Held { render: row.render.id, epoch: row.render.epoch };
    for report in artifacts {
        work.artifacts.push(ArtifactLine {
            id: work.id(),
            render: row.render.id,
            object_key: artifact_key(held, report.sample, &report.content_type),
            report: report.clone(),
        });
    }
    row.render.failure = None;
    row.device_ms = Some(device_time.0 as i64);
    let charged = charge(row.render.price, row.render.spec.samples, artifacts.len() as u32);
    work.advance(row, Transition::Succeed, "delivered", charged)
}

/// Requeues or ends a render that a worker held, and erases what that claim may have uploaded.
fn trouble(work: &mut Work<'_>, row: &mut RenderRow, trouble: Trouble) -> Result<(), StoreError> {
    let reason = match &trouble {
        Trouble::Failed(failure) => failure.message.clone(),
        Trouble::Crashed => "the engine crashed".to_owned(),
        Trouble::LeaseLost => "the worker stopped answering".to_owned(),
        Trouble::HandedBack => "the worker handed it back".to_owned(),
    };
    erase_uploads(work, row);
    let failure = if let Trouble::Failed(failure) = &trouble { Some(failure.clone()) } else { None };
    let (blame, verdict) = judge(row.blame, trouble);
    row.blame = blame;
    match verdict {
        Verdict::Retry { delay } => {
            row.not_before = work.now.plus(delay);
            row.render.failure = failure.or(row.render.failure.take());
            work.advance(row, Transition::Requeue, &reason, Credits(0))
        }
        Verdict::End(failure) => {
            if failure.class == FailureClass::Poison {
                work.dead_letters.push(row.render.id);
            }
            row.render.failure = Some(failure);
            work.advance(row, Transition::Fail, &reason, Credits(0))
        }
    }
}

/// Notes the erasure of everything that the current claim may have uploaded.
fn erase_uploads(work: &mut Work<'_>, row: &RenderRow) {
    let held = Held { render: row.render.id, epoch: row.render.epoch };
    let content_type = row.render.spec.format.content_type();
    for sample in 0..row.render.spec.samples {
        work.outbox.push(Topic::Erase { object_key: artifact_key(held, sample, content_type) });
    }
}

/// What a wish to cancel did to a row.
pub(super) enum Cancelled {
    /// It had ended before.
    AlreadyEnded,
    /// Its worker is told to stop.
    Requested,
    /// It waited, and is cancelled.
    Now,
}

/// Cancels a waiting render, or notes for its worker that it should stop.
pub(super) fn cancel(work: &mut Work<'_>, row: &mut RenderRow) -> Result<Cancelled, StoreError> {
    let before = (row.render.status, row.render.revision);
    if before.0.is_terminal() {
        return Ok(Cancelled::AlreadyEnded);
    }
    if row.render.cancel_requested_at.is_none() {
        row.render.cancel_requested_at = Some(work.now);
        work.write(row, before);
        work.outbox.push(Topic::Cancel { render: row.render.id });
    }
    if before.0 == Status::Running {
        return Ok(Cancelled::Requested);
    }
    row.render.cancelled_at_step = Some(0);
    work.advance(row, Transition::Cancel, "cancelled by its owner", Credits(0))?;
    Ok(Cancelled::Now)
}

/// Takes back a render whose lease ran out: a job message that nobody claimed, or a worker that is gone.
pub(super) fn reclaim(work: &mut Work<'_>, row: &mut RenderRow) -> Result<(), StoreError> {
    if row.render.status == Status::Dispatched {
        return work.advance(row, Transition::Requeue, "no worker claimed it", Credits(0));
    }
    give_up_claim(work, row, Trouble::LeaseLost)
}

/// Takes back a render in flight of a process that has ended.
pub(super) fn restart(work: &mut Work<'_>, row: &mut RenderRow) -> Result<(), StoreError> {
    if row.render.status == Status::Dispatched {
        return work.advance(row, Transition::Requeue, "the fleet was restarted", Credits(0));
    }
    give_up_claim(work, row, Trouble::HandedBack)
}

/// Ends a claim whose worker is gone: cancelled if its owner asked for that, else it is one more trouble.
fn give_up_claim(work: &mut Work<'_>, row: &mut RenderRow, cause: Trouble) -> Result<(), StoreError> {
    if row.render.cancel_requested_at.is_some() {
        erase_uploads(work, row);
        work.advance(row, Transition::Cancel, "cancelled by its owner", Credits(0))
    } else {
        trouble(work, row, cause)
    }
}

/// Ends a render that waited too long.
pub(super) fn expire(work: &mut Work<'_>, row: &mut RenderRow) -> Result<(), StoreError> {
    row.render.failure = Some(Failure::new(
        FailureCode::QueueTimeout,
        format!("no worker was free within {} hours", limits::QUEUE_TIME_MAX.as_secs() / 3600),
    ));
    work.advance(row, Transition::Expire, "waited too long", Credits(0))
}
