//! What must happen because a transaction was committed.

use sqlx::Row as _;

use super::{SqliteStore, Write, corrupt, number};
use crate::domain::retry::outbox_delay;
use crate::store::{OutboxRow, StoreError, Topic};

/// Adds a row to this transaction.
pub(super) async fn add(write: &mut Write<'_>, topic: &Topic) -> Result<(), StoreError> {
    let text = serde_json::to_string(topic).map_err(corrupt)?;
    sqlx::query("INSERT INTO outbox (topic, render_id, due_at, created_at) VALUES (?1, ?2, ?3, ?3)")
        .bind(text)
        .bind(topic.render().map(|render| render.0))
        .bind(write.now.0)
        .execute(&mut *write.tx)
        .await?;
    write.notices.outbox = true;
    Ok(())
}

pub(super) async fn due(store: &SqliteStore, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    let mut rows: Vec<OutboxRow> = sqlx::query(
        "SELECT id, topic, tries FROM outbox AS due WHERE due_at <= ?1 AND NOT EXISTS (
             SELECT 1 FROM outbox AS earlier
             WHERE earlier.render_id = due.render_id AND earlier.id < due.id AND earlier.tries > 0
                 AND earlier.due_at > ?1)
         ORDER BY due_at, id LIMIT ?2",
    )
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
    .collect::<Result<_, StoreError>>()?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

pub(super) async fn settle(store: &SqliteStore, done: &[i64]) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    for id in done {
        sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(&mut *write.tx).await?;
    }
    write.commit().await
}

pub(super) async fn defer(store: &SqliteStore, rows: &[i64]) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    for row in rows {
        defer_one(&mut write, *row).await?;
    }
    write.commit().await
}

async fn defer_one(write: &mut Write<'_>, row: i64) -> Result<(), StoreError> {
    let tries: Option<i64> = sqlx::query("UPDATE outbox SET tries = tries + 1 WHERE id = ? RETURNING tries")
        .bind(row)
        .fetch_optional(&mut *write.tx)
        .await?
        .map(|row| row.try_get("tries"))
        .transpose()?;
    if let Some(tries) = tries {
        let delay = outbox_delay(tries);
        sqlx::query("UPDATE outbox SET due_at = ? WHERE id = ?")
            .bind(write.now.plus(delay).0)
            .bind(row)
            .execute(&mut *write.tx)
            .await?;
    }
    Ok(())
}
