//! Writes what a unit of work decided, row by row: a call costs next to nothing here.

use std::collections::BTreeMap;

use kraftr_protocol::OrgId;
use sqlx::Row as _;

use super::{Write, corrupt, dead_letters, idempotency, outbox};
use crate::store::StoreError;
use crate::store::work::{ArtifactLine, Changed, EntryLine, History, RenderRow, Work};

/// Writes everything; the caller commits.
pub(super) async fn flush(write: &mut Write<'_>, mut work: Work<'_>) -> Result<(), StoreError> {
    for row in work.submitted.values() {
        insert_render(write, row).await?;
    }
    for changed in work.changed.values() {
        update_render(write, changed).await?;
    }
    for line in &work.history {
        insert_history(write, line).await?;
    }
    let balances = move_balances(write, &work).await?;
    work.set_balances(&balances)?;
    for line in &work.entries {
        insert_entry(write, line).await?;
    }
    for line in &work.artifacts {
        insert_artifact(write, line).await?;
    }
    for render in &work.dead_letters {
        dead_letters::insert(write, *render).await?;
    }
    for (ticket, resource) in &work.tickets {
        if !idempotency::complete(write, ticket, *resource).await? {
            return Err(corrupt("a reservation vanished under its own lock"));
        }
    }
    for topic in &work.outbox {
        outbox::add(write, topic).await?;
    }
    Ok(())
}

async fn insert_render(write: &mut Write<'_>, row: &RenderRow) -> Result<(), StoreError> {
    let render = &row.render;
    let spec = serde_json::to_string(&render.spec).map_err(corrupt)?;
    let metadata = render.metadata.as_ref().map(ToString::to_string);
    sqlx::query(
        "INSERT INTO renders (id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id,
            price, estimate_ms, attempt, lease_until, not_before, watermark, webhook, metadata, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(render.id.0)
    .bind(render.org.0)
    .bind(render.status.as_str())
    .bind(render.revision)
    .bind(&render.model)
    .bind(spec)
    .bind(&row.pool)
    .bind(render.spec.runs_on())
    .bind(render.class.as_str())
    .bind(render.person.0)
    .bind(render.garment.0)
    .bind(render.price.0)
    .bind(row.estimate.0 as i64)
    .bind(render.attempts)
    .bind(row.lease_until.map(|until| until.0))
    .bind(row.not_before.0)
    .bind(&render.watermark.0[..])
    .bind(&render.webhook)
    .bind(metadata)
    .bind(render.created_at.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

const UPDATE: &str = "UPDATE renders SET
    status = ?, revision = ?, attempt = ?, epoch = ?, worker_id = ?, lease_until = ?, not_before = ?, failures = ?,
    crashes = ?, lost_leases = ?, failure = ?, cancel_requested_at = ?, cancelled_at_step = ?, device_ms = ?,
    started_at = ?, finished_at = ?
    WHERE id = ? AND revision = ? AND status = ?";

async fn update_render(
    write: &mut Write<'_>,
    Changed { before, after: row }: &Changed,
) -> Result<(), StoreError> {
    let render = &row.render;
    let failure = render.failure.as_ref().map(serde_json::to_string).transpose().map_err(corrupt)?;
    let changed = sqlx::query(UPDATE)
        .bind(render.status.as_str())
        .bind(render.revision)
        .bind(render.attempts)
        .bind(render.epoch.0)
        .bind(row.worker.map(|worker| worker.0))
        .bind(row.lease_until.map(|until| until.0))
        .bind(row.not_before.0)
        .bind(row.blame.failures)
        .bind(row.blame.crashes)
        .bind(row.blame.lost_leases)
        .bind(failure)
        .bind(render.cancel_requested_at.map(|at| at.0))
        .bind(render.cancelled_at_step)
        .bind(row.device_ms)
        .bind(render.started_at.map(|at| at.0))
        .bind(render.finished_at.map(|at| at.0))
        .bind(render.id.0)
        .bind(before.1)
        .bind(before.0.as_str())
        .execute(&mut *write.tx)
        .await?
        .rows_affected();
    if changed == 1 { Ok(()) } else { Err(corrupt(format_args!("{} changed under its own lock", render.id))) }
}

async fn insert_history(write: &mut Write<'_>, line: &History) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO render_transitions (render_id, revision, transition, status, reason, attempt, epoch, at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(line.render.0)
    .bind(line.revision)
    .bind(&line.transition)
    .bind(line.status.as_str())
    .bind(&line.reason)
    .bind(line.attempt)
    .bind(line.epoch.0)
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

/// Moves every account that the work touches; says the balances after it.
async fn move_balances(
    write: &mut Write<'_>,
    work: &Work<'_>,
) -> Result<BTreeMap<OrgId, (i64, i64)>, StoreError> {
    let mut balances = BTreeMap::new();
    for (org, (posted, held)) in work.balance_changes() {
        let after = sqlx::query(
            "UPDATE accounts SET posted = posted + ?, held = held + ? WHERE org_id = ? RETURNING posted, held",
        )
        .bind(posted)
        .bind(held)
        .bind(org.0)
        .fetch_one(&mut *write.tx)
        .await?;
        balances.insert(org, (after.try_get("posted")?, after.try_get("held")?));
    }
    Ok(balances)
}

async fn insert_entry(write: &mut Write<'_>, line: &EntryLine) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ledger_entries (id, org_id, account, kind, render_id, reference, amount, posted, held,
            posted_after, held_after, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(line.id)
    .bind(line.org.0)
    .bind(line.account)
    .bind(line.kind.as_str())
    .bind(line.render.map(|render| render.0))
    .bind(&line.reference)
    .bind(line.amount.0)
    .bind(line.posted)
    .bind(line.held)
    .bind(line.after.map(|(posted, _)| posted))
    .bind(line.after.map(|(_, held)| held))
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

async fn insert_artifact(write: &mut Write<'_>, line: &ArtifactLine) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO artifacts (id, render_id, sample, object_key, sha256, content_type, width, height, bytes,
            created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(line.id)
    .bind(line.render.0)
    .bind(line.report.sample)
    .bind(&line.object_key)
    .bind(&line.report.sha256.0[..])
    .bind(&line.report.content_type)
    .bind(line.report.width)
    .bind(line.report.height)
    .bind(line.report.bytes as i64)
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}
