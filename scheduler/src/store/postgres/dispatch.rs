//! The simple dispatcher: a bounded window for each lane, urgent lanes first, then the oldest.

use std::collections::BTreeSet;

use kraftr_protocol::{Lane, limits};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::columns::{self, Moment};
use super::renders::render_columns;
use super::{PASS_MAX, PgStore, Write, number};
use crate::domain::dispatch::{OpenPlaces, free_places};
use crate::store::{NewRender, StoreError, Term, rules};

/// A lane that somebody takes jobs from.
struct Open {
    lane: Lane,
    /// How many more renders may be in flight in it.
    places: u32,
    /// Whether a render waits for it that is due.
    wanted: bool,
}

/// The lanes that are open, the urgent ones first.
struct Lanes {
    rows: Vec<PgRow>,
    open: Vec<Open>,
}

impl Lanes {
    /// Those that can be filled, and how far.
    fn room(&self) -> Vec<(&Lane, u32)> {
        let fillable = self.open.iter().filter(|open| open.wanted && open.places > 0);
        fillable.map(|open| (&open.lane, open.places.min(PASS_MAX))).collect()
    }
}

pub(super) async fn dispatch(store: &PgStore, term: Term) -> Result<Option<u32>, StoreError> {
    // Most looks find nothing to do, and then nobody who submits need make way.
    let mut connection = store.pool.acquire().await?;
    match lanes(&mut connection, store.skew(), term, None).await? {
        None => return Ok(None),
        Some(lanes) if lanes.room().is_empty() => return Ok(Some(0)),
        Some(_) => drop(connection),
    }
    let _window = store.windows.lock().await;
    let mut locks = store.begin().await?;
    let Some(lanes) = lanes(&mut locks.tx, store.skew(), term, None).await? else {
        return Ok(None);
    };
    locks.took(&lanes.rows)?;
    let mut write = store.at_work(locks).await?;
    let mut work = write.work();
    let rows = pick(&mut write, &lanes.room()).await?;
    for row in &rows {
        rules::dispatch(&mut work, &mut columns::render(row)?)?;
    }
    if !rows.is_empty() {
        write.finish(work).await?;
    }
    number(rows.len() as i64, "count").map(Some)
}

/// Places for these submissions in lanes where nobody waits; none when that term is over. The caller fills windows.
pub(super) async fn open_places(
    store: &PgStore,
    term: Term,
    renders: &[NewRender],
) -> Result<OpenPlaces, StoreError> {
    let releases: BTreeSet<String> = renders.iter().map(|new| new.spec.runs_on()).collect();
    let releases: Vec<&str> = releases.iter().map(String::as_str).collect();
    let mut connection = store.pool.acquire().await?;
    let open = lanes(&mut connection, store.skew(), term, Some(&releases)).await?.map(|lanes| lanes.open);
    let free = open.into_iter().flatten().filter(|open| !open.wanted);
    Ok(OpenPlaces::new(free.map(|open| (open.lane, open.places))))
}

/// Lanes that somebody takes jobs from, of these releases or of all; `None` when that term is over. Takes no lock: what
/// is dispatched is guarded row by row, so that an old leader's last transaction can only fill a window early.
async fn lanes(
    connection: &mut PgConnection,
    skew: i64,
    term: Term,
    releases: Option<&[&str]>,
) -> Result<Option<Lanes>, StoreError> {
    let rows = sqlx::query(
        "SELECT clock_timestamp() AS locked_at, pool, release, class, slots, in_flight, COALESCE(waits, false) AS wanted
         FROM leader LEFT JOIN (
             SELECT pool, release, class, SUM(slots)::bigint AS slots
             FROM worker_lanes JOIN workers ON workers.id = worker_id
             WHERE seen_at > clock_timestamp() + $2 * interval '1 microsecond' - $3 * interval '1 second'
                 AND ($4::text[] IS NULL OR release = ANY($4))
             GROUP BY pool, release, class
         ) AS open ON true
         LEFT JOIN LATERAL (
             SELECT COUNT(*) AS in_flight FROM renders
             WHERE renders.pool = open.pool AND renders.release = open.release AND renders.class = open.class
                 AND status IN ('dispatched', 'running')
         ) AS flying ON true
         LEFT JOIN LATERAL (
             SELECT true AS waits FROM renders
             WHERE renders.pool = open.pool AND renders.release = open.release AND renders.class = open.class
                 AND status = 'queued' AND not_before <= clock_timestamp() + $2 * interval '1 microsecond'
             ORDER BY uuid_send(id) LIMIT 1
         ) AS waiting ON true
         WHERE term = $1 AND replica IS NOT NULL AND leader.lease_until > clock_timestamp() + $2 * interval '1 microsecond'
         ORDER BY class = 'batch', pool, release",
    )
    .bind(term.0)
    .bind(skew)
    .bind(limits::WORKER_PRESENCE.as_secs_f64())
    .bind(releases)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut open = Vec::new();
    for row in &rows {
        // The leader's own row, with no lane beside it.
        let Some(class) = row.try_get::<Option<&str>, _>("class")? else { continue };
        let lane = Lane {
            pool: row.try_get("pool")?,
            release: row.try_get("release")?,
            class: columns::class(class)?,
        };
        let slots = number(row.try_get("slots")?, "slots")?;
        let places = free_places(slots, number(row.try_get("in_flight")?, "count")?);
        open.push(Open { lane, places, wanted: row.try_get("wanted")? });
    }
    Ok(Some(Lanes { rows, open }))
}

/// The oldest renders of each lane; those that somebody else has locked are passed over.
async fn pick(write: &mut Write<'_>, room: &[(&Lane, u32)]) -> Result<Vec<PgRow>, StoreError> {
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
