//! The simple dispatcher: a bounded window for each lane, urgent lanes first, then the oldest.

use kraftr_protocol::{Lane, limits};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::renders::select_render;
use super::{PASS_MAX, SqliteStore, Write, columns, leader, number};
use crate::domain::dispatch::{OpenPlaces, free_places};
use crate::store::work::Work;
use crate::store::{StoreError, Term, rules};

pub(super) async fn dispatch(store: &SqliteStore, term: Term) -> Result<Option<u32>, StoreError> {
    let mut write = store.write().await?;
    if !leader::lasts(&mut write, term).await? {
        return Ok(None);
    }
    let mut work = write.work();
    let mut dispatched = 0;
    for (lane, slots) in open_lanes(&mut write).await? {
        let places = free_places(slots, in_flight(&mut write, &lane).await?).min(PASS_MAX);
        if places > 0 {
            dispatched += fill(&mut write, &mut work, &lane, places).await?;
        }
    }
    if dispatched > 0 {
        write.finish(work).await?;
    }
    Ok(Some(dispatched))
}

/// Places in lanes where nobody waits.
pub(super) async fn open_places(write: &mut Write<'_>) -> Result<OpenPlaces, StoreError> {
    let mut open = Vec::new();
    for (lane, slots) in open_lanes(write).await? {
        if waiting(write, &lane, 1).await?.is_empty() {
            let places = free_places(slots, in_flight(write, &lane).await?);
            open.push((lane, places));
        }
    }
    Ok(OpenPlaces::new(open))
}

/// Lanes that somebody takes jobs from, the urgent ones first, with the slots of all who do.
async fn open_lanes(write: &mut Write<'_>) -> Result<Vec<(Lane, u32)>, StoreError> {
    sqlx::query(
        "SELECT pool, release, class, SUM(slots) AS slots
         FROM worker_lanes JOIN workers ON workers.id = worker_id
         WHERE seen_at > ?
         GROUP BY pool, release, class
         ORDER BY class = 'batch', pool, release",
    )
    .bind(write.now.minus(limits::WORKER_PRESENCE).0)
    .fetch_all(&mut *write.tx)
    .await?
    .iter()
    .map(|row| {
        let class: &str = row.try_get("class")?;
        let lane = Lane {
            pool: row.try_get("pool")?,
            release: row.try_get("release")?,
            class: columns::class(class)?,
        };
        Ok((lane, number(row.try_get("slots")?, "slots")?))
    })
    .collect()
}

async fn in_flight(write: &mut Write<'_>, lane: &Lane) -> Result<u32, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS n FROM renders
         WHERE pool = ? AND release = ? AND class = ? AND status IN ('dispatched', 'running')",
    )
    .bind(&lane.pool)
    .bind(&lane.release)
    .bind(lane.class.as_str())
    .fetch_one(&mut *write.tx)
    .await?;
    number(row.try_get("n")?, "count")
}

async fn fill(
    write: &mut Write<'_>,
    work: &mut Work<'_>,
    lane: &Lane,
    places: u32,
) -> Result<u32, StoreError> {
    let rows = waiting(write, lane, places).await?;
    for row in &rows {
        rules::dispatch(work, &mut columns::render(row)?)?;
    }
    number(rows.len() as i64, "count")
}

/// The oldest renders that wait for a lane and are due.
async fn waiting(write: &mut Write<'_>, lane: &Lane, limit: u32) -> Result<Vec<SqliteRow>, StoreError> {
    let rows = sqlx::query(select_render!(
        "WHERE pool = ? AND release = ? AND class = ? AND status = 'queued' AND not_before <= ? ORDER BY id LIMIT ?"
    ))
    .bind(&lane.pool)
    .bind(&lane.release)
    .bind(lane.class.as_str())
    .bind(write.now.0)
    .bind(limit)
    .fetch_all(&mut *write.tx)
    .await?;
    Ok(rows)
}
