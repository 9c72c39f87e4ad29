//! Granting credits, and reading entries.

use kraftr_protocol::{Credits, OrgId, RenderId};
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, columns};
use crate::domain::ledger::{self, EntryKind};
use crate::store::work::Cause;
use crate::store::{Balance, Entry, Page, StoreError};

pub(super) async fn grant(
    store: &SqliteStore,
    org: OrgId,
    amount: Credits,
    reference: &str,
) -> Result<bool, StoreError> {
    let mut write = store.write().await?;
    let known = sqlx::query(
        "SELECT 1 FROM ledger_entries WHERE org_id = ? AND account = 'org' AND kind = 'grant' AND reference = ?",
    )
    .bind(org.0)
    .bind(reference)
    .fetch_optional(&mut *write.tx)
    .await?;
    if known.is_some() {
        return Ok(false);
    }
    let mut work = write.work();
    let cause = Cause::Reference(reference.to_owned());
    work.post(org, EntryKind::Grant, &cause, amount, ledger::grant(org, amount));
    write.finish(work).await?;
    Ok(true)
}

pub(super) async fn balance(store: &SqliteStore, org: OrgId) -> Result<Balance, StoreError> {
    let mut connection = store.reader.acquire().await?;
    balance_of(&mut connection, org).await
}

pub(super) async fn balance_of(connection: &mut SqliteConnection, org: OrgId) -> Result<Balance, StoreError> {
    let row = sqlx::query("SELECT posted, held FROM accounts WHERE org_id = ?")
        .bind(org.0)
        .fetch_one(connection)
        .await?;
    Ok(Balance { posted: Credits(row.try_get("posted")?), held: Credits(row.try_get("held")?) })
}

pub(super) async fn entries(store: &SqliteStore, org: OrgId, page: &Page) -> Result<Vec<Entry>, StoreError> {
    sqlx::query(
        "SELECT id, kind, render_id, amount, posted_after, held_after, created_at FROM ledger_entries
         WHERE account = 'org' AND org_id = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
    )
    .bind(org.0)
    .bind(page.before)
    .bind(page.limit)
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(columns::entry)
    .collect()
}

pub(super) async fn entries_of_render(
    store: &SqliteStore,
    render: RenderId,
) -> Result<Vec<Entry>, StoreError> {
    sqlx::query(
        "SELECT id, kind, render_id, amount, posted_after, held_after, created_at FROM ledger_entries
         WHERE account = 'org' AND render_id = ? ORDER BY id",
    )
    .bind(render.0)
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(columns::entry)
    .collect()
}
