//! Claims, leases and permissions to upload.

use std::collections::BTreeMap;

use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, UploadRequest};
use kraftr_protocol::{AssetId, RenderId, Status, WorkerId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::Moment;
use super::{PgStore, Write, assets, corrupt, flush, renders};
use crate::domain::lease;
use crate::store::rows::artifact_key;
use crate::store::work::{RenderRow, Work};
use crate::store::{Asset, ClaimOutcome, Claimed, StoreError, rules};

pub(super) async fn grant(
    store: &PgStore,
    claims: &[(Job, WorkerId)],
) -> Result<Vec<ClaimOutcome>, StoreError> {
    let ids: Vec<Uuid> = claims.iter().map(|(job, _)| job.render.0).collect();
    let (peeked, inputs) = tokio::try_join!(renders::peek_all(store, &ids), assets::inputs_of(store, &ids))?;
    // Hardly ever does anybody else move a render between its dispatch and its claim, so nobody waits for locks first.
    let Some((now, rows)) = peeked else { return Ok(none_there(claims)) };
    let mut work = Work::new(now, &store.ids);
    let outcomes = decide(&mut work, &rows, &inputs, claims)?;
    if flush::is_lone(&work) && store.write_alone(work).await? {
        return Ok(outcomes);
    }
    let mut locks = store.begin().await?;
    let rows = renders::lock(&mut locks, claims.iter().map(|(job, _)| job.render)).await?;
    let write = store.at_work(locks).await?;
    let mut work = write.work();
    let outcomes = decide(&mut work, &rows, &inputs, claims)?;
    write.finish(work).await?;
    Ok(outcomes)
}

fn none_there(claims: &[(Job, WorkerId)]) -> Vec<ClaimOutcome> {
    claims.iter().map(|_| ClaimOutcome::NotThere).collect()
}

fn decide(
    work: &mut Work<'_>,
    rows: &BTreeMap<RenderId, RenderRow>,
    inputs: &BTreeMap<AssetId, Asset>,
    claims: &[(Job, WorkerId)],
) -> Result<Vec<ClaimOutcome>, StoreError> {
    // Deletion of an asset is refused while a live render needs it.
    let input = |id: AssetId| {
        let asset = inputs.get(&id).cloned();
        asset.ok_or_else(|| corrupt(format_args!("{id} was deleted under a live render")))
    };
    let mut outcomes = Vec::with_capacity(claims.len());
    for (job, worker) in claims {
        let Some(mut row) = work.latest(rows.get(&job.render).cloned()) else {
            outcomes.push(ClaimOutcome::NotThere);
            continue;
        };
        outcomes.push(match rules::grant(work, &mut row, *job, *worker)? {
            Ok(()) => {
                let (person, garment) = (input(row.render.person)?, input(row.render.garment)?);
                let claimed = Claimed { render: row.render, person, garment, worker: *worker };
                ClaimOutcome::Granted(Box::new(claimed))
            }
            Err(reason) => ClaimOutcome::NotGranted(reason),
        });
    }
    Ok(outcomes)
}

pub(super) async fn renew(store: &PgStore, heartbeat: &Heartbeat) -> Result<Vec<LeaseVerdict>, StoreError> {
    let mut locks = store.begin().await?;
    let rows = renders::lock(&mut locks, heartbeat.held.iter().map(|held| held.render)).await?;
    let mut write = store.at_work(locks).await?;
    announce(&mut write, heartbeat).await?;
    let (mut verdicts, mut renewed) = (Vec::with_capacity(heartbeat.held.len()), Vec::new());
    for held in &heartbeat.held {
        let row = rows.get(&held.render).filter(|row| row.held_at(held.epoch));
        verdicts.push(match row {
            None => LeaseVerdict::Fenced,
            Some(row) => {
                renewed.push(held.render.0);
                let cancelled = row.render.cancel_requested_at.is_some();
                if cancelled { LeaseVerdict::Cancel } else { LeaseVerdict::Renewed }
            }
        });
    }
    if !renewed.is_empty() {
        let until = lease::lease_until(Status::Running, write.now);
        extend(&mut write.tx, renewed, until.map(Moment)).await?;
    }
    // A worker that is new, back, or offers something else makes room.
    write.notices.queue = true;
    write.commit().await?;
    Ok(verdicts)
}

async fn extend(
    connection: &mut PgConnection,
    renders: Vec<Uuid>,
    until: Option<Moment>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE renders SET lease_until = $1 WHERE id = ANY($2)")
        .bind(until)
        .bind(renders)
        .execute(connection)
        .await?;
    Ok(())
}

async fn announce(write: &mut Write<'_>, heartbeat: &Heartbeat) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO workers (id, slots, seen_at) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET slots = excluded.slots, seen_at = excluded.seen_at",
    )
    .bind(heartbeat.worker.0)
    .bind(i64::from(heartbeat.slots.max(1)))
    .bind(Moment(write.now))
    .execute(&mut *write.tx)
    .await?;
    let pools: Vec<String> = heartbeat.lanes.iter().map(|lane| lane.pool.clone()).collect();
    let releases: Vec<String> = heartbeat.lanes.iter().map(|lane| lane.release.clone()).collect();
    let classes: Vec<&str> = heartbeat.lanes.iter().map(|lane| lane.class.as_str()).collect();
    sqlx::query(
        "DELETE FROM worker_lanes WHERE worker_id = $1 AND (pool, release, class) NOT IN (
             SELECT * FROM UNNEST($2::text[], $3::text[], $4::text[]))",
    )
    .bind(heartbeat.worker.0)
    .bind(&pools)
    .bind(&releases)
    .bind(&classes)
    .execute(&mut *write.tx)
    .await?;
    sqlx::query(
        "INSERT INTO worker_lanes (worker_id, pool, release, class)
         SELECT $1, * FROM UNNEST($2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(heartbeat.worker.0)
    .bind(pools)
    .bind(releases)
    .bind(classes)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

pub(super) async fn may_sign(store: &PgStore, held: Held, sample: u32) -> Result<bool, StoreError> {
    let row = renders::peek(store, held.render).await?;
    Ok(row.is_some_and(|row| rules::may_sign(&row, held, sample)))
}

pub(super) async fn authorise_upload(
    store: &PgStore,
    request: &UploadRequest,
) -> Result<Option<String>, StoreError> {
    let row = renders::peek(store, request.held.render).await?;
    let wanted = row.is_some_and(|row| rules::may_upload(&row, request));
    Ok(wanted.then(|| artifact_key(request.held, request.sample, &request.content_type)))
}
