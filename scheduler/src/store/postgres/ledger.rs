//! Granting credits, and reading entries.

use std::collections::BTreeMap;

use kraftr_protocol::{Credits, OrgId, RenderId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::columns::{self, locking};
use super::{NEWEST, PgStore};
use crate::domain::ledger::{self, EntryKind};
use crate::store::work::Cause;
use crate::store::{Balance, Entry, Page, StoreError};

pub(super) async fn grant(
    store: &PgStore,
    org: OrgId,
    amount: Credits,
    reference: &str,
) -> Result<bool, StoreError> {
    let mut locks = store.begin().await?;
    // The account's lock makes the look and the write one.
    locks.lock_accounts(&[org]).await?;
    let known = sqlx::query(
        "SELECT 1 AS known FROM ledger_entries
         WHERE org_id = $1 AND account = 'org' AND kind = 'grant' AND reference = $2",
    )
    .bind(org.0)
    .bind(reference)
    .fetch_optional(&mut *locks.tx)
    .await?;
    if known.is_some() {
        return Ok(false);
    }
    let write = store.at_work(locks).await?;
    let mut work = write.work();
    let cause = Cause::Reference(reference.to_owned());
    work.post(org, EntryKind::Grant, &cause, amount, ledger::grant(org, amount));
    write.finish(work).await?;
    Ok(true)
}

/// Accounts that are locked.
pub(super) struct Accounts {
    /// What each holds: posted and held.
    pub(super) balances: BTreeMap<OrgId, (i64, i64)>,
    /// A moment after the last of them was locked; absent when there was none.
    pub(super) locked_at: Option<Timestamp>,
}

/// Locks the accounts, in the order that everybody takes.
pub(super) async fn lock_accounts(
    connection: &mut PgConnection,
    orgs: &[OrgId],
) -> Result<Accounts, StoreError> {
    let orgs: Vec<Uuid> = orgs.iter().map(|org| org.0).collect();
    let rows = sqlx::query(locking!(
        "SELECT org_id, posted, held FROM accounts WHERE org_id = ANY($1) ORDER BY org_id FOR NO KEY UPDATE"
    ))
    .bind(orgs)
    .fetch_all(connection)
    .await?;
    let balance = |row: &PgRow| {
        Ok::<_, StoreError>((OrgId(row.try_get("org_id")?), (row.try_get("posted")?, row.try_get("held")?)))
    };
    Ok(Accounts {
        balances: rows.iter().map(balance).collect::<Result<_, _>>()?,
        locked_at: columns::locked_at(&rows)?,
    })
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
