//! Writing and reading entries. Every movement of credits goes through [`post`].

use kraftr_protocol::{Credits, EntryId, OrgId, RenderId, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, Write, corrupt};
use crate::domain::ledger::{self, Account, EntryKind, Postings};
use crate::store::{Balance, Entry, Page, StoreError};

/// What a happening belongs to.
pub(super) enum Cause<'c> {
    /// A payer's grant, by the payer's reference.
    Reference(&'c str),
    /// A render.
    Render(RenderId),
}

const INSERT: &str = "INSERT INTO ledger_entries
    (id, org_id, account, kind, render_id, reference, amount, posted, held, posted_after, held_after, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Writes both entries of a happening and moves the org's balance.
pub(super) async fn post(
    write: &mut Write<'_>,
    kind: EntryKind,
    cause: Cause<'_>,
    amount: Credits,
    postings: Postings,
) -> Result<(), StoreError> {
    let (render, reference) = match cause {
        Cause::Reference(reference) => (None, Some(reference)),
        Cause::Render(render) => (Some(render.0), None),
    };
    let Account::Org(org) = postings[0].account else {
        return Err(corrupt("the first posting is not an org's"));
    };
    let after = sqlx::query(
        "UPDATE accounts SET posted = posted + ?, held = held + ? WHERE org_id = ? RETURNING posted, held",
    )
    .bind(postings[0].posted)
    .bind(postings[0].held)
    .bind(org.0)
    .fetch_one(&mut *write.tx)
    .await?;
    let after: (i64, i64) = (after.try_get("posted")?, after.try_get("held")?);
    for posting in postings {
        let (account, after) = match posting.account {
            Account::Org(_) => ("org", Some(after)),
            Account::Grants => ("grants", None),
            Account::Revenue => ("revenue", None),
        };
        let id = write.id();
        sqlx::query(INSERT)
            .bind(id)
            .bind(org.0)
            .bind(account)
            .bind(kind.as_str())
            .bind(render)
            .bind(reference)
            .bind(amount.0)
            .bind(posting.posted)
            .bind(posting.held)
            .bind(after.map(|(posted, _)| posted))
            .bind(after.map(|(_, held)| held))
            .bind(write.now.0)
            .execute(&mut *write.tx)
            .await?;
    }
    Ok(())
}

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
    let cause = Cause::Reference(reference);
    post(&mut write, EntryKind::Grant, cause, amount, ledger::grant(org, amount)).await?;
    write.commit().await?;
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

fn entry_from(row: &SqliteRow) -> Result<Entry, StoreError> {
    let kind: String = row.try_get("kind")?;
    Ok(Entry {
        id: EntryId(row.try_get("id")?),
        kind: EntryKind::parse(&kind).ok_or_else(|| corrupt(format_args!("entry kind {kind}")))?,
        render: row.try_get::<Option<_>, _>("render_id")?.map(RenderId),
        amount: Credits(row.try_get("amount")?),
        posted_after: Credits(row.try_get("posted_after")?),
        held_after: Credits(row.try_get("held_after")?),
        created_at: Timestamp(row.try_get("created_at")?),
    })
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
    .map(entry_from)
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
    .map(entry_from)
    .collect()
}
