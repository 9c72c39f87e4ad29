//! What must happen because a transaction was committed.

use kraftr_protocol::Timestamp;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::columns::Moment;
use super::statement::Columns;
use super::{PgStore, corrupt, number};
use crate::domain::retry::outbox_delay;
use crate::store::{OutboxRow, StoreError, Topic};

/// Says the insertion of these rows.
pub(super) fn insert(
    sql: &mut QueryBuilder<Postgres>,
    topics: &[Topic],
    now: Timestamp,
) -> Result<(), StoreError> {
    let texts: Result<Vec<String>, _> = topics.iter().map(serde_json::to_string).collect();
    let renders: Vec<Option<Uuid>> =
        topics.iter().map(|topic| topic.render().map(|render| render.0)).collect();
    Columns::default()
        .add("topic", "jsonb", texts.map_err(corrupt)?)
        .add("render_id", "uuid", renders)
        .moment("due_at", now)
        .moment("created_at", now)
        .insert_into("outbox", sql);
    Ok(())
}

/// Adds rows to the transaction of this connection.
pub(super) async fn add(
    connection: &mut PgConnection,
    topics: &[Topic],
    now: Timestamp,
) -> Result<(), StoreError> {
    if topics.is_empty() {
        return Ok(());
    }
    let mut sql = QueryBuilder::new("");
    insert(&mut sql, topics, now)?;
    sql.build().execute(connection).await?;
    Ok(())
}

pub(super) async fn due(store: &PgStore, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    let mut rows: Vec<OutboxRow> = sqlx::query(
        "SELECT id, topic::text AS topic, tries FROM outbox AS due
         WHERE due_at <= now() + $1 * interval '1 microsecond' AND NOT EXISTS (
             SELECT 1 FROM outbox AS earlier
             WHERE earlier.render_id = due.render_id AND earlier.id < due.id AND earlier.tries > 0
                 AND earlier.due_at > now() + $1 * interval '1 microsecond')
         ORDER BY due_at, id LIMIT $2",
    )
    .bind(store.skew())
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
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
    let mut locks = store.begin().await?;
    let tried =
        sqlx::query("SELECT id, tries + 1 AS tries FROM outbox WHERE id = ANY($1) ORDER BY id FOR UPDATE")
            .bind(rows)
            .fetch_all(&mut *locks.tx)
            .await?;
    let mut write = store.at_work(locks).await?;
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
