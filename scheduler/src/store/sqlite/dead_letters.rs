//! Renders that took workers down, until somebody decides about them.

use kraftr_protocol::{RenderId, Timestamp};
use sqlx::{Row as _, SqliteConnection};

use super::renders::{self, select_render};
use super::{SqliteStore, Write, columns, flush};
use crate::store::notices::Notices;
use crate::store::{DeadLetter, DiscardOutcome, Page, Render, ReplayOutcome, Resolution, StoreError, rules};

/// Adds a dead letter to this transaction.
pub(super) async fn insert(write: &mut Write<'_>, render: RenderId) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO dead_letters (render_id) VALUES (?)")
        .bind(render.0)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}

pub(super) async fn list(store: &SqliteStore, page: &Page) -> Result<Vec<Render>, StoreError> {
    sqlx::query(select_render!(
        "WHERE deleted_at IS NULL AND id IN (SELECT render_id FROM dead_letters WHERE resolved_at IS NULL)
             AND (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"
    ))
    .bind(page.before)
    .bind(page.limit)
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(|row| columns::render(row).map(|row| row.render))
    .collect()
}

/// What was decided about the dead letter of that render, if there is one.
async fn resolution(
    connection: &mut SqliteConnection,
    render: RenderId,
) -> Result<Option<Option<Resolution>>, StoreError> {
    let row = sqlx::query("SELECT resolved_at, replay_id FROM dead_letters WHERE render_id = ?")
        .bind(render.0)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let replay = row.try_get::<Option<_>, _>("replay_id")?.map(RenderId);
    let at: Option<i64> = row.try_get("resolved_at")?;
    Ok(Some(at.map(|at| Resolution { at: Timestamp(at), replay })))
}

pub(super) async fn get(store: &SqliteStore, render: RenderId) -> Result<Option<DeadLetter>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    let Some(resolution) = resolution(&mut connection, render).await? else { return Ok(None) };
    let row = renders::load(&mut connection, render).await?;
    Ok(row.map(|row| DeadLetter { render: row.render, resolution }))
}

pub(super) async fn replay(store: &SqliteStore, render: RenderId) -> Result<ReplayOutcome, StoreError> {
    let mut write = store.write().await?;
    match resolution(&mut write.tx, render).await? {
        None => return Ok(ReplayOutcome::NotFound),
        Some(Some(resolution)) => return Ok(ReplayOutcome::AlreadyResolved(resolution)),
        Some(None) => {}
    }
    let Some(row) = renders::load(&mut write.tx, render).await? else { return Ok(ReplayOutcome::NotFound) };
    let new = rules::again(&row);
    let mut facts = renders::facts(&mut write, std::slice::from_ref(&new)).await?;
    let mut work = write.work();
    let submitted = match rules::submit(&mut work, &new, &mut facts)? {
        Ok(submitted) => submitted,
        Err(refused) => return Ok(ReplayOutcome::Refused(refused)),
    };
    write.notices = Notices::of(&work);
    flush::flush(&mut write, work).await?;
    resolve(&mut write, render, Some(submitted.id)).await?;
    write.commit().await?;
    Ok(ReplayOutcome::Replayed(Box::new(submitted)))
}

pub(super) async fn discard(store: &SqliteStore, render: RenderId) -> Result<DiscardOutcome, StoreError> {
    let mut write = store.write().await?;
    match resolution(&mut write.tx, render).await? {
        None => return Ok(DiscardOutcome::NotFound),
        Some(Some(resolution)) => return Ok(DiscardOutcome::AlreadyResolved(resolution)),
        Some(None) => {}
    }
    resolve(&mut write, render, None).await?;
    write.commit().await?;
    Ok(DiscardOutcome::Discarded)
}

async fn resolve(
    write: &mut Write<'_>,
    render: RenderId,
    replay: Option<RenderId>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE dead_letters SET resolved_at = ?, replay_id = ? WHERE render_id = ?")
        .bind(write.now.0)
        .bind(replay.map(|replay| replay.0))
        .bind(render.0)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}
