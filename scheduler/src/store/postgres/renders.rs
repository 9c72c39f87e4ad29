//! Submitting, reading, cancelling and deleting renders.

use std::collections::{BTreeMap, BTreeSet};

use kraftr_protocol::{
    ArtifactId, AssetId, Credits, OrgId, RenderId, Status, Timestamp, WatermarkRef, limits,
};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::columns::{self, Moment, locking, not_deleted};
use super::{Locks, NEWEST, PgStore, dispatch, idempotency, outbox};
use crate::domain::dispatch::OpenPlaces;
use crate::store::rules::{self, Cancelled, Facts};
use crate::store::work::RenderRow;
use crate::store::{
    Artifact, AtOnce, CancelOutcome, DeleteOutcome, NewRender, Page, Render, StoreError, SubmitError, Topic,
    Traced, TransitionRow,
};

macro_rules! render_columns {
    () => {
        "id, org_id, status, revision, model, spec::text AS spec, pool, release, class, person_id, garment_id, price,
         estimate_ms, device_ms, attempt, epoch, worker_id, lease_until, not_before, failures, crashes, lost_leases,
         failure::text AS failure, cancel_requested_at, cancelled_at_step, watermark, webhook,
         metadata::text AS metadata, created_at, started_at, finished_at"
    };
}
pub(super) use render_columns;

macro_rules! select_render {
    ($($rest:expr),+) => {
        concat!("SELECT ", crate::store::postgres::renders::render_columns!(), " FROM renders ", $($rest),+)
    };
}
pub(super) use select_render;

pub(super) async fn submit(
    store: &PgStore,
    renders: &[NewRender],
    at_once: Option<AtOnce<'_>>,
) -> Result<Vec<Result<Render, SubmitError>>, StoreError> {
    // While the dispatcher fills the windows somebody waits, so nobody may go at once.
    let window =
        at_once.as_ref().and_then(|AtOnce { term, .. }| Some((*term, store.windows.try_lock().ok()?)));
    let judged_by = async {
        let mut locks = store.begin().await?;
        let facts = facts(&mut locks, renders).await?;
        Ok::<_, StoreError>((locks, facts))
    };
    let open = async {
        match &window {
            Some((term, _)) => dispatch::open_places(store, *term, renders).await,
            None => Ok(OpenPlaces::default()),
        }
    };
    let ((locks, mut facts), open) = tokio::try_join!(Box::pin(judged_by), Box::pin(open))?;
    facts.open = open;
    let write = store.at_work(locks).await?;
    let mut work = write.work();
    let outcomes =
        renders.iter().map(|new| rules::submit(&mut work, new, &mut facts)).collect::<Result<_, _>>()?;
    if let Some(at_once) = at_once {
        at_once.go_ahead(&mut work);
    }
    write.finish(work).await?;
    Ok(outcomes)
}

/// What the submissions are judged by; locked.
pub(super) async fn facts(locks: &mut Locks, renders: &[NewRender]) -> Result<Facts, StoreError> {
    let tickets =
        idempotency::lock_held(&mut locks.tx, renders.iter().filter_map(|new| new.ticket.as_ref())).await?;
    let wanted: Vec<Uuid> = renders.iter().flat_map(|new| [new.person.0, new.garment.0]).collect();
    let orgs: Vec<Uuid> = renders.iter().map(|new| new.org.0).collect();
    // One round trip for both; an asset is kept from being deleted until the transaction ends.
    let rows = sqlx::query(concat!(
        "WITH kept AS MATERIALIZED (
             SELECT org_id, id FROM assets WHERE id = ANY($1) AND ",
        not_deleted!(),
        " ORDER BY id FOR SHARE
         ), charged AS MATERIALIZED (
             SELECT org_id, posted, held FROM accounts WHERE org_id = ANY($2) ORDER BY org_id FOR NO KEY UPDATE
         )
         SELECT org_id, id, NULL::bigint AS posted, NULL::bigint AS held, clock_timestamp() AS locked_at FROM kept
         UNION ALL SELECT org_id, NULL, posted, held, clock_timestamp() FROM charged"
    ))
    .bind(wanted)
    .bind(orgs)
    .fetch_all(&mut *locks.tx)
    .await?;
    locks.took(&rows)?;
    let mut assets = BTreeSet::new();
    for row in &rows {
        let org = OrgId(row.try_get("org_id")?);
        match row.try_get::<Option<Uuid>, _>("id")? {
            Some(asset) => drop(assets.insert((org, AssetId(asset)))),
            None => drop(locks.accounts.insert(org, (row.try_get("posted")?, row.try_get("held")?))),
        }
    }
    let available =
        locks.accounts.iter().map(|(org, (posted, held))| (*org, Credits(posted - held))).collect();
    Ok(Facts { tickets, assets, available, open: OpenPlaces::default() })
}

