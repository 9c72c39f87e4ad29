//! Submitting, reading, cancelling and deleting renders.

use kraftr_protocol::{
    ArtifactId, AssetId, Credits, Epoch, OrgId, RenderId, Status, Timestamp, Transition, WatermarkRef,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::render_row::{self, RenderRow, advance, select_render};
use super::{SqliteStore, Write, assets, corrupt, digest, idempotency, ledger, number, outbox};
use crate::domain::ledger::{self as postings, EntryKind};
use crate::domain::retry::Blame;
use crate::store::{
    Artifact, CancelOutcome, DeleteOutcome, NewRender, Page, Render, Resource, StoreError, SubmitError,
    Topic, TransitionRow,
};

pub(super) async fn submit(
    store: &SqliteStore,
    renders: &[NewRender],
) -> Result<Vec<Result<Render, SubmitError>>, StoreError> {
    let mut write = store.write().await?;
    let mut outcomes = Vec::with_capacity(renders.len());
    for new in renders {
        outcomes.push(submit_one(&mut write, new).await?);
    }
    write.commit().await?;
    Ok(outcomes)
}

async fn submit_one(
    write: &mut Write<'_>,
    new: &NewRender,
) -> Result<Result<Render, SubmitError>, StoreError> {
    if let Err(refusal) = check(write, new).await? {
        return Ok(Err(refusal));
    }
    let mut watermark = [0; 8];
    write.store.ids.fill(&mut watermark);
    let row = RenderRow {
        render: Render {
            id: RenderId(write.id()),
            org: new.org,
            status: Status::Queued,
            revision: 1,
            model: new.model.clone(),
            spec: new.spec.clone(),
            class: new.class,
            person: new.person,
            garment: new.garment,
            price: new.price,
            attempts: 0,
            epoch: Epoch(0),
            failure: None,
            cancel_requested_at: None,
            cancelled_at_step: None,
            watermark: WatermarkRef(watermark),
            webhook: new.webhook.clone(),
            metadata: new.metadata.clone(),
            artifacts: Vec::new(),
            created_at: write.now,
            started_at: None,
            finished_at: None,
        },
        pool: new.pool.clone(),
        worker: None,
        not_before: write.now,
        blame: Blame::default(),
        device_ms: None,
    };
    insert(write, &row, new).await?;
    render_row::record(write, &row, None, "submitted").await?;
    let entries = postings::hold(new.org, new.price);
    ledger::post(write, EntryKind::Hold, ledger::Cause::Render(row.render.id), new.price, entries).await?;
    if let Some(ticket) = &new.ticket
        && !idempotency::complete(write, ticket, Resource::Render(row.render.id)).await?
    {
        return Err(corrupt("a reservation vanished under its own lock"));
    }
    Ok(Ok(row.render))
}

/// Everything that may refuse a submission, before anything is written.
async fn check(write: &mut Write<'_>, new: &NewRender) -> Result<Result<(), SubmitError>, StoreError> {
    if let Some(ticket) = &new.ticket
        && !idempotency::holds(write, ticket).await?
    {
        return Ok(Err(SubmitError::TicketLost));
    }
    for asset in [new.person, new.garment] {
        if assets::live(&mut write.tx, new.org, asset).await?.is_none() {
            return Ok(Err(SubmitError::AssetGone(asset)));
        }
    }
    let available = ledger::balance_of(&mut write.tx, new.org).await?.available();
    if available < new.price {
        return Ok(Err(SubmitError::InsufficientCredits { available, price: new.price }));
    }
    Ok(Ok(()))
}

async fn insert(write: &mut Write<'_>, row: &RenderRow, new: &NewRender) -> Result<(), StoreError> {
    let render = &row.render;
    let spec = serde_json::to_string(&render.spec).map_err(corrupt)?;
    let metadata = render.metadata.as_ref().map(ToString::to_string);
    sqlx::query(
        "INSERT INTO renders (id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id,
            price, estimate_ms, not_before, watermark, webhook, metadata, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(render.id.0)
    .bind(render.org.0)
    .bind(render.status.as_str())
    .bind(render.revision)
    .bind(&render.model)
    .bind(spec)
    .bind(&row.pool)
    .bind(&render.spec.release)
    .bind(render.class.as_str())
    .bind(render.person.0)
    .bind(render.garment.0)
    .bind(render.price.0)
    .bind(new.estimate.0 as i64)
    .bind(row.not_before.0)
    .bind(&render.watermark.0[..])
    .bind(&render.webhook)
    .bind(metadata)
    .bind(render.created_at.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

fn artifact_from(row: &SqliteRow) -> Result<Artifact, StoreError> {
    Ok(Artifact {
        id: ArtifactId(row.try_get("id")?),
        render: RenderId(row.try_get("render_id")?),
        sample: number(row.try_get("sample")?, "sample")?,
        object_key: row.try_get("object_key")?,
        sha256: digest(row.try_get("sha256")?)?,
        content_type: row.try_get("content_type")?,
        width: number(row.try_get("width")?, "width")?,
        height: number(row.try_get("height")?, "height")?,
        bytes: number(row.try_get("bytes")?, "bytes")?,
    })
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
        .map(artifact_from)
        .collect::<Result<_, _>>()?;
    }
    Ok(render)
}

async fn load_of_org(
    connection: &mut SqliteConnection,
    org: OrgId,
    id: RenderId,
) -> Result<Option<RenderRow>, StoreError> {
    Ok(render_row::load(connection, id).await?.filter(|row| row.render.org == org))
}

pub(super) async fn get(store: &SqliteStore, org: OrgId, id: RenderId) -> Result<Option<Render>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    match load_of_org(&mut connection, org, id).await? {
        Some(row) => with_artifacts(&mut connection, row).await.map(Some),
        None => Ok(None),
    }
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
        renders.push(with_artifacts(&mut connection, RenderRow::from_row(row)?).await?);
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
    .map(|row| {
        let status: &str = row.try_get("status")?;
        let word: Option<&str> = row.try_get("transition")?;
        Ok(TransitionRow {
            revision: row.try_get("revision")?,
            transition: word.map(transition_named).transpose()?,
            status: Status::parse(status).ok_or_else(|| corrupt(format_args!("status {status}")))?,
            reason: row.try_get("reason")?,
            at: Timestamp(row.try_get("at")?),
        })
    })
    .collect()
}

fn transition_named(word: &str) -> Result<Transition, StoreError> {
    Transition::ALL
        .into_iter()
        .find(|transition| format!("{transition:?}").to_lowercase() == word)
        .ok_or_else(|| corrupt(format_args!("transition {word}")))
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
    match row.render.status {
        status if status.is_terminal() => {
            let render = with_artifacts(&mut write.tx, row).await?;
            Ok(CancelOutcome::AlreadyEnded(Box::new(render)))
        }
        Status::Running => {
            if row.render.cancel_requested_at.is_none() {
                request_cancel(&mut write, &mut row).await?;
            }
            write.commit().await?;
            Ok(CancelOutcome::Requested(Box::new(row.render)))
        }
        _ => {
            request_cancel(&mut write, &mut row).await?;
            row.render.cancelled_at_step = Some(0);
            advance(&mut write, &mut row, Transition::Cancel, "cancelled by its owner", Credits(0)).await?;
            write.commit().await?;
            Ok(CancelOutcome::Cancelled(Box::new(row.render)))
        }
    }
}

async fn request_cancel(write: &mut Write<'_>, row: &mut RenderRow) -> Result<(), StoreError> {
    row.render.cancel_requested_at = Some(write.now);
    sqlx::query("UPDATE renders SET cancel_requested_at = ? WHERE id = ?")
        .bind(write.now.0)
        .bind(row.render.id.0)
        .execute(&mut *write.tx)
        .await?;
    outbox::add(write, &Topic::Cancel { render: row.render.id }).await
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
    sqlx::query("UPDATE renders SET deleted_at = ?, metadata = NULL, webhook = NULL WHERE id = ?")
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
    .map(artifact_from)
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
