//! Renders that nobody tells about any more: lost leases, lost job messages, too long in the queue.

use kraftr_protocol::{Credits, Failure, FailureCode, Status, Transition, limits};

use super::events::{erase_uploads, trouble};
use super::render_row::{RenderRow, advance, select_render};
use super::{PASS_MAX, SqliteStore, Write};
use crate::domain::retry::Trouble;
use crate::store::{Reaped, StoreError};

pub(super) async fn reap(store: &SqliteStore) -> Result<Reaped, StoreError> {
    let mut write = store.write().await?;
    let mut reaped = Reaped::default();
    for mut row in overdue(&mut write).await? {
        if row.render.status == Status::Dispatched {
            advance(&mut write, &mut row, Transition::Requeue, "no worker claimed it", Credits(0)).await?;
        } else {
            give_up_claim(&mut write, &mut row, Trouble::LeaseLost).await?;
        }
        let ended = row.render.status.is_terminal();
        if ended { &mut reaped.ended } else { &mut reaped.requeued }.push(row.render.id);
    }
    for mut row in waited_too_long(&mut write).await? {
        row.render.failure = Some(Failure::new(
            FailureCode::QueueTimeout,
            format!("no worker was free within {} hours", limits::QUEUE_TIME_MAX.as_secs() / 3600),
        ));
        advance(&mut write, &mut row, Transition::Expire, "waited too long", Credits(0)).await?;
        reaped.ended.push(row.render.id);
    }
    forget_workers(&mut write).await?;
    write.commit().await?;
    Ok(reaped)
}

/// Ends a claim whose worker is gone: cancelled if its owner asked for that, else it is one more trouble.
async fn give_up_claim(write: &mut Write<'_>, row: &mut RenderRow, cause: Trouble) -> Result<(), StoreError> {
    if row.render.cancel_requested_at.is_some() {
        erase_uploads(write, row).await?;
        advance(write, row, Transition::Cancel, "cancelled by its owner", Credits(0)).await
    } else {
        trouble(write, row, cause).await
    }
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
    .map(RenderRow::from_row)
    .collect()
}

async fn waited_too_long(write: &mut Write<'_>) -> Result<Vec<RenderRow>, StoreError> {
    sqlx::query(select_render!("WHERE status = 'queued' AND created_at < ? ORDER BY created_at LIMIT ?"))
        .bind(write.now.minus(limits::QUEUE_TIME_MAX).0)
        .bind(PASS_MAX)
        .fetch_all(&mut *write.tx)
        .await?
        .iter()
        .map(RenderRow::from_row)
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
    for row in &rows {
        let mut row = RenderRow::from_row(row)?;
        if row.render.status == Status::Dispatched {
            advance(&mut write, &mut row, Transition::Requeue, "the fleet was restarted", Credits(0)).await?;
        } else {
            give_up_claim(&mut write, &mut row, Trouble::HandedBack).await?;
        }
    }
    sqlx::query("DELETE FROM workers").execute(&mut *write.tx).await?;
    // Whoever reserved these died with the last process: their callers try again now, not when the lease ends.
    sqlx::query("DELETE FROM idempotency_keys WHERE resource_kind IS NULL").execute(&mut *write.tx).await?;
    write.commit().await?;
    Ok(rows.len() as u32)
}
