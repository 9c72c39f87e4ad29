//! What must happen because a transaction was committed.

use kraftr_protocol::Timestamp;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::columns::Moment;
use super::{PgStore, corrupt, number};
use crate::domain::retry::outbox_delay;
use crate::store::{OutboxRow, StoreError, Topic};

/// Adds rows to the transaction of this connection.
pub(super) async fn add(
    connection: &mut PgConnection,
    topics: &[Topic],
    now: Timestamp,
) -> Result<(), StoreError> {
    if topics.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> =
        topics.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(corrupt)?;
    let renders: Vec<Option<Uuid>> =
        topics.iter().map(|topic| topic.render().map(|render| render.0)).collect();
    sqlx::query(
        "INSERT INTO outbox (topic, render_id, due_at, created_at)
         SELECT topic::jsonb, render_id, $3, $3
         FROM UNNEST($1::text[], $2::uuid[]) WITH ORDINALITY AS added (topic, render_id, place) ORDER BY place",
    )
    .bind(texts)
    .bind(renders)
    .bind(Moment(now))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn due(store: &PgStore, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    let mut connection = store.pool.acquire().await?;
    let now = store.now(&mut connection).await?;
    let mut rows: Vec<OutboxRow> = sqlx::query(
        "SELECT id, topic::text AS topic, tries FROM outbox AS due WHERE due_at <= $1 AND NOT EXISTS (
             SELECT 1 FROM outbox AS earlier
             WHERE earlier.render_id = due.render_id AND earlier.id < due.id AND earlier.tries > 0
                 AND earlier.due_at > $1)
         ORDER BY due_at, id LIMIT $2",
    )
    .bind(Moment(now))
    .bind(i64::from(limit))
    .fetch_all(&mut *connection)
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

pub(super) async fn settle(store: &PgStore, done: &[i64]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox WHERE id = ANY($1)").bind(done).execute(&store.pool).await?;
    Ok(())
}

pub(super) async fn defer(store: &PgStore, rows: &[i64]) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let tried =
        sqlx::query("SELECT id, tries + 1 AS tries FROM outbox WHERE id = ANY($1) ORDER BY id FOR UPDATE")
            .bind(rows)
            .fetch_all(&mut *tx)
            .await?;
    let mut write = store.at_work(tx).await?;
    let (mut ids, mut tries, mut due) = (Vec::new(), Vec::new(), Vec::new());
    for row in &tried {
        let times: i64 = row.try_get("tries")?;
        ids.push(row.try_get::<i64, _>("id")?);
        due.push(Moment(write.now.plus(outbox_delay(times))));
        tries.push(times);
    }
    sqlx::query(
        "UPDATE outbox SET tries = later.tries, due_at = later.due_at
         FROM UNNEST($1::bigint[], $2::bigint[], $3::timestamptz[]) AS later (id, tries, due_at)
         WHERE outbox.id = later.id",
    )
    .bind(ids)
    .bind(tries)
    .bind(due)
    .execute(&mut *write.tx)
    .await?;
    write.commit().await
}
