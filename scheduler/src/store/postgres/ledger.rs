//! Granting credits, and reading entries.

use std::collections::BTreeMap;

use kraftr_protocol::{Credits, OrgId, RenderId};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{NEWEST, PgStore, columns};
use crate::domain::ledger::{self, EntryKind};
use crate::store::work::Cause;
use crate::store::{Balance, Entry, Page, StoreError};

pub(super) async fn grant(
    store: &PgStore,
    org: OrgId,
    amount: Credits,
    reference: &str,
) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    // The account's lock makes the look and the write one.
    lock_accounts(&mut tx, &[org]).await?;
    let known = sqlx::query(
        "SELECT 1 AS known FROM ledger_entries
         WHERE org_id = $1 AND account = 'org' AND kind = 'grant' AND reference = $2",
    )
    .bind(org.0)
    .bind(reference)
    .fetch_optional(&mut *tx)
    .await?;
    if known.is_some() {
        return Ok(false);
    }
    let write = store.at_work(tx).await?;
    let mut work = write.work();
    let cause = Cause::Reference(reference.to_owned());
    work.post(org, EntryKind::Grant, &cause, amount, ledger::grant(org, amount));
    write.finish(work).await?;
    Ok(true)
}

/// Locks the accounts, in the order that everybody takes; what they hold.
pub(super) async fn lock_accounts(
    connection: &mut PgConnection,
    orgs: &[OrgId],
) -> Result<BTreeMap<OrgId, (i64, i64)>, StoreError> {
    let orgs: Vec<Uuid> = orgs.iter().map(|org| org.0).collect();
    sqlx::query(
        "SELECT org_id, posted, held FROM accounts WHERE org_id = ANY($1) ORDER BY org_id FOR NO KEY UPDATE",
    )
    .bind(orgs)
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| Ok((OrgId(row.try_get("org_id")?), (row.try_get("posted")?, row.try_get("held")?))))
    .collect()
}

pub(super) async fn balance(store: &PgStore, org: OrgId) -> Result<Balance, StoreError> {
    let row = sqlx::query("SELECT posted, held FROM accounts WHERE org_id = $1")
        .bind(org.0)
        .fetch_one(&store.pool)
        .await?;
    Ok(Balance { posted: Credits(row.try_get("posted")?), held: Credits(row.try_get("held")?) })
}

pub(super) async fn entries(store: &PgStore, org: OrgId, page: &Page) -> Result<Vec<Entry>, StoreError> {
    sqlx::query(
        "SELECT id, kind, render_id, amount, posted_after, held_after, created_at FROM ledger_entries
         WHERE account = 'org' AND org_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
    )
    .bind(org.0)
    .bind(page.before.unwrap_or(NEWEST))
    .bind(i64::from(page.limit))
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::entry)
    .collect()
}

pub(super) async fn entries_of_render(store: &PgStore, render: RenderId) -> Result<Vec<Entry>, StoreError> {
    sqlx::query(
        "SELECT id, kind, render_id, amount, posted_after, held_after, created_at FROM ledger_entries
         WHERE account = 'org' AND render_id = $1 ORDER BY id",
    )
    .bind(render.0)
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::entry)
    .collect()
}
