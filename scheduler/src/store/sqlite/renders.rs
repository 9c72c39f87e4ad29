//! Submitting, reading, cancelling and deleting renders.

use std::collections::btree_map::Entry;

use kraftr_protocol::{ArtifactId, AssetId, OrgId, RenderId, Status, WatermarkRef, limits};
use sqlx::SqliteConnection;

use super::{SqliteStore, Write, assets, columns, corrupt, dispatch, idempotency, leader, ledger, outbox};
use crate::store::rules::{self, Cancelled, Facts};
use crate::store::work::RenderRow;
use crate::store::{
    Artifact, AtOnce, CancelOutcome, DeleteOutcome, NewRender, Page, Render, StoreError, SubmitError, Topic,
    Traced, TransitionRow,
};

pub(super) async fn submit(
    store: &SqliteStore,
    renders: &[NewRender],
    at_once: Option<AtOnce<'_>>,
) -> Result<Vec<Result<Render, SubmitError>>, StoreError> {
    let mut write = store.write().await?;
    let mut facts = facts(&mut write, renders).await?;
    if let Some(AtOnce { term, .. }) = &at_once
        && leader::lasts(&mut write, *term).await?
    {
        facts.open = dispatch::open_places(&mut write).await?;
    }
    let mut work = write.work();
    let outcomes =
        renders.iter().map(|new| rules::submit(&mut work, new, &mut facts)).collect::<Result<_, _>>()?;
    if let Some(at_once) = at_once {
        at_once.go_ahead(&mut work);
    }
    write.finish(work).await?;
    Ok(outcomes)
}

/// What the submissions are judged by.
pub(super) async fn facts(write: &mut Write<'_>, renders: &[NewRender]) -> Result<Facts, StoreError> {
    let mut facts = Facts::default();
    for new in renders {
        if let Some(ticket) = &new.ticket
            && idempotency::holds(write, ticket).await?
        {
            facts.tickets.insert((ticket.org, ticket.key.clone(), ticket.token));
        }
        for asset in [new.person, new.garment] {
            if !facts.assets.contains(&(new.org, asset))
                && assets::live(&mut write.tx, new.org, asset).await?.is_some()
            {
                facts.assets.insert((new.org, asset));
            }
        }
        if let Entry::Vacant(available) = facts.available.entry(new.org) {
            available.insert(ledger::balance_of(&mut write.tx, new.org).await?.available());
        }
    }
    Ok(facts)
}

macro_rules! select_render {
    ($rest:expr) => {
        concat!(
            "SELECT id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id, price,
                estimate_ms, device_ms, attempt, epoch, worker_id, lease_until, not_before, failures, crashes,
                lost_leases, failure, cancel_requested_at, cancelled_at_step, watermark, webhook, metadata, created_at,
                started_at, finished_at
             FROM renders ",
            $rest
        )
    };
}
pub(super) use select_render;

/// The render of that id, if there is one that is not deleted.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    id: RenderId,
) -> Result<Option<RenderRow>, StoreError> {
    sqlx::query(select_render!("WHERE id = ? AND deleted_at IS NULL"))
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(columns::render)
        .transpose()
}

/// Fills in what the render delivered.
async fn with_artifacts(connection: &mut SqliteConnection, row: RenderRow) -> Result<Render, StoreError> {
    let mut render = row.render;
    if render.status == Status::Succeeded {
        render.artifacts = sqlx::query(
            "SELECT id, render_id, sample, object_key, sha256, content_type, width, height, bytes FROM artifacts
             WHERE render_id = ? ORDER BY sample",
        )
        .bind(render.id.0)
        .fetch_all(connection)
        .await?
        .iter()
        .map(columns::artifact)
        .collect::<Result<_, _>>()?;
    }
    Ok(render)
}

async fn load_of_org(
    connection: &mut SqliteConnection,
    org: OrgId,
    id: RenderId,
) -> Result<Option<RenderRow>, StoreError> {
    Ok(load(connection, id).await?.filter(|row| row.render.org == org))
}

pub(super) async fn get(store: &SqliteStore, org: OrgId, id: RenderId) -> Result<Option<Render>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    match load_of_org(&mut connection, org, id).await? {
        Some(row) => with_artifacts(&mut connection, row).await.map(Some),
        None => Ok(None),
    }
}

