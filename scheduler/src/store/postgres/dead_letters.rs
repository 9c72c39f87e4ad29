//! Renders that took workers down, until somebody decides about them.

use kraftr_protocol::{RenderId, Timestamp};
use sqlx::{PgConnection, Row as _};

use super::columns::{self, Moment};
use super::renders::{self, select_render};
use super::{NEWEST, PgStore, Write, flush};
use crate::store::notices::Notices;
use crate::store::{DeadLetter, DiscardOutcome, Page, Render, ReplayOutcome, Resolution, StoreError, rules};

pub(super) async fn list(store: &PgStore, page: &Page) -> Result<Vec<Render>, StoreError> {
    sqlx::query(select_render!(
        "WHERE deleted_at IS NULL AND id IN (
             SELECT render_id FROM dead_letters WHERE resolved_at IS NULL AND render_id < $1)
         ORDER BY id DESC LIMIT $2"
    ))
    .bind(page.before.unwrap_or(NEWEST))
    .bind(i64::from(page.limit))
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(|row| columns::render(row).map(|row| row.render))
    .collect()
}

/// Locks the dead letter of that render, if there is one; what was decided about it.
async fn lock(
    connection: &mut PgConnection,
    render: RenderId,
) -> Result<Option<Option<Resolution>>, StoreError> {
    let row = sqlx::query("SELECT resolved_at, replay_id FROM dead_letters WHERE render_id = $1 FOR UPDATE")
        .bind(render.0)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let replay = row.try_get::<Option<_>, _>("replay_id")?.map(RenderId);
    let at: Option<Moment> = row.try_get("resolved_at")?;
    Ok(Some(at.map(|at| Resolution { at: Timestamp::from(at), replay })))
}

pub(super) async fn get(store: &PgStore, render: RenderId) -> Result<Option<DeadLetter>, StoreError> {
    let mut locks = store.begin().await?;
    let Some(resolution) = lock(&mut locks.tx, render).await? else { return Ok(None) };
    let row = renders::lock(&mut locks, [render]).await?.remove(&render);
    Ok(row.map(|row| DeadLetter { render: row.render, resolution }))
}

pub(super) async fn replay(store: &PgStore, render: RenderId) -> Result<ReplayOutcome, StoreError> {
    let mut locks = store.begin().await?;
    match lock(&mut locks.tx, render).await? {
        None => return Ok(ReplayOutcome::NotFound),
        Some(Some(resolution)) => return Ok(ReplayOutcome::AlreadyResolved(resolution)),
        Some(None) => {}
    }
    let row = renders::lock(&mut locks, [render]).await?.remove(&render);
    let Some(row) = row else { return Ok(ReplayOutcome::NotFound) };
    let new = rules::again(&row);
    let mut facts = renders::facts(&mut locks, std::slice::from_ref(&new)).await?;
    let mut write = store.at_work(locks).await?;
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

pub(super) async fn discard(store: &PgStore, render: RenderId) -> Result<DiscardOutcome, StoreError> {
    let mut locks = store.begin().await?;
    match lock(&mut locks.tx, render).await? {
        None => return Ok(DiscardOutcome::NotFound),
        Some(Some(resolution)) => return Ok(DiscardOutcome::AlreadyResolved(resolution)),
        Some(None) => {}
    }
    let mut write = store.at_work(locks).await?;
    resolve(&mut write, render, None).await?;
    write.commit().await?;
    Ok(DiscardOutcome::Discarded)
}

async fn resolve(
    write: &mut Write<'_>,
    render: RenderId,
    replay: Option<RenderId>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE dead_letters SET resolved_at = $1, replay_id = $2 WHERE render_id = $3")
        .bind(Moment(write.now))
        .bind(replay.map(|replay| replay.0))
        .bind(render.0)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}
