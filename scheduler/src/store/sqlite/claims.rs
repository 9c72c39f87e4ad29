//! Claims, leases and permissions to upload.

use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, UploadRequest};
use kraftr_protocol::{Status, WorkerId};

use super::renders::{self, load};
use super::{SqliteStore, Write};
use crate::domain::lease;
use crate::store::rows::artifact_key;
use crate::store::work::RenderRow;
use crate::store::{ClaimOutcome, Claimed, StoreError, rules};

pub(super) async fn grant(
    store: &SqliteStore,
    claims: &[(Job, WorkerId)],
) -> Result<Vec<ClaimOutcome>, StoreError> {
    let mut write = store.write().await?;
    let mut work = write.work();
    let mut outcomes = Vec::with_capacity(claims.len());
    for (job, worker) in claims {
        let Some(mut row) = work.latest(load(&mut write.tx, job.render).await?) else {
            outcomes.push(ClaimOutcome::NotThere);
            continue;
        };
        outcomes.push(match rules::grant(&mut work, &mut row, *job, *worker)? {
            Ok(()) => {
                let render = row.render;
                let person = renders::input(&mut write.tx, render.org, render.person).await?;
                let garment = renders::input(&mut write.tx, render.org, render.garment).await?;
                ClaimOutcome::Granted(Box::new(Claimed { render, person, garment, worker: *worker }))
            }
            Err(reason) => ClaimOutcome::NotGranted(reason),
        });
    }
    write.finish(work).await?;
    Ok(outcomes)
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
    // A worker that is new, back, or offers something else makes room.
    write.notices.queue = true;
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

pub(super) async fn may_sign(store: &SqliteStore, held: Held, sample: u32) -> Result<bool, StoreError> {
    let mut connection = store.reader.acquire().await?;
    let row = load(&mut connection, held.render).await?;
    Ok(row.is_some_and(|row| rules::may_sign(&row, held, sample)))
}

pub(super) async fn authorise_upload(
    store: &SqliteStore,
    request: &UploadRequest,
) -> Result<Option<String>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    let row = load(&mut connection, request.held.render).await?;
    let wanted = row.is_some_and(|row| rules::may_upload(&row, request));
    Ok(wanted.then(|| artifact_key(request.held, request.sample, &request.content_type)))
}
