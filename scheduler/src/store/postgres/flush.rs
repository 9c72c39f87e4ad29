//! Writes what a unit of work decided: one statement with a part for each table, however many rows.

use std::collections::BTreeMap;

use kraftr_protocol::{Digest, OrgId, RenderId, Timestamp};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::columns::Moment;
use super::statement::{Columns, Parts};
use super::{Write, corrupt, idempotency, ledger, outbox};
use crate::store::StoreError;
use crate::store::work::{ArtifactLine, Changed, EntryLine, History, RenderRow, Work};

/// What [`all_moved`] raises.
const SERIALIZATION_FAILURE: &str = "40001";

/// Writes everything; the caller commits.
pub(super) async fn flush(write: &mut Write<'_>, mut work: Work<'_>) -> Result<(), StoreError> {
    work.set_balances(&balances_after(write, &work).await?)?;
    parts(&work)?.execute(&mut write.tx, |sql| all_moved(sql, &work)).await?;
    if idempotency::complete(&mut write.tx, &work.tickets).await? != work.tickets.len() as u64 {
        return Err(corrupt("a reservation vanished under its own lock"));
    }
    Ok(())
}

/// Whether this can be written without locks: it moves no credits and holds no key.
pub(super) fn is_lone(work: &Work<'_>) -> bool {
    work.entries.is_empty() && work.tickets.is_empty()
}

