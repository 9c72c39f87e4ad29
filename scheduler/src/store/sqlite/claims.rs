//! Claims, leases and permissions to upload.

use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, NotGranted, UploadRequest};
use kraftr_protocol::{Credits, Status, Transition, WorkerId, limits};

use super::events::erase_uploads;
use super::render_row::{RenderRow, advance, load};
use super::{SqliteStore, Write, renders};
use crate::domain::lease;
use crate::store::rows::artifact_key;
use crate::store::{ClaimOutcome, Claimed, StoreError};

pub(super) async fn grant(
    store: &SqliteStore,
    claims: &[(Job, WorkerId)],
) -> Result<Vec<ClaimOutcome>, StoreError> {
    let mut write = store.write().await?;
    let mut outcomes = Vec::with_capacity(claims.len());
    for (job, worker) in claims {
        outcomes.push(grant_one(&mut write, *job, *worker).await?);
    }
    write.commit().await?;
    Ok(outcomes)
}

async fn grant_one(write: &mut Write<'_>, job: Job, worker: WorkerId) -> Result<ClaimOutcome, StoreError> {
    let Some(mut row) = load(&mut write.tx, job.render).await? else {
        return Ok(ClaimOutcome::NotGranted(NotGranted::NotWanted));
    };
    if row.render.status.is_terminal() {
        return Ok(ClaimOutcome::NotGranted(NotGranted::NotWanted));
    }
    if row.render.attempts != job.attempt || row.render.status == Status::Queued {
        return Ok(ClaimOutcome::NotGranted(NotGranted::StaleAttempt));
    }
    if row.render.cancel_requested_at.is_some() {
        advance(write, &mut row, Transition::Cancel, "cancelled by its owner", Credits(0)).await?;
        return Ok(ClaimOutcome::NotGranted(NotGranted::NotWanted));
    }
    if row.render.status == Status::Running {
        // The claim before this one is fenced from here on; whatever it uploaded is nobody's.
        erase_uploads(write, &row).await?;
    }
    row.render.epoch.0 += 1;
    row.render.started_at.get_or_insert(write.now);
    row.worker = Some(worker);
    advance(write, &mut row, Transition::Claim, "claimed by a worker", Credits(0)).await?;
    let person = renders::input(&mut write.tx, row.render.org, row.render.person).await?;
    let garment = renders::input(&mut write.tx, row.render.org, row.render.garment).await?;
    Ok(ClaimOutcome::Granted(Box::new(Claimed { render: row.render, person, garment, worker })))
}

pub(super) async fn renew(
    store: &SqliteStore,
    heartbeat: &Heartbeat,
) -> Result<Vec<LeaseVerdict>, StoreError> {
    let mut write = store.write().await?;
    announce(&mut write, heartbeat).await?;
    let mut verdicts = Vec::with_capacity(heartbeat.held.len());
    for held in &heartbeat.held {
        verdicts.push(renew_one(&mut write, *held).await?);
    }
    write.commit().await?;
    Ok(verdicts)
}

async fn announce(write: &mut Write<'_>, heartbeat: &Heartbeat) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO workers (id, slots, seen_at) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET slots = excluded.slots, seen_at = excluded.seen_at",
    )
    .bind(heartbeat.worker.0)
    .bind(heartbeat.slots.max(1))
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    sqlx::query("DELETE FROM worker_lanes WHERE worker_id = ?")
        .bind(heartbeat.worker.0)
        .execute(&mut *write.tx)
        .await?;
    for lane in &heartbeat.lanes {
        sqlx::query(
            "INSERT OR IGNORE INTO worker_lanes (worker_id, pool, release, class) VALUES (?, ?, ?, ?)",
        )
        .bind(heartbeat.worker.0)
        .bind(&lane.pool)
        .bind(&lane.release)
        .bind(lane.class.as_str())
        .execute(&mut *write.tx)
        .await?;
    }
    Ok(())
}

async fn held_row(write: &mut Write<'_>, held: Held) -> Result<Option<RenderRow>, StoreError> {
    Ok(load(&mut write.tx, held.render).await?.filter(|row| row.held_at(held.epoch)))
}

async fn renew_one(write: &mut Write<'_>, held: Held) -> Result<LeaseVerdict, StoreError> {
    let Some(row) = held_row(write, held).await? else {
        return Ok(LeaseVerdict::Fenced);
    };
    sqlx::query("UPDATE renders SET lease_until = ? WHERE id = ?")
        .bind(lease::lease_until(Status::Running, write.now).map(|until| until.0))
        .bind(held.render.0)
        .execute(&mut *write.tx)
        .await?;
    let cancelled = row.render.cancel_requested_at.is_some();
    Ok(if cancelled { LeaseVerdict::Cancel } else { LeaseVerdict::Renewed })
}

pub(super) async fn authorise_upload(
    store: &SqliteStore,
    request: &UploadRequest,
) -> Result<Option<String>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    let row = load(&mut connection, request.held.render).await?.filter(|row| row.held_at(request.held.epoch));
    let wanted = row.is_some_and(|row| {
        row.render.cancel_requested_at.is_none()
            && request.sample < row.render.spec.samples
            && request.content_type == row.render.spec.format.content_type()
            && (1..=limits::ARTIFACT_BYTES_MAX).contains(&request.bytes)
    });
    Ok(wanted.then(|| artifact_key(request.held, request.sample, &request.content_type)))
}
