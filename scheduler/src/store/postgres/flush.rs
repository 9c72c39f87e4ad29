//! Writes what a unit of work decided, column by column: a statement for each table, however many rows.

use std::collections::BTreeMap;

use kraftr_protocol::{Digest, OrgId, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::Moment;
use super::{Write, corrupt, dead_letters, idempotency, ledger, outbox};
use crate::store::StoreError;
use crate::store::work::{ArtifactLine, Changed, EntryLine, History, RenderRow, Work};

/// Writes everything; the caller commits.
pub(super) async fn flush(write: &mut Write<'_>, mut work: Work<'_>) -> Result<(), StoreError> {
    let now = write.now;
    let connection = &mut *write.tx;
    insert_renders(connection, &work.submitted).await?;
    update_renders(connection, work.changed.values()).await?;
    insert_history(connection, &work.history, now).await?;
    let balances = balances_after(connection, &work).await?;
    work.set_balances(&balances)?;
    insert_entries(connection, &work.entries, now).await?;
    insert_artifacts(connection, &work.artifacts, now).await?;
    dead_letters::insert(connection, &work.dead_letters).await?;
    if idempotency::complete(connection, &work.tickets).await? != work.tickets.len() as u64 {
        return Err(corrupt("a reservation vanished under its own lock"));
    }
    outbox::add(connection, &work.outbox, now).await
}

/// One value of each row, as the array that a statement takes for a column.
fn column<'r, R: 'r, T>(rows: impl IntoIterator<Item = &'r R>, value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.into_iter().map(value).collect()
}

/// Text as this database takes it: it has no NUL.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn digest(digest: &Digest) -> Vec<u8> {
    digest.0.to_vec()
}

async fn insert_renders(connection: &mut PgConnection, rows: &[RenderRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let specs: Vec<String> = rows
        .iter()
        .map(|row| serde_json::to_string(&row.render.spec))
        .collect::<Result<_, _>>()
        .map_err(corrupt)?;
    sqlx::query(
        "INSERT INTO renders (id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id,
            price, estimate_ms, not_before, watermark, webhook, metadata, created_at)
         SELECT id, org_id, status, revision, model, spec::jsonb, pool, release, class, person_id, garment_id,
            price, estimate_ms, not_before, watermark, webhook, metadata::json, created_at
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::uuid[], $11::uuid[], $12::bigint[], $13::bigint[], $14::timestamptz[], $15::bytea[],
            $16::text[], $17::text[], $18::timestamptz[])
            AS new (id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id,
            price, estimate_ms, not_before, watermark, webhook, metadata, created_at)",
    )
    .bind(column(rows, |row| row.render.id.0))
    .bind(column(rows, |row| row.render.org.0))
    .bind(column(rows, |row| row.render.status.as_str()))
    .bind(column(rows, |row| row.render.revision))
    .bind(column(rows, |row| row.render.model.clone()))
    .bind(specs)
    .bind(column(rows, |row| row.pool.clone()))
    .bind(column(rows, |row| row.render.spec.release.clone()))
    .bind(column(rows, |row| row.render.class.as_str()))
    .bind(column(rows, |row| row.render.person.0))
    .bind(column(rows, |row| row.render.garment.0))
    .bind(column(rows, |row| row.render.price.0))
    .bind(column(rows, |row| row.estimate.0 as i64))
    .bind(column(rows, |row| Moment(row.not_before)))
    .bind(column(rows, |row| row.render.watermark.0.to_vec()))
    .bind(column(rows, |row| row.render.webhook.clone()))
    .bind(column(rows, |row| row.render.metadata.as_ref().map(ToString::to_string)))
    .bind(column(rows, |row| Moment(row.render.created_at)))
    .execute(connection)
    .await?;
    Ok(())
}

const UPDATE: &str = "UPDATE renders SET
    status = new.status, revision = new.revision, attempt = new.attempt, epoch = new.epoch,
    worker_id = new.worker_id, lease_until = new.lease_until, not_before = new.not_before, failures = new.failures,
    crashes = new.crashes, lost_leases = new.lost_leases, failure = new.failure::json,
    cancel_requested_at = new.cancel_requested_at, cancelled_at_step = new.cancelled_at_step,
    device_ms = new.device_ms, started_at = new.started_at, finished_at = new.finished_at
    FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::uuid[], $9::timestamptz[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[],
        $15::timestamptz[], $16::bigint[], $17::bigint[], $18::timestamptz[], $19::timestamptz[])
        AS new (id, old_revision, old_status, status, revision, attempt, epoch, worker_id, lease_until, not_before,
        failures, crashes, lost_leases, failure, cancel_requested_at, cancelled_at_step, device_ms, started_at,
        finished_at)
    WHERE renders.id = new.id AND renders.revision = new.old_revision AND renders.status = new.old_status";