/// Locks the renders of these ids, in the order that everybody takes; deleted ones are not there.
pub(super) async fn lock(
    locks: &mut Locks,
    ids: impl IntoIterator<Item = RenderId>,
) -> Result<BTreeMap<RenderId, RenderRow>, StoreError> {
    let ids: Vec<Uuid> = ids.into_iter().map(|id| id.0).collect();
    let rows = sqlx::query(locking!(
        "SELECT ",
        render_columns!(),
        " FROM renders WHERE id = ANY($1) AND ",
        not_deleted!(),
        " ORDER BY id FOR NO KEY UPDATE"
    ))
    .bind(ids)
    .fetch_all(&mut *locks.tx)
    .await?;
    locks.took(&rows)?;
    rows.iter().map(|row| columns::render(row).map(|row| (row.render.id, row))).collect()
}

/// The renders of these ids as they are now, and when that was; `None` when none of them is there.
pub(super) async fn peek_all(
    store: &PgStore,
    ids: &[Uuid],
) -> Result<Option<(Timestamp, BTreeMap<RenderId, RenderRow>)>, StoreError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        render_columns!(),
        ", clock_timestamp() AS locked_at FROM renders WHERE id = ANY($1) AND ",
        not_deleted!()
    ))
    .bind(ids)
    .fetch_all(&store.pool)
    .await?;
    let Some(at) = columns::locked_at(&rows)? else { return Ok(None) };
    let renders = rows.iter().map(|row| columns::render(row).map(|row| (row.render.id, row)));
    Ok(Some((Timestamp(at.0 + store.skew()), renders.collect::<Result<_, _>>()?)))
}

/// The render of that id, as it is now.
pub(super) async fn peek(store: &PgStore, id: RenderId) -> Result<Option<RenderRow>, StoreError> {
    sqlx::query(select_render!("WHERE id = $1 AND ", not_deleted!()))
        .bind(id.0)
        .fetch_optional(&store.pool)
        .await?
        .as_ref()
        .map(columns::render)
        .transpose()
}

/// Fills in what the renders delivered.
async fn with_artifacts(
    connection: &mut PgConnection,
    rows: Vec<RenderRow>,
) -> Result<Vec<Render>, StoreError> {
    let mut renders: Vec<Render> = rows.into_iter().map(|row| row.render).collect();
    let succeeded = renders.iter().filter(|render| render.status == Status::Succeeded);
    let ids: Vec<Uuid> = succeeded.map(|render| render.id.0).collect();
    if ids.is_empty() {
        return Ok(renders);
    }
    let mut delivered: BTreeMap<RenderId, Vec<Artifact>> = BTreeMap::new();
    for row in sqlx::query(
        "SELECT id, render_id, sample, object_key, sha256, content_type, width, height, bytes FROM artifacts
         WHERE render_id = ANY($1) ORDER BY sample",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?
    {
        let artifact = columns::artifact(&row)?;
        delivered.entry(artifact.render).or_default().push(artifact);
    }
    for render in &mut renders {
        render.artifacts = delivered.remove(&render.id).unwrap_or_default();
    }
    Ok(renders)
}

pub(super) async fn get(store: &PgStore, org: OrgId, id: RenderId) -> Result<Option<Render>, StoreError> {
    let mut connection = store.pool.acquire().await?;
    let row = sqlx::query(select_render!("WHERE id = $1 AND org_id = $2 AND ", not_deleted!()))
        .bind(id.0)
        .bind(org.0)
        .fetch_optional(&mut *connection)
        .await?;
    let rows = row.iter().map(columns::render).collect::<Result<_, _>>()?;
    Ok(with_artifacts(&mut connection, rows).await?.pop())
}

/// Not only the reference itself is looked for, but those that are up to three images away.
pub(super) async fn trace(store: &PgStore, mark: WatermarkRef) -> Result<Option<Traced>, StoreError> {
    let marks: Vec<Vec<u8>> =
        (0..limits::SAMPLES_MAX).map(|sample| mark.less_sample(sample).0.to_vec()).collect();
    let found =
        sqlx::query(select_render!("WHERE watermark = ANY($1)")).bind(marks).fetch_all(&store.pool).await?;
    for row in &found {
        let row = columns::render(row)?;
        let sample = (0..row.render.spec.samples).find(|n| row.render.watermark.of_sample(*n) == mark);
        if let Some(sample) = sample {
            let there = get(store, row.render.org, row.render.id).await?;
            let deleted = there.is_none();
            return Ok(Some(Traced { render: there.unwrap_or(row.render), sample, deleted }));
        }
    }
    Ok(None)
}

pub(super) async fn list(
    store: &PgStore,
    org: OrgId,
    status: Option<Status>,
    page: &Page,
) -> Result<Vec<Render>, StoreError> {
    let mut connection = store.pool.acquire().await?;
    // Two statements: a plan for "this status or any" would serve neither.
    let query = match status {
        None => sqlx::query(select_render!(
            "WHERE org_id = $1 AND deleted_at IS NULL AND id < $2 ORDER BY id DESC LIMIT $3"
        )),
        Some(_) => sqlx::query(select_render!(
            "WHERE org_id = $1 AND deleted_at IS NULL AND id < $2 AND status = $4 ORDER BY id DESC LIMIT $3"
        )),
    };
    let query = query.bind(org.0).bind(page.before.unwrap_or(NEWEST)).bind(i64::from(page.limit));
    let query = match status {
        None => query,
        Some(status) => query.bind(status.as_str()),
    };
    let rows = query.fetch_all(&mut *connection).await?;
    let rows = rows.iter().map(columns::render).collect::<Result<_, _>>()?;
    with_artifacts(&mut connection, rows).await
}

pub(super) async fn transitions(
    store: &PgStore,
    id: RenderId,
    after_revision: i64,
) -> Result<Vec<TransitionRow>, StoreError> {
    sqlx::query(
        "SELECT revision, transition, status, reason, at FROM render_transitions
         WHERE render_id = $1 AND revision > $2 ORDER BY revision",
    )
    .bind(id.0)
    .bind(after_revision)
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::transition)
    .collect()
}