/// Not only the reference itself is looked for, but those that are up to three images away.
pub(super) async fn trace(store: &SqliteStore, mark: WatermarkRef) -> Result<Option<Traced>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    for sample in 0..limits::SAMPLES_MAX {
        let found = sqlx::query(select_render!("WHERE watermark = ?"))
            .bind(&mark.less_sample(sample).0[..])
            .fetch_optional(&mut *connection)
            .await?;
        let Some(row) = found.as_ref().map(columns::render).transpose()? else { continue };
        if sample < row.render.spec.samples {
            let deleted = load(&mut connection, row.render.id).await?.is_none();
            let render = if deleted { row.render } else { with_artifacts(&mut connection, row).await? };
            return Ok(Some(Traced { render, sample, deleted }));
        }
    }
    Ok(None)
}

pub(super) async fn list(
    store: &SqliteStore,
    org: OrgId,
    status: Option<Status>,
    page: &Page,
) -> Result<Vec<Render>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    let rows = sqlx::query(select_render!(
        "WHERE org_id = ?1 AND deleted_at IS NULL AND (?2 IS NULL OR status = ?2) AND (?3 IS NULL OR id < ?3)
         ORDER BY id DESC LIMIT ?4"
    ))
    .bind(org.0)
    .bind(status.map(Status::as_str))
    .bind(page.before)
    .bind(page.limit)
    .fetch_all(&mut *connection)
    .await?;
    let mut renders = Vec::with_capacity(rows.len());
    for row in &rows {
        renders.push(with_artifacts(&mut connection, columns::render(row)?).await?);
    }
    Ok(renders)
}

pub(super) async fn transitions(
    store: &SqliteStore,
    id: RenderId,
    after_revision: i64,
) -> Result<Vec<TransitionRow>, StoreError> {
    sqlx::query(
        "SELECT revision, transition, status, reason, at FROM render_transitions
         WHERE render_id = ? AND revision > ? ORDER BY revision",
    )
    .bind(id.0)
    .bind(after_revision)
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(columns::transition)
    .collect()
}

pub(super) async fn cancel(
    store: &SqliteStore,
    org: OrgId,
    id: RenderId,
) -> Result<CancelOutcome, StoreError> {
    let mut write = store.write().await?;
    let Some(mut row) = load_of_org(&mut write.tx, org, id).await? else {
        return Ok(CancelOutcome::NotFound);
    };
    let mut work = write.work();
    match rules::cancel(&mut work, &mut row)? {
        Cancelled::AlreadyEnded => {
            let render = with_artifacts(&mut write.tx, row).await?;
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

pub(super) async fn delete(
    store: &SqliteStore,
    org: OrgId,
    id: RenderId,
) -> Result<DeleteOutcome, StoreError> {
    let mut write = store.write().await?;
    let Some(row) = load_of_org(&mut write.tx, org, id).await? else {
        return Ok(DeleteOutcome::NotFound);
    };
    if !row.render.status.is_terminal() {
        return Ok(DeleteOutcome::InUse);
    }
    let render = with_artifacts(&mut write.tx, row).await?;
    sqlx::query(
        "UPDATE renders SET deleted_at = ?, metadata = NULL, webhook = NULL, spec = json_remove(spec, '$.scene')
         WHERE id = ?",
    )
    .bind(write.now.0)
    .bind(id.0)
    .execute(&mut *write.tx)
    .await?;
    for artifact in render.artifacts {
        outbox::add(&mut write, &Topic::Erase { object_key: artifact.object_key }).await?;
    }
    write.commit().await?;
    Ok(DeleteOutcome::Deleted)
}

pub(super) async fn artifact(
    store: &SqliteStore,
    org: OrgId,
    id: ArtifactId,
) -> Result<Option<Artifact>, StoreError> {
    sqlx::query(
        "SELECT artifacts.id, render_id, sample, object_key, sha256, content_type, width, height, bytes
         FROM artifacts JOIN renders ON renders.id = render_id
         WHERE artifacts.id = ? AND org_id = ? AND deleted_at IS NULL",
    )
    .bind(id.0)
    .bind(org.0)
    .fetch_optional(&store.reader)
    .await?
    .as_ref()
    .map(columns::artifact)
    .transpose()
}

/// Assets that a claim needs; kept even when they were deleted meanwhile, since deletion is refused
/// while a live render needs them.
pub(super) async fn input(
    connection: &mut SqliteConnection,
    org: OrgId,
    id: AssetId,
) -> Result<crate::store::Asset, StoreError> {
    assets::live(connection, org, id)
        .await?
        .ok_or_else(|| corrupt(format_args!("{id} was deleted under a live render")))
}
