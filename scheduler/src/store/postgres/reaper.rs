//! Renders that nobody tells about any more: lost leases, lost job messages, too long in the queue.

use kraftr_protocol::limits;

use super::columns::{self, Moment};
use super::renders::select_render;
use super::{PASS_MAX, PgStore, Write};
use crate::store::work::RenderRow;
use crate::store::{Reaped, StoreError, rules};

pub(super) async fn reap(store: &PgStore) -> Result<Reaped, StoreError> {
    let mut write = store.write().await?;
    let mut work = write.work();
    let mut reaped = Reaped::default();
    for mut row in overdue(&mut write).await? {
        rules::reclaim(&mut work, &mut row)?;
        let ended = row.render.status.is_terminal();
        if ended { &mut reaped.ended } else { &mut reaped.requeued }.push(row.render.id);
    }
    for mut row in waited_too_long(&mut write).await? {
        rules::expire(&mut work, &mut row)?;
        reaped.ended.push(row.render.id);
    }
    sqlx::query("DELETE FROM workers WHERE seen_at < $1")
        .bind(Moment(write.now.minus(limits::WORKER_PRESENCE * 4)))
        .execute(&mut *write.tx)
        .await?;
    write.finish(work).await?;
    Ok(reaped)
}

/// What somebody has locked is not lost: it is looked at in the next pass.
async fn overdue(write: &mut Write<'_>) -> Result<Vec<RenderRow>, StoreError> {
    sqlx::query(select_render!(
        "WHERE status IN ('dispatched', 'running') AND lease_until < $1 ORDER BY lease_until LIMIT $2
         FOR NO KEY UPDATE SKIP LOCKED"
    ))
    .bind(Moment(write.now))
    .bind(i64::from(PASS_MAX))
    .fetch_all(&mut *write.tx)
    .await?
    .iter()
    .map(columns::render)
    .collect()
}

async fn waited_too_long(write: &mut Write<'_>) -> Result<Vec<RenderRow>, StoreError> {
    sqlx::query(select_render!(
        "WHERE status = 'queued' AND created_at < $1 ORDER BY created_at LIMIT $2
         FOR NO KEY UPDATE SKIP LOCKED"
    ))
    .bind(Moment(write.now.minus(limits::QUEUE_TIME_MAX)))
    .bind(i64::from(PASS_MAX))
    .fetch_all(&mut *write.tx)
    .await?
    .iter()
    .map(columns::render)
    .collect()
}

pub(super) async fn requeue_in_flight(store: &PgStore) -> Result<u32, StoreError> {
    let mut locks = store.begin().await?;
    let rows = sqlx::query(select_render!(
        "WHERE status IN ('dispatched', 'running') ORDER BY id FOR NO KEY UPDATE"
    ))
    .fetch_all(&mut *locks.tx)
    .await?;
    let mut write = store.at_work(locks).await?;
    let mut work = write.work();
    for row in &rows {
        rules::restart(&mut work, &mut columns::render(row)?)?;
    }
    sqlx::query("UPDATE leader SET replica = NULL, lease_until = 'epoch'").execute(&mut *write.tx).await?;
    sqlx::query("DELETE FROM workers").execute(&mut *write.tx).await?;
    // Whoever reserved these died with the last process: their callers try again now, not when the lease ends.
    sqlx::query("DELETE FROM idempotency_keys WHERE resource_kind IS NULL").execute(&mut *write.tx).await?;
    write.finish(work).await?;
    Ok(rows.len() as u32)
}
