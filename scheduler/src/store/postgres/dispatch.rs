//! The simple dispatcher: a bounded window for each lane, urgent lanes first, then the oldest.

use kraftr_protocol::{Lane, limits};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::columns::{self, Moment};
use super::renders::render_columns;
use super::{Locks, PASS_MAX, PgStore, Write, number};
use crate::domain::dispatch::free_places;
use crate::store::{StoreError, Term, rules};

pub(super) async fn dispatch(store: &PgStore, term: Term) -> Result<Option<u32>, StoreError> {
    let mut locks = store.begin().await?;
    let Some(room) = room(&mut locks, store.skew(), term).await? else {
        return Ok(None);
    };
    if room.is_empty() {
        return Ok(Some(0));
    }
    let mut write = store.at_work(locks).await?;
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

/// Lanes that somebody takes jobs from and that have free places, the urgent ones first; `None` when that term is
/// over. Takes no lock: what is dispatched is guarded row by row, so that an old leader's last transaction can
/// only fill a window early.
async fn room(locks: &mut Locks, skew: i64, term: Term) -> Result<Option<Vec<(Lane, u32)>>, StoreError> {
    let rows = sqlx::query(
        "SELECT clock_timestamp() AS locked_at, pool, release, class, slots, in_flight
         FROM leader LEFT JOIN (
             SELECT pool, release, class, SUM(slots)::bigint AS slots
             FROM worker_lanes JOIN workers ON workers.id = worker_id
             WHERE seen_at > clock_timestamp() + $2 * interval '1 microsecond' - $3 * interval '1 second'
             GROUP BY pool, release, class
         ) AS open ON true
         LEFT JOIN LATERAL (
             SELECT COUNT(*) AS in_flight FROM renders
             WHERE renders.pool = open.pool AND renders.release = open.release AND renders.class = open.class
                 AND status IN ('dispatched', 'running')
         ) AS flying ON true
         WHERE term = $1 AND replica IS NOT NULL AND leader.lease_until > clock_timestamp() + $2 * interval '1 microsecond'
         ORDER BY class = 'batch', pool, release",
    )
    .bind(term.0)
    .bind(skew)
    .bind(limits::WORKER_PRESENCE.as_secs_f64())
    .fetch_all(&mut *locks.tx)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    locks.took(&rows)?;
    let mut room = Vec::new();
    for row in rows {
        // The leader's own row, with no lane beside it.
        let Some(class) = row.try_get::<Option<&str>, _>("class")? else { continue };
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
    Ok(Some(room))
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
