//! Who leads, and until when: one row.

use kraftr_protocol::limits;
use sqlx::Row as _;
use uuid::Uuid;

use super::PgStore;
use super::columns::Moment;
use crate::store::{StoreError, Term};

pub(super) async fn lead(store: &PgStore, replica: Uuid) -> Result<Option<Term>, StoreError> {
    let mut locks = store.begin().await?;
    // Whoever asks waits here for whoever asked before, and looks at the clock after that.
    sqlx::query("SELECT 1 AS locked FROM leader FOR UPDATE").execute(&mut *locks.tx).await?;
    let mut write = store.at_work(locks).await?;
    let term = sqlx::query(
        "UPDATE leader SET
             term = term + (replica IS DISTINCT FROM $1 OR lease_until <= $2)::int, replica = $1, lease_until = $3
         WHERE replica IS NOT DISTINCT FROM $1 OR lease_until <= $2
         RETURNING term",
    )
    .bind(replica)
    .bind(Moment(write.now))
    .bind(Moment(write.now.plus(limits::LEADER_LEASE)))
    .fetch_optional(&mut *write.tx)
    .await?
    .map(|row| row.try_get("term").map(Term))
    .transpose()?;
    write.commit().await?;
    Ok(term)
}

pub(super) async fn resign(store: &PgStore, replica: Uuid) -> Result<(), StoreError> {
    sqlx::query("UPDATE leader SET replica = NULL, lease_until = 'epoch' WHERE replica = $1")
        .bind(replica)
        .execute(&store.pool)
        .await?;
    Ok(())
}
