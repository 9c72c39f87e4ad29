//! The books against the rows, and the gauges.

use kraftr_protocol::{Status, limits};
use sqlx::{PgConnection, Row as _};

use super::columns::Moment;
use super::{PgStore, corrupt};
use crate::domain::invariants::{Audit, Invariant, Violation};
use crate::store::{Gauges, StoreError};

/// Violations listed for each invariant; more of the same would help nobody.
const LISTED_MAX: usize = 20;

/// For each invariant a query whose rows are its violations, as one column of text.
const CHECKS: [(Invariant, &str); 10] = [
    (
        Invariant::EntriesSumToZero,
        "SELECT 'posted ' || SUM(posted) || ', held ' || SUM(held) FROM ledger_entries
         HAVING SUM(posted) <> 0 OR SUM(held) <> 0",
    ),
    (
        Invariant::BalanceEqualsEntries,
        "SELECT 'org ' || a.org_id || ': balance ' || a.posted || '/' || a.held || ', entries '
                || COALESCE(SUM(e.posted), 0) || '/' || COALESCE(SUM(e.held), 0)
         FROM accounts a LEFT JOIN ledger_entries e ON e.org_id = a.org_id AND e.account = 'org'
         GROUP BY a.org_id
         HAVING a.posted <> COALESCE(SUM(e.posted), 0) OR a.held <> COALESCE(SUM(e.held), 0)",
    ),
    (
        Invariant::HeldWithinPosted,
        "SELECT 'org ' || org_id || ': posted ' || posted || ', held ' || held FROM accounts
         WHERE held < 0 OR held > posted",
    ),
    (
        Invariant::EndedHasOneSettlement,
        "SELECT 'render ' || r.id || ' ' || r.status || ': ' || COUNT(e.id) || ' captures or voids of which '
                || COUNT(e.id) FILTER (WHERE e.kind = 'capture') || ' captures'
         FROM renders r
         LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org' AND e.kind IN ('capture', 'void')
         WHERE r.status IN ('succeeded', 'failed', 'cancelled', 'expired')
         GROUP BY r.id
         HAVING COUNT(e.id) <> 1
             OR COUNT(e.id) FILTER (WHERE e.kind = 'capture') <> (r.status = 'succeeded')::int",
    ),
    (
        Invariant::LiveHasOneOpenHold,
        "SELECT 'render ' || r.id || ' ' || r.status || ': ' || COUNT(e.id) FILTER (WHERE e.kind = 'hold') || ' holds, '
                || COUNT(e.id) FILTER (WHERE e.kind <> 'hold') || ' settlements'
         FROM renders r LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org'
         WHERE r.status IN ('queued', 'dispatched', 'running')
         GROUP BY r.id
         HAVING COUNT(e.id) FILTER (WHERE e.kind = 'hold') <> 1 OR COUNT(e.id) FILTER (WHERE e.kind <> 'hold') <> 0",
    ),
    (
        Invariant::HeldEqualsLivePrices,
        "SELECT 'org ' || a.org_id || ': held ' || a.held || ', live prices ' || COALESCE(SUM(r.price), 0)
         FROM accounts a LEFT JOIN renders r
             ON r.org_id = a.org_id AND r.status IN ('queued', 'dispatched', 'running')
         GROUP BY a.org_id HAVING a.held <> COALESCE(SUM(r.price), 0)",
    ),
    (
        Invariant::KindOncePerRender,
        "SELECT 'render ' || render_id || ': ' || COUNT(*) || ' ' || kind || ' entries on ' || account
         FROM ledger_entries WHERE render_id IS NOT NULL
         GROUP BY render_id, account, kind HAVING COUNT(*) <> 1",
    ),
    (
        Invariant::ChargedForDelivered,
        "SELECT 'render ' || r.id || ': price ' || r.price || ', ' || COALESCE(a.images, 0)
                || ' artifacts, charged ' || COALESCE(e.amount::text, 'nothing')
         FROM renders r
         LEFT JOIN (SELECT render_id, COUNT(*) AS images FROM artifacts GROUP BY render_id) a ON a.render_id = r.id
         LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org' AND e.kind = 'capture'
         WHERE (r.status = 'succeeded') <> (a.images IS NOT NULL)
            OR (r.status = 'succeeded'
                AND e.amount IS DISTINCT FROM r.price / (r.spec ->> 'samples')::bigint * a.images)",
    ),
    (
        Invariant::KeyChargedOnce,
        "SELECT 'render ' || resource_id || ': ' || COUNT(*) || ' idempotency keys' FROM idempotency_keys
         WHERE resource_kind = 'render' GROUP BY resource_id HAVING COUNT(*) > 1
         UNION ALL
         SELECT 'key ' || k.key || ' names a render that is not there' FROM idempotency_keys k
         WHERE k.resource_kind = 'render' AND NOT EXISTS (SELECT 1 FROM renders r WHERE r.id = k.resource_id)",
    ),
    (
        Invariant::EndIsExplained,
        "SELECT 'render ' || r.id || ' ' || r.status || ' at revision ' || r.revision FROM renders r
         LEFT JOIN render_transitions t ON t.render_id = r.id AND t.revision = r.revision AND t.status = r.status
         WHERE t.render_id IS NULL
            OR (r.finished_at IS NOT NULL) <> (r.status IN ('succeeded', 'failed', 'cancelled', 'expired'))
            OR (r.status IN ('failed', 'expired') AND r.failure IS NULL)
            OR (r.status = 'cancelled' AND r.cancel_requested_at IS NULL)",
    ),
];