async fn lock_of_org(locks: &mut Locks, org: OrgId, id: RenderId) -> Result<Option<RenderRow>, StoreError> {
    Ok(lock(locks, [id]).await?.remove(&id).filter(|row| row.render.org == org))
}

pub(super) async fn cancel(store: &PgStore, org: OrgId, id: RenderId) -> Result<CancelOutcome, StoreError> {
    let mut locks = store.begin().await?;
    let Some(mut row) = lock_of_org(&mut locks, org, id).await? else {
        return Ok(CancelOutcome::NotFound);
    };
    let mut write = store.at_work(locks).await?;
    let mut work = write.work();
    match rules::cancel(&mut work, &mut row)? {
        Cancelled::AlreadyEnded => {
            let render = with_artifacts(&mut write.tx, vec![row]).await?.remove(0);
            Ok(CancelOutcome::AlreadyEnded(Box::new(render)))
        }
        Cancelled::Requested => {
            write.finish(work).await?;
            Ok(CancelOutcome::Requested(Box::new(row.render)))
        }
        Cancelled::Now => {
            write.finish(work).await?;
            Ok(CancelOutcome::Cancelled(Box::new(row.render)))
        }
    }
}

pub(super) async fn delete(store: &PgStore, org: OrgId, id: RenderId) -> Result<DeleteOutcome, StoreError> {
    let mut locks = store.begin().await?;
    let Some(row) = lock_of_org(&mut locks, org, id).await? else {
        return Ok(DeleteOutcome::NotFound);
    };
    if !row.render.status.is_terminal() {
        return Ok(DeleteOutcome::InUse);
    }
    let mut write = store.at_work(locks).await?;
    let renders = with_artifacts(&mut write.tx, vec![row]).await?;
    sqlx::query(
        "UPDATE renders SET deleted_at = $1, metadata = NULL, webhook = NULL, spec = spec - 'scene' WHERE id = $2",
    )
    .bind(Moment(write.now))
    .bind(id.0)
    .execute(&mut *write.tx)
    .await?;
    let artifacts = renders.into_iter().flat_map(|render| render.artifacts);
    let topics: Vec<Topic> =
        artifacts.map(|artifact| Topic::Erase { object_key: artifact.object_key }).collect();
    outbox::add(&mut write.tx, &topics, write.now).await?;
    write.notices.outbox = true;
    write.commit().await?;
    Ok(DeleteOutcome::Deleted)
}

pub(super) async fn artifact(
    store: &PgStore,
    org: OrgId,
    id: ArtifactId,
) -> Result<Option<Artifact>, StoreError> {
    sqlx::query(concat!(
        "SELECT artifacts.id, render_id, sample, object_key, sha256, content_type, width, height, bytes
         FROM artifacts JOIN renders ON renders.id = render_id
         WHERE artifacts.id = $1 AND org_id = $2 AND ",
        not_deleted!()
    ))
    .bind(id.0)
    .bind(org.0)
    .fetch_optional(&store.pool)
    .await?
    .as_ref()
    .map(columns::artifact)
    .transpose()
}
