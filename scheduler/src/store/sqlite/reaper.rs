//! Renders that nobody tells about any more: lost leases, lost job messages, too long in the queue.

use kraftr_protocol::limits;

use super::renders::select_render;
use super::{PASS_MAX, SqliteStore, Write, columns};
use crate::store::work::RenderRow;
use crate::store::{Reaped, StoreError, rules};

pub(super) async fn reap(store: &SqliteStore) -> Result<Reaped, StoreError> {
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
    forget_workers(&mut write).await?;
    write.finish(work).await?;
    Ok(reaped)
}

async fn overdue(write: &mut Write<'_>) -> Result<Vec<RenderRow>, StoreError> {
    sqlx::query(select_render!(
        "WHERE status IN ('dispatched', 'running') AND lease_until < ? ORDER BY lease_until LIMIT ?"
    ))
    .bind(write.now.0)
    .bind(PASS_MAX)
    .fetch_all(&mut *write.tx)
    .await?
    .iter()
    .map(columns::render)
    .collect()
}

async fn waited_too_long(write: &mut Write<'_>) -> Result<Vec<RenderRow>, StoreError> {
    sqlx::query(select_render!("WHERE status = 'queued' AND created_at < ? ORDER BY created_at LIMIT ?"))
        .bind(write.now.minus(limits::QUEUE_TIME_MAX).0)
        .bind(PASS_MAX)
        .fetch_all(&mut *write.tx)
        .await?
        .iter()
        .map(columns::render)
        .collect()
}

async fn forget_workers(write: &mut Write<'_>) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM workers WHERE seen_at < ?")
        .bind(write.now.minus(limits::WORKER_PRESENCE * 4).0)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}

pub(super) async fn requeue_in_flight(store: &SqliteStore) -> Result<u32, StoreError> {
    let mut write = store.write().await?;
    let rows = sqlx::query(select_render!("WHERE status IN ('dispatched', 'running')"))
        .fetch_all(&mut *write.tx)
        .await?;
    let mut work = write.work();
    for row in &rows {
        rules::restart(&mut work, &mut columns::render(row)?)?;
    }
    sqlx::query("UPDATE leader SET replica = NULL, lease_until = 0").execute(&mut *write.tx).await?;
    sqlx::query("DELETE FROM workers").execute(&mut *write.tx).await?;
    // Whoever reserved these died with the last process: their callers try again now, not when the lease ends.
    sqlx::query("DELETE FROM idempotency_keys WHERE resource_kind IS NULL").execute(&mut *write.tx).await?;
    write.finish(work).await?;
    Ok(rows.len() as u32)
}