pub(super) async fn audit(store: &PgStore) -> Result<Audit, StoreError> {
    // One snapshot, so that every check sees the same moment; it reads everything and may take its time.
    let mut tx = store.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    for setting in
        ["SET LOCAL statement_timeout = 0", "SET LOCAL enable_seqscan = on", "SET LOCAL work_mem = '64MB'"]
    {
        sqlx::query(setting).execute(&mut *tx).await?;
    }
    let mut violations = Vec::new();
    for (invariant, query) in CHECKS {
        for row in sqlx::query(query).fetch_all(&mut *tx).await?.iter().take(LISTED_MAX) {
            violations.push(Violation { invariant, detail: row.try_get(0)? });
        }
    }
    Ok(Audit {
        orgs: count(&mut tx, "SELECT COUNT(*) FROM orgs").await?,
        renders: count(&mut tx, "SELECT COUNT(*) FROM renders").await?,
        entries: count(&mut tx, "SELECT COUNT(*) FROM ledger_entries").await?,
        violations,
    })
}

async fn count(connection: &mut PgConnection, query: &'static str) -> Result<i64, StoreError> {
    Ok(sqlx::query(query).fetch_one(connection).await?.try_get(0)?)
}

pub(super) async fn gauges(store: &PgStore) -> Result<Gauges, StoreError> {
    let mut connection = store.pool.acquire().await?;
    let now = store.now(&mut connection).await?;
    // Two statements, each over the partial index that has just its rows.
    let rows = sqlx::query(
        "SELECT 'queued' AS status, COUNT(*) AS n FROM renders WHERE status = 'queued'
         UNION ALL
         SELECT status, COUNT(*) FROM renders WHERE status IN ('dispatched', 'running') GROUP BY status",
    )
    .fetch_all(&mut *connection)
    .await?;
    let live = Status::ALL.into_iter().filter(|status| !status.is_terminal());
    let mut renders: Vec<(Status, i64)> = live.map(|status| (status, 0)).collect();
    for row in &rows {
        let word: &str = row.try_get("status")?;
        let gauge = renders.iter_mut().find(|(status, _)| status.as_str() == word);
        gauge.ok_or_else(|| corrupt(format_args!("status {word}")))?.1 = row.try_get("n")?;
    }
    let slots = sqlx::query("SELECT COALESCE(SUM(slots), 0)::bigint FROM workers WHERE seen_at > $1")
        .bind(Moment(now.minus(limits::WORKER_PRESENCE)))
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let outbox_pending = count(&mut connection, "SELECT COUNT(*) FROM outbox").await?;
    Ok(Gauges { renders, outbox_pending, slots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_is_checked() {
        assert_eq!(CHECKS.map(|(invariant, _)| invariant), Invariant::ALL);
    }
}