/// Writes what [`is_lone`] as one statement that is its own transaction. False, and nothing is written, when a row was
/// not any more what it was when it was read.
pub(super) async fn flush_alone(connection: &mut PgConnection, work: &Work<'_>) -> Result<bool, StoreError> {
    match parts(work)?.execute(connection, |sql| all_moved(sql, work)).await {
        Ok(()) => Ok(true),
        Err(error) if is_outrun(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_outrun(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(SERIALIZATION_FAILURE))
}

/// The condition that the whole statement stands and falls with.
fn all_moved(sql: &mut QueryBuilder<Postgres>, work: &Work<'_>) {
    match work.changed.len() {
        0 => sql.push("true"),
        // Bound, so that one plan serves any number.
        wanted => sql.push("all_moved((SELECT COUNT(*) FROM moved), ").push_bind(wanted as i64).push(")"),
    };
}

/// A part for each table.
fn parts(work: &Work<'_>) -> Result<Parts, StoreError> {
    let now = work.now;
    let mut parts = Parts::new();
    if !work.submitted.is_empty() {
        insert_renders(parts.part("submitted"), &work.submitted)?;
    }
    if !work.changed.is_empty() {
        update_renders(parts.part("moved"), &work.changed.values())?;
    }
    if !work.history.is_empty() {
        insert_history(parts.part("history"), &work.history, now);
    }
    if !work.entries.is_empty() {
        insert_entries(parts.part("entries"), &work.entries, now);
    }
    if !work.artifacts.is_empty() {
        insert_artifacts(parts.part("delivered"), &work.artifacts, now);
    }
    if !work.dead_letters.is_empty() {
        let renders = column(&work.dead_letters, |render| render.0);
        Columns::default()
            .add("render_id", "uuid", renders)
            .insert_into("dead_letters", parts.part("given_up"));
    }
    if !work.outbox.is_empty() {
        outbox::insert(parts.part("promised"), &work.outbox, now)?;
    }
    Ok(parts)
}

/// One value of each row: a column.
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

fn insert_renders(
    sql: &mut QueryBuilder<Postgres>,
    submitted: &BTreeMap<RenderId, RenderRow>,
) -> Result<(), StoreError> {
    let rows = || submitted.values();
    let specs: Result<Vec<String>, _> = rows().map(|row| serde_json::to_string(&row.render.spec)).collect();
    Columns::default()
        .add("id", "uuid", column(rows(), |row| row.render.id.0))
        .add("org_id", "uuid", column(rows(), |row| row.render.org.0))
        .add("status", "text", column(rows(), |row| row.render.status.as_str()))
        .add("revision", "bigint", column(rows(), |row| row.render.revision))
        .add("model", "text", column(rows(), |row| row.render.model.clone()))
        .add("spec", "jsonb", specs.map_err(corrupt)?)
        .add("pool", "text", column(rows(), |row| row.pool.clone()))
        .add("release", "text", column(rows(), |row| row.render.spec.runs_on()))
        .add("class", "text", column(rows(), |row| row.render.class.as_str()))
        .add("person_id", "uuid", column(rows(), |row| row.render.person.0))
        .add("garment_id", "uuid", column(rows(), |row| row.render.garment.0))
        .add("price", "bigint", column(rows(), |row| row.render.price.0))
        .add("estimate_ms", "bigint", column(rows(), |row| row.estimate.0 as i64))
        .add("attempt", "bigint", column(rows(), |row| i64::from(row.render.attempts)))
        .add("lease_until", "timestamptz", column(rows(), |row| row.lease_until.map(Moment)))
        .add("not_before", "timestamptz", column(rows(), |row| Moment(row.not_before)))
        .add("watermark", "bytea", column(rows(), |row| row.render.watermark.0.to_vec()))
        .add("webhook", "text", column(rows(), |row| row.render.webhook.clone()))
        .add("metadata", "json", column(rows(), |row| row.render.metadata.as_ref().map(ToString::to_string)))
        .add("created_at", "timestamptz", column(rows(), |row| Moment(row.render.created_at)))
        .insert_into("renders", sql);
    Ok(())
}

/// A render that is not any more what it was when it was loaded is left alone, and the caller sees that one is missing.
fn update_renders<'c>(
    sql: &mut QueryBuilder<Postgres>,
    changed: &(impl Iterator<Item = &'c Changed> + Clone),
) -> Result<(), StoreError> {
    let failures: Result<Vec<Option<String>>, _> = changed
        .clone()
        .map(|change| change.after.render.failure.as_ref().map(serde_json::to_string).transpose())
        .collect();
    let before = || changed.clone().map(|change| &change.before);
    let rows = || changed.clone().map(|change| &change.after);
    let moment = |at: Option<Timestamp>| at.map(Moment);
    sql.push(
        "UPDATE renders SET
            status = new.status, revision = new.revision, attempt = new.attempt, epoch = new.epoch,
            worker_id = new.worker_id, lease_until = new.lease_until, not_before = new.not_before,
            failures = new.failures, crashes = new.crashes, lost_leases = new.lost_leases, failure = new.failure,
            cancel_requested_at = new.cancel_requested_at, cancelled_at_step = new.cancelled_at_step,
            device_ms = new.device_ms, started_at = new.started_at, finished_at = new.finished_at
         FROM ",
    );
    Columns::default()
        .add("id", "uuid", column(rows(), |row| row.render.id.0))
        .add("old_revision", "bigint", column(before(), |before| before.1))
        .add("old_status", "text", column(before(), |before| before.0.as_str()))
        .add("status", "text", column(rows(), |row| row.render.status.as_str()))
        .add("revision", "bigint", column(rows(), |row| row.render.revision))
        .add("attempt", "bigint", column(rows(), |row| i64::from(row.render.attempts)))
        .add("epoch", "bigint", column(rows(), |row| row.render.epoch.0))
        .add("worker_id", "uuid", column(rows(), |row| row.worker.map(|worker| worker.0)))
        .add("lease_until", "timestamptz", column(rows(), |row| moment(row.lease_until)))
        .add("not_before", "timestamptz", column(rows(), |row| Moment(row.not_before)))
        .add("failures", "bigint", column(rows(), |row| i64::from(row.blame.failures)))
        .add("crashes", "bigint", column(rows(), |row| i64::from(row.blame.crashes)))
        .add("lost_leases", "bigint", column(rows(), |row| i64::from(row.blame.lost_leases)))
        .add("failure", "json", failures.map_err(corrupt)?)
        .add(
            "cancel_requested_at",
            "timestamptz",
            column(rows(), |row| moment(row.render.cancel_requested_at)),
        )
        .add("cancelled_at_step", "bigint", column(rows(), |row| row.render.cancelled_at_step.map(i64::from)))
        .add("device_ms", "bigint", column(rows(), |row| row.device_ms))
        .add("started_at", "timestamptz", column(rows(), |row| moment(row.render.started_at)))
        .add("finished_at", "timestamptz", column(rows(), |row| moment(row.render.finished_at)))
        .unnest(sql);
    sql.push(
        " WHERE renders.id = new.id AND renders.revision = new.old_revision AND renders.status = new.old_status
         RETURNING renders.id",
    );
    Ok(())
}

fn insert_history(sql: &mut QueryBuilder<Postgres>, lines: &[History], now: Timestamp) {
    Columns::default()
        .add("render_id", "uuid", column(lines, |line| line.render.0))
        .add("revision", "bigint", column(lines, |line| line.revision))
        .add("transition", "text", column(lines, |line| line.transition.clone()))
        .add("status", "text", column(lines, |line| line.status.as_str()))
        .add("reason", "text", column(lines, |line| text(&line.reason)))
        .add("attempt", "bigint", column(lines, |line| i64::from(line.attempt)))
        .add("epoch", "bigint", column(lines, |line| line.epoch.0))
        .moment("at", now)
        .insert_into("render_transitions", sql);
}

/// What every account that the work touches holds after it. The accounts stay locked; the entries move them.
async fn balances_after(
    write: &mut Write<'_>,
    work: &Work<'_>,
) -> Result<BTreeMap<OrgId, (i64, i64)>, StoreError> {
    let changes = work.balance_changes();
    let unlocked: Vec<OrgId> =
        changes.keys().copied().filter(|org| !write.accounts.contains_key(org)).collect();
    if !unlocked.is_empty() {
        let locked = ledger::lock_accounts(&mut write.tx, &unlocked).await?;
        write.accounts.extend(locked.balances);
    }
    changes
        .into_iter()
        .map(|(org, change)| {
            let balance =
                write.accounts.get(&org).ok_or_else(|| corrupt(format_args!("{org} has no account")))?;
            Ok((org, (balance.0 + change.0, balance.1 + change.1)))
        })
        .collect()
}

fn insert_entries(sql: &mut QueryBuilder<Postgres>, lines: &[EntryLine], now: Timestamp) {
    Columns::default()
        .add("id", "uuid", column(lines, |line| line.id))
        .add("org_id", "uuid", column(lines, |line| line.org.0))
        .add("account", "text", column(lines, |line| line.account))
        .add("kind", "text", column(lines, |line| line.kind.as_str()))
        .add("render_id", "uuid", column(lines, |line| line.render.map(|render| render.0)))
        .add("reference", "text", column(lines, |line| line.reference.clone()))
        .add("amount", "bigint", column(lines, |line| line.amount.0))
        .add("posted", "bigint", column(lines, |line| line.posted))
        .add("held", "bigint", column(lines, |line| line.held))
        .add("posted_after", "bigint", column(lines, |line| line.after.map(|(posted, _)| posted)))
        .add("held_after", "bigint", column(lines, |line| line.after.map(|(_, held)| held)))
        .moment("created_at", now)
        .insert_into("ledger_entries", sql);
}

fn insert_artifacts(sql: &mut QueryBuilder<Postgres>, lines: &[ArtifactLine], now: Timestamp) {
    Columns::default()
        .add("id", "uuid", column(lines, |line| line.id))
        .add("render_id", "uuid", column(lines, |line| line.render.0))
        .add("sample", "bigint", column(lines, |line| i64::from(line.report.sample)))
        .add("object_key", "text", column(lines, |line| line.object_key.clone()))
        .add("sha256", "bytea", column(lines, |line| digest(&line.report.sha256)))
        .add("content_type", "text", column(lines, |line| text(&line.report.content_type)))
        .add("width", "bigint", column(lines, |line| i64::from(line.report.width)))
        .add("height", "bigint", column(lines, |line| i64::from(line.report.height)))
        .add("bytes", "bigint", column(lines, |line| line.report.bytes as i64))
        .moment("created_at", now)
        .insert_into("artifacts", sql);
}
