//! What must happen because a transaction was committed.

use std::time::Duration;

use sqlx::Row as _;

use super::{SqliteStore, Write, corrupt, number};
use crate::store::{OutboxRow, StoreError, Topic};

/// The longest delay between two tries of a row.
const DELAY_MAX: Duration = Duration::from_mins(1);

/// Adds a row to this transaction.
pub(super) async fn add(write: &mut Write<'_>, topic: &Topic) -> Result<(), StoreError> {
    let text = serde_json::to_string(topic).map_err(corrupt)?;
    sqlx::query("INSERT INTO outbox (topic, due_at, created_at) VALUES (?, ?2, ?2)")
        .bind(text)
        .bind(write.now.0)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}

pub(super) async fn due(store: &SqliteStore, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    sqlx::query("SELECT id, topic, tries FROM outbox WHERE due_at <= ? ORDER BY id LIMIT ?")
        .bind(store.clock.now().0)
        .bind(limit)
        .fetch_all(&store.reader)
        .await?
        .iter()
        .map(|row| {
            Ok(OutboxRow {
                id: row.try_get("id")?,
                topic: serde_json::from_str(row.try_get("topic")?).map_err(corrupt)?,
                tries: number(row.try_get("tries")?, "tries")?,
            })
        })
        .collect()
}

pub(super) async fn settle(store: &SqliteStore, done: &[i64]) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    for id in done {
        sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(&mut *write.tx).await?;
    }
    write.commit().await
}

pub(super) async fn defer(store: &SqliteStore, row: i64) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    let tries: Option<i64> = sqlx::query("UPDATE outbox SET tries = tries + 1 WHERE id = ? RETURNING tries")
        .bind(row)
        .fetch_optional(&mut *write.tx)
        .await?
        .map(|row| row.try_get("tries"))
        .transpose()?;
    if let Some(tries) = tries {
        let delay = Duration::from_millis(250u64 << tries.clamp(0, 10)).min(DELAY_MAX);
        sqlx::query("UPDATE outbox SET due_at = ? WHERE id = ?")
            .bind(write.now.plus(delay).0)
            .bind(row)
            .execute(&mut *write.tx)
            .await?;
    }
    write.commit().await
}
