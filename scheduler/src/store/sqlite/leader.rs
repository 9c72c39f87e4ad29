//! Who leads, and until when: one row.

use kraftr_protocol::limits;
use sqlx::Row as _;
use uuid::Uuid;

use super::{SqliteStore, Write};
use crate::store::{StoreError, Term};

pub(super) async fn lead(store: &SqliteStore, replica: Uuid) -> Result<Option<Term>, StoreError> {
    let mut write = store.write().await?;
    let term = sqlx::query(
        "UPDATE leader SET
             term = term + (replica IS NOT ?1 OR lease_until <= ?2), replica = ?1, lease_until = ?3
         WHERE replica IS ?1 OR lease_until <= ?2
         RETURNING term",
    )
    .bind(replica)
    .bind(write.now.0)
    .bind(write.now.plus(limits::LEADER_LEASE).0)
    .fetch_optional(&mut *write.tx)
    .await?
    .map(|row| row.try_get("term").map(Term))
    .transpose()?;
    write.commit().await?;
    Ok(term)
}

pub(super) async fn resign(store: &SqliteStore, replica: Uuid) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    sqlx::query("UPDATE leader SET replica = NULL, lease_until = 0 WHERE replica = ?")
        .bind(replica)
        .execute(&mut *write.tx)
        .await?;
    write.commit().await
}

/// True while that term lasts.
pub(super) async fn lasts(write: &mut Write<'_>, term: Term) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 FROM leader WHERE term = ? AND replica IS NOT NULL AND lease_until > ?")
        .bind(term.0)
        .bind(write.now.0)
        .fetch_optional(&mut *write.tx)
        .await?;
    Ok(row.is_some())
}
