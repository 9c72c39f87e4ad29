//! The books against the rows, and the gauges.

use kraftr_protocol::{Status, limits};
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, corrupt};
use crate::domain::invariants::{Audit, Invariant, Violation};
use crate::store::{Gauges, StoreError};

/// Violations listed for each invariant; more of the same would help nobody.
const LISTED_MAX: u32 = 20;

/// For each invariant a query whose rows are its violations, as one column of text.
const CHECKS: [(Invariant, &str); 10] = [
    (
        Invariant::EntriesSumToZero,
        "SELECT 'posted ' || SUM(posted) || ', held ' || SUM(held) FROM ledger_entries
         HAVING SUM(posted) <> 0 OR SUM(held) <> 0",
    ),
    (
        Invariant::BalanceEqualsEntries,
        "SELECT 'org ' || hex(a.org_id) || ': balance ' || a.posted || '/' || a.held || ', entries '
                || COALESCE(SUM(e.posted), 0) || '/' || COALESCE(SUM(e.held), 0)
         FROM accounts a LEFT JOIN ledger_entries e ON e.org_id = a.org_id AND e.account = 'org'
         GROUP BY a.org_id
         HAVING a.posted <> COALESCE(SUM(e.posted), 0) OR a.held <> COALESCE(SUM(e.held), 0)",
    ),
    (
        Invariant::HeldWithinPosted,
        "SELECT 'org ' || hex(org_id) || ': posted ' || posted || ', held ' || held FROM accounts
         WHERE held < 0 OR held > posted",
    ),
    (
        Invariant::EndedHasOneSettlement,
        "SELECT 'render ' || hex(r.id) || ' ' || r.status || ': ' || COUNT(e.id) || ' captures or voids of which '
                || COALESCE(SUM(e.kind = 'capture'), 0) || ' captures'
         FROM renders r
         LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org' AND e.kind IN ('capture', 'void')
         WHERE r.status IN ('succeeded', 'failed', 'cancelled', 'expired')
         GROUP BY r.id
         HAVING COUNT(e.id) <> 1 OR SUM(e.kind = 'capture') <> (r.status = 'succeeded')",
    ),
    (
        Invariant::LiveHasOneOpenHold,
        "SELECT 'render ' || hex(r.id) || ' ' || r.status || ': ' || COALESCE(SUM(e.kind = 'hold'), 0) || ' holds, '
                || COALESCE(SUM(e.kind <> 'hold'), 0) || ' settlements'
         FROM renders r LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org'
         WHERE r.status IN ('queued', 'dispatched', 'running')
         GROUP BY r.id
         HAVING COALESCE(SUM(e.kind = 'hold'), 0) <> 1 OR COALESCE(SUM(e.kind <> 'hold'), 0) <> 0",
    ),
    (
        Invariant::HeldEqualsLivePrices,
        "SELECT 'org ' || hex(a.org_id) || ': held ' || a.held || ', live prices ' || COALESCE(SUM(r.price), 0)
         FROM accounts a LEFT JOIN renders r
             ON r.org_id = a.org_id AND r.status IN ('queued', 'dispatched', 'running')
         GROUP BY a.org_id HAVING a.held <> COALESCE(SUM(r.price), 0)",
    ),
    (
        Invariant::KindOncePerRender,
        "SELECT 'render ' || hex(render_id) || ': ' || COUNT(*) || ' ' || kind || ' entries on ' || account
         FROM ledger_entries WHERE render_id IS NOT NULL
         GROUP BY render_id, account, kind HAVING COUNT(*) <> 1",
    ),
    (
        Invariant::ChargedForDelivered,
        "SELECT 'render ' || hex(r.id) || ': price ' || r.price || ', ' || (SELECT COUNT(*) FROM artifacts a
                WHERE a.render_id = r.id) || ' artifacts, charged ' || COALESCE(e.amount, 'nothing')
         FROM renders r
         LEFT JOIN ledger_entries e ON e.render_id = r.id AND e.account = 'org' AND e.kind = 'capture'
         WHERE (r.status = 'succeeded') <> EXISTS (SELECT 1 FROM artifacts a WHERE a.render_id = r.id)
            OR (r.status = 'succeeded' AND e.amount IS NOT r.price / json_extract(r.spec, '$.samples')
                * (SELECT COUNT(*) FROM artifacts a WHERE a.render_id = r.id))",
    ),
    (
        Invariant::KeyChargedOnce,
        "SELECT 'render ' || hex(resource_id) || ': ' || COUNT(*) || ' idempotency keys' FROM idempotency_keys
         WHERE resource_kind = 'render' GROUP BY resource_id HAVING COUNT(*) > 1
         UNION ALL
         SELECT 'key ' || k.key || ' names a render that is not there' FROM idempotency_keys k
         WHERE k.resource_kind = 'render' AND NOT EXISTS (SELECT 1 FROM renders r WHERE r.id = k.resource_id)",
    ),
    (
        Invariant::EndIsExplained,
        "SELECT 'render ' || hex(r.id) || ' ' || r.status || ' at revision ' || r.revision FROM renders r
         WHERE NOT EXISTS (SELECT 1 FROM render_transitions t
                           WHERE t.render_id = r.id AND t.revision = r.revision AND t.status = r.status)
            OR (r.finished_at IS NOT NULL) <> (r.status IN ('succeeded', 'failed', 'cancelled', 'expired'))
            OR (r.status IN ('failed', 'expired') AND r.failure IS NULL)
            OR (r.status = 'cancelled' AND r.cancel_requested_at IS NULL)",
    ),
];

pub(super) async fn audit(store: &SqliteStore) -> Result<Audit, StoreError> {
    // One transaction, so that every check sees the same moment.
    let mut tx = store.reader.begin().await?;
    let mut violations = Vec::new();
    for (invariant, query) in CHECKS {
        for row in sqlx::query(query).fetch_all(&mut *tx).await?.iter().take(LISTED_MAX as usize) {
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

async fn count(connection: &mut SqliteConnection, query: &'static str) -> Result<i64, StoreError> {
    Ok(sqlx::query(query).fetch_one(connection).await?.try_get(0)?)
}

pub(super) async fn gauges(store: &SqliteStore) -> Result<Gauges, StoreError> {
    let mut tx = store.reader.begin().await?;
    let rows =
        sqlx::query("SELECT status, COUNT(*) AS n FROM renders WHERE status IN ('queued', 'dispatched', 'running') GROUP BY status")
            .fetch_all(&mut *tx)
            .await?;
    let live = Status::ALL.into_iter().filter(|status| !status.is_terminal());
    let mut renders: Vec<(Status, i64)> = live.map(|status| (status, 0)).collect();
    for row in &rows {
        let word: &str = row.try_get("status")?;
        let gauge = renders.iter_mut().find(|(status, _)| status.as_str() == word);
        gauge.ok_or_else(|| corrupt(format_args!("status {word}")))?.1 = row.try_get("n")?;
    }
    let present = store.clock.now().minus(limits::WORKER_PRESENCE).0;
    let slots = sqlx::query("SELECT COALESCE(SUM(slots), 0) FROM workers WHERE seen_at > ?")
        .bind(present)
        .fetch_one(&mut *tx)
        .await?
        .try_get(0)?;
    Ok(Gauges { renders, outbox_pending: count(&mut tx, "SELECT COUNT(*) FROM outbox").await?, slots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_is_checked() {
        assert_eq!(CHECKS.map(|(invariant, _)| invariant), Invariant::ALL);
    }
}
