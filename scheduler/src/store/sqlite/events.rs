//! What workers report about their claims.

use kraftr_protocol::message::Held;
use kraftr_protocol::{
    ArtifactId, ArtifactReport, Credits, Event, EventBody, Failure, FailureCode, GpuMillis, Transition,
    limits,
};

use super::render_row::{RenderRow, advance, load};
use super::{SqliteStore, Write, outbox};
use crate::domain::ledger::charge;
use crate::domain::retry::{Trouble, Verdict, judge};
use crate::store::rows::artifact_key;
use crate::store::{Applied, StoreError, Topic};

pub(super) async fn apply(store: &SqliteStore, events: &[Event]) -> Result<Vec<Applied>, StoreError> {
    let mut write = store.write().await?;
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        outcomes.push(apply_one(&mut write, event).await?);
    }
    write.commit().await?;
    Ok(outcomes)
}

async fn apply_one(write: &mut Write<'_>, event: &Event) -> Result<Applied, StoreError> {
    let row = load(&mut write.tx, event.render).await?;
    let Some(mut row) = row.filter(|row| row.held_at(event.epoch) && row.render.attempts == event.attempt)
    else {
        return Ok(Applied::Stale);
    };
    if row.render.cancel_requested_at.is_some() {
        if let EventBody::Cancelled { step } = event.body {
            row.render.cancelled_at_step = Some(step);
        }
        erase_uploads(write, &row).await?;
        advance(write, &mut row, Transition::Cancel, "cancelled by its owner", Credits(0)).await?;
        return Ok(Applied::Changed(row.render.status));
    }
    match &event.body {
        EventBody::Succeeded { artifacts, device_time } => match consistent(&row, artifacts) {
            Ok(()) => succeed(write, &mut row, artifacts, *device_time).await?,
            Err(failure) => trouble(write, &mut row, Trouble::Failed(failure)).await?,
        },
        EventBody::Failed { failure } => trouble(write, &mut row, Trouble::Failed(failure.clone())).await?,
        EventBody::EngineCrashed => trouble(write, &mut row, Trouble::Crashed).await?,
        // A worker that stopped for a cancel nobody asked for has merely handed the render back.
        EventBody::HandedBack | EventBody::Cancelled { .. } => {
            trouble(write, &mut row, Trouble::HandedBack).await?;
        }
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

async fn succeed(
    write: &mut Write<'_>,
    row: &mut RenderRow,
    artifacts: &[ArtifactReport],
    device_time: GpuMillis,
) -> Result<(), StoreError> {
    let held = Held { render: row.render.id, epoch: row.render.epoch };
    for artifact in artifacts {
        let id = ArtifactId(write.id());
        sqlx::query(
            "INSERT INTO artifacts (id, render_id, sample, object_key, sha256, content_type, width, height, bytes,
                created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id.0)
        .bind(row.render.id.0)
        .bind(artifact.sample)
        .bind(artifact_key(held, artifact.sample, &artifact.content_type))
        .bind(&artifact.sha256.0[..])
        .bind(&artifact.content_type)
        .bind(artifact.width)
        .bind(artifact.height)
        .bind(artifact.bytes as i64)
        .bind(write.now.0)
        .execute(&mut *write.tx)
        .await?;
    }
    row.render.failure = None;
    row.device_ms = Some(device_time.0 as i64);
    let charged = charge(row.render.price, row.render.spec.samples, artifacts.len() as u32);
    advance(write, row, Transition::Succeed, "delivered", charged).await
}

/// Requeues or ends a render that a worker held, and erases what that claim may have uploaded.
pub(super) async fn trouble(
    write: &mut Write<'_>,
    row: &mut RenderRow,
    trouble: Trouble,
) -> Result<(), StoreError> {
    let reason = match &trouble {
        Trouble::Failed(failure) => failure.message.clone(),
        Trouble::Crashed => "the engine crashed".to_owned(),
        Trouble::LeaseLost => "the worker stopped answering".to_owned(),
        Trouble::HandedBack => "the worker handed it back".to_owned(),
    };
    erase_uploads(write, row).await?;
    let failure = if let Trouble::Failed(failure) = &trouble { Some(failure.clone()) } else { None };
    let (blame, verdict) = judge(row.blame, trouble);
    row.blame = blame;
    match verdict {
        Verdict::Retry { delay } => {
            row.not_before = write.now.plus(delay);
            row.render.failure = failure.or(row.render.failure.take());
            advance(write, row, Transition::Requeue, &reason, Credits(0)).await
        }
        Verdict::End(failure) => {
            row.render.failure = Some(failure);
            advance(write, row, Transition::Fail, &reason, Credits(0)).await
        }
    }
}

/// Queues the erasure of everything that the current claim may have uploaded.
pub(super) async fn erase_uploads(write: &mut Write<'_>, row: &RenderRow) -> Result<(), StoreError> {
    let held = Held { render: row.render.id, epoch: row.render.epoch };
    let content_type = row.render.spec.format.content_type();
    for sample in 0..row.render.spec.samples {
        outbox::add(write, &Topic::Erase { object_key: artifact_key(held, sample, content_type) }).await?;
    }
    Ok(())
}