async fn update_renders(
    connection: &mut PgConnection,
    changed: impl Iterator<Item = &Changed> + Clone,
) -> Result<(), StoreError> {
    let count = changed.clone().count() as u64;
    if count == 0 {
        return Ok(());
    }
    let failures: Vec<Option<String>> = changed
        .clone()
        .map(|change| change.after.render.failure.as_ref().map(serde_json::to_string).transpose())
        .collect::<Result<_, _>>()
        .map_err(corrupt)?;
    let rows: Vec<&RenderRow> = changed.clone().map(|change| &change.after).collect();
    let rows = || rows.iter().copied();
    let moment = |at: Option<Timestamp>| at.map(Moment);
    let updated = sqlx::query(UPDATE)
        .bind(column(rows(), |row| row.render.id.0))
        .bind(column(changed.clone(), |change| change.before.1))
        .bind(column(changed, |change| change.before.0.as_str()))
        .bind(column(rows(), |row| row.render.status.as_str()))
        .bind(column(rows(), |row| row.render.revision))
        .bind(column(rows(), |row| i64::from(row.render.attempts)))
        .bind(column(rows(), |row| row.render.epoch.0))
        .bind(column(rows(), |row| row.worker.map(|worker| worker.0)))
        .bind(column(rows(), |row| moment(row.lease_until)))
        .bind(column(rows(), |row| Moment(row.not_before)))
        .bind(column(rows(), |row| i64::from(row.blame.failures)))
        .bind(column(rows(), |row| i64::from(row.blame.crashes)))
        .bind(column(rows(), |row| i64::from(row.blame.lost_leases)))
        .bind(failures)
        .bind(column(rows(), |row| moment(row.render.cancel_requested_at)))
        .bind(column(rows(), |row| row.render.cancelled_at_step.map(i64::from)))
        .bind(column(rows(), |row| row.device_ms))
        .bind(column(rows(), |row| moment(row.render.started_at)))
        .bind(column(rows(), |row| moment(row.render.finished_at)))
        .execute(connection)
        .await?
        .rows_affected();
    if updated == count { Ok(()) } else { Err(corrupt("a render changed under its own lock")) }
}

async fn insert_history(
    connection: &mut PgConnection,
    lines: &[History],
    now: Timestamp,
) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO render_transitions (render_id, revision, transition, status, reason, attempt, epoch, at)
         SELECT *, $8 FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[],
            $7::bigint[])",
    )
    .bind(column(lines, |line| line.render.0))
    .bind(column(lines, |line| line.revision))
    .bind(column(lines, |line| line.transition.clone()))
    .bind(column(lines, |line| line.status.as_str()))
    .bind(column(lines, |line| text(&line.reason)))
    .bind(column(lines, |line| i64::from(line.attempt)))
    .bind(column(lines, |line| line.epoch.0))
    .bind(Moment(now))
    .execute(connection)
    .await?;
    Ok(())
}

/// What every account that the work touches holds after it. The accounts stay locked; the entries move them.
async fn balances_after(
    connection: &mut PgConnection,
    work: &Work<'_>,
) -> Result<BTreeMap<OrgId, (i64, i64)>, StoreError> {
    let changes = work.balance_changes();
    if changes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let orgs: Vec<OrgId> = changes.keys().copied().collect();
    let mut balances = ledger::lock_accounts(connection, &orgs).await?;
    for (org, change) in changes {
        let balance = balances.get_mut(&org).ok_or_else(|| corrupt(format_args!("{org} has no account")))?;
        *balance = (balance.0 + change.0, balance.1 + change.1);
    }
    Ok(balances)
}

async fn insert_entries(
    connection: &mut PgConnection,
    lines: &[EntryLine],
    now: Timestamp,
) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO ledger_entries (id, org_id, account, kind, render_id, reference, amount, posted, held,
            posted_after, held_after, created_at)
         SELECT *, $12 FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::text[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])",
    )
    .bind(column(lines, |line| line.id))
    .bind(column(lines, |line| line.org.0))
    .bind(column(lines, |line| line.account))
    .bind(column(lines, |line| line.kind.as_str()))
    .bind(column(lines, |line| line.render.map(|render| render.0)))
    .bind(column(lines, |line| line.reference.clone()))
    .bind(column(lines, |line| line.amount.0))
    .bind(column(lines, |line| line.posted))
    .bind(column(lines, |line| line.held))
    .bind(column(lines, |line| line.after.map(|(posted, _)| posted)))
    .bind(column(lines, |line| line.after.map(|(_, held)| held)))
    .bind(Moment(now))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_artifacts(
    connection: &mut PgConnection,
    lines: &[ArtifactLine],
    now: Timestamp,
) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    let renders: Vec<Uuid> = column(lines, |line| line.render.0);
    sqlx::query(
        "INSERT INTO artifacts (id, render_id, sample, object_key, sha256, content_type, width, height, bytes,
            created_at)
         SELECT *, $10 FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bytea[], $6::text[],
            $7::bigint[], $8::bigint[], $9::bigint[])",
    )
    .bind(column(lines, |line| line.id))
    .bind(renders)
    .bind(column(lines, |line| i64::from(line.report.sample)))
    .bind(column(lines, |line| line.object_key.clone()))
    .bind(column(lines, |line| digest(&line.report.sha256)))
    .bind(column(lines, |line| text(&line.report.content_type)))
    .bind(column(lines, |line| i64::from(line.report.width)))
    .bind(column(lines, |line| i64::from(line.report.height)))
    .bind(column(lines, |line| line.report.bytes as i64))
    .bind(Moment(now))
    .execute(connection)
    .await?;
    Ok(())
}
