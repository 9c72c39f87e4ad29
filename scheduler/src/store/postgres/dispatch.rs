//! The simple dispatcher: a bounded window for each lane, urgent lanes first, then the oldest.

use kraftr_protocol::{Lane, limits};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::columns::{self, Moment};
use super::renders::render_columns;
use super::{PASS_MAX, PgStore, Write, leader, number};
use crate::domain::dispatch::free_places;
use crate::store::{StoreError, Term, rules};

pub(super) async fn dispatch(store: &PgStore, term: Term) -> Result<Option<u32>, StoreError> {
    let mut write = store.write().await?;
    if !leader::lasts(&mut write, term).await? {
        return Ok(None);
    }
    let room = room(&mut write).await?;
    if room.is_empty() {
        return Ok(Some(0));
    }
    let mut work = write.work();
    let rows = pick(&mut write, &room).await?;
    for row in &rows {
        rules::dispatch(&mut work, &mut columns::render(row)?)?;
    }
    if !rows.is_empty() {
        write.finish(work).await?;
    }
    number(rows.len() as i64, "count").map(Some)
}

/// Lanes that somebody takes jobs from and that have free places, the urgent ones first.
async fn room(write: &mut Write<'_>) -> Result<Vec<(Lane, u32)>, StoreError> {
    let rows = sqlx::query(
        "SELECT pool, release, class, slots, in_flight FROM (
             SELECT pool, release, class, SUM(slots)::bigint AS slots
             FROM worker_lanes JOIN workers ON workers.id = worker_id
             WHERE seen_at > $1
             GROUP BY pool, release, class
         ) AS open
         CROSS JOIN LATERAL (
             SELECT COUNT(*) AS in_flight FROM renders
             WHERE renders.pool = open.pool AND renders.release = open.release AND renders.class = open.class
                 AND status IN ('dispatched', 'running')
         ) AS flying
         ORDER BY class = 'batch', pool, release",
    )
    .bind(Moment(write.now.minus(limits::WORKER_PRESENCE)))
    .fetch_all(&mut *write.tx)
    .await?;
    let mut room = Vec::new();
    for row in rows {
        let class: &str = row.try_get("class")?;
        let lane = Lane {
            pool: row.try_get("pool")?,
            release: row.try_get("release")?,
            class: columns::class(class)?,
        };
        let slots = number(row.try_get("slots")?, "slots")?;
        let places = free_places(slots, number(row.try_get("in_flight")?, "count")?).min(PASS_MAX);
        if places > 0 {
            room.push((lane, places));
        }
    }
    Ok(room)
}

/// The oldest renders of each lane; those that somebody else has locked are passed over.
async fn pick(write: &mut Write<'_>, room: &[(Lane, u32)]) -> Result<Vec<PgRow>, StoreError> {
    let rows = sqlx::query(concat!(
        "SELECT picked.* FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
             AS lane (pool, release, class, places, turn)
         CROSS JOIN LATERAL (
             SELECT ",
        render_columns!(),
        " FROM renders
             WHERE renders.pool = lane.pool AND renders.release = lane.release AND renders.class = lane.class
                 AND status = 'queued' AND not_before <= $5
             ORDER BY uuid_send(id) LIMIT lane.places FOR NO KEY UPDATE SKIP LOCKED
         ) AS picked
         ORDER BY turn, picked.id"
    ))
    .bind(room.iter().map(|(lane, _)| lane.pool.clone()).collect::<Vec<_>>())
    .bind(room.iter().map(|(lane, _)| lane.release.clone()).collect::<Vec<_>>())
    .bind(room.iter().map(|(lane, _)| lane.class.as_str()).collect::<Vec<_>>())
    .bind(room.iter().map(|(_, places)| i64::from(*places)).collect::<Vec<_>>())
    .bind(Moment(write.now))
    .fetch_all(&mut *write.tx)
    .await?;
    Ok(rows)
}
