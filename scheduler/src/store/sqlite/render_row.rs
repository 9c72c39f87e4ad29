//! A render's row and the one way in which it changes: [`advance`].

use kraftr_protocol::{
    AssetId, Class, Credits, Epoch, OrgId, RenderId, Status, Timestamp, Transition, WatermarkRef, WorkerId,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Write, corrupt, ledger, number, outbox};
use crate::domain::lease;
use crate::domain::ledger::{self as postings, EntryKind};
use crate::domain::retry::Blame;
use crate::store::{Render, StoreError, Topic};

macro_rules! select_render {
    ($rest:expr) => {
        concat!(
            "SELECT id, org_id, status, revision, model, spec, pool, release, class, person_id, garment_id, price,
                device_ms, attempt, epoch, worker_id, not_before, failures, crashes, lost_leases, failure,
                cancel_requested_at, cancelled_at_step, watermark, webhook, metadata, created_at, started_at,
                finished_at
             FROM renders ",
            $rest
        )
    };
}
pub(super) use select_render;

/// A render with what only the store needs.
#[derive(Debug, Clone)]
pub(super) struct RenderRow {
    pub(super) render: Render,
    pub(super) pool: String,
    pub(super) worker: Option<WorkerId>,
    pub(super) not_before: Timestamp,
    pub(super) blame: Blame,
    pub(super) device_ms: Option<i64>,
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(corrupt)
}

fn maybe_json<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(json).transpose()
}

impl RenderRow {
    /// Reads a row; `artifacts` stay empty.
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let status: &str = row.try_get("status")?;
        let class: &str = row.try_get("class")?;
        let watermark: &[u8] = row.try_get("watermark")?;
        let moment = |column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(Timestamp));
        let step: Option<i64> = row.try_get("cancelled_at_step")?;
        Ok(Self {
            render: Render {
                id: RenderId(row.try_get("id")?),
                org: OrgId(row.try_get("org_id")?),
                status: Status::parse(status).ok_or_else(|| corrupt(format_args!("status {status}")))?,
                revision: row.try_get("revision")?,
                model: row.try_get("model")?,
                spec: json(row.try_get("spec")?)?,
                class: Class::ALL
                    .into_iter()
                    .find(|known| known.as_str() == class)
                    .ok_or_else(|| corrupt(format_args!("class {class}")))?,
                person: AssetId(row.try_get("person_id")?),
                garment: AssetId(row.try_get("garment_id")?),
                price: Credits(row.try_get("price")?),
                attempts: number(row.try_get("attempt")?, "attempt")?,
                epoch: Epoch(row.try_get("epoch")?),
                failure: maybe_json(row.try_get("failure")?)?,
                cancel_requested_at: moment("cancel_requested_at")?,
                cancelled_at_step: step.map(|step| number(step, "cancelled_at_step")).transpose()?,
                watermark: WatermarkRef(watermark.try_into().map_err(corrupt)?),
                webhook: row.try_get("webhook")?,
                metadata: maybe_json(row.try_get("metadata")?)?,
                artifacts: Vec::new(),
                created_at: Timestamp(row.try_get("created_at")?),
                started_at: moment("started_at")?,
                finished_at: moment("finished_at")?,
            },
            pool: row.try_get("pool")?,
            worker: row.try_get::<Option<_>, _>("worker_id")?.map(WorkerId),
            not_before: Timestamp(row.try_get("not_before")?),
            blame: Blame {
                failures: number(row.try_get("failures")?, "failures")?,
                crashes: number(row.try_get("crashes")?, "crashes")?,
                lost_leases: number(row.try_get("lost_leases")?, "lost_leases")?,
            },
            device_ms: row.try_get("device_ms")?,
        })
    }

    /// True while a claim of that epoch holds.
    pub(super) fn held_at(&self, epoch: Epoch) -> bool {
        self.render.status == Status::Running && self.render.epoch == epoch
    }
}

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
        .map(RenderRow::from_row)
        .transpose()
}

const UPDATE: &str = "UPDATE renders SET
    status = ?, revision = ?, attempt = ?, epoch = ?, worker_id = ?, lease_until = ?, not_before = ?, failures = ?,
    crashes = ?, lost_leases = ?, failure = ?, cancelled_at_step = ?, device_ms = ?, started_at = ?, finished_at = ?
    WHERE id = ? AND revision = ? AND status = ?";

/// Moves a render by `transition` and writes everything that follows from it: the lease, the row of its
/// history, the settlement of its hold when it ends (`charged` is what it is charged then), and the
/// outbox row that tells whoever watches. The caller has set what is particular to the happening.
pub(super) async fn advance(
    write: &mut Write<'_>,
    row: &mut RenderRow,
    transition: Transition,
    reason: &str,
    charged: Credits,
) -> Result<(), StoreError> {
    let before = (row.render.status, row.render.revision);
    let status = transition.apply(before.0).ok_or_else(|| {
        corrupt(format_args!("{transition:?} of {} that is {}", row.render.id, before.0.as_str()))
    })?;
    row.render.status = status;
    row.render.revision += 1;
    if status != Status::Running {
        row.worker = None;
    }
    if status.is_terminal() {
        row.render.finished_at = Some(write.now);
    }
    update(write, row, before).await?;
    record(write, row, Some(transition), reason).await?;
    if status.is_terminal() {
        settle(write, &row.render, charged).await?;
    }
    outbox::add(write, &Topic::Changed { render: row.render.id }).await
}

async fn update(write: &mut Write<'_>, row: &RenderRow, before: (Status, i64)) -> Result<(), StoreError> {
    let render = &row.render;
    let failure = render.failure.as_ref().map(serde_json::to_string).transpose().map_err(corrupt)?;
    let changed = sqlx::query(UPDATE)
        .bind(render.status.as_str())
        .bind(render.revision)
        .bind(render.attempts)
        .bind(render.epoch.0)
        .bind(row.worker.map(|worker| worker.0))
        .bind(lease::lease_until(render.status, write.now).map(|until| until.0))
        .bind(row.not_before.0)
        .bind(row.blame.failures)
        .bind(row.blame.crashes)
        .bind(row.blame.lost_leases)
        .bind(failure)
        .bind(render.cancelled_at_step)
        .bind(row.device_ms)
        .bind(render.started_at.map(|at| at.0))
        .bind(render.finished_at.map(|at| at.0))
        .bind(render.id.0)
        .bind(before.1)
        .bind(before.0.as_str())
        .execute(&mut *write.tx)
        .await?
        .rows_affected();
    if changed == 1 { Ok(()) } else { Err(corrupt(format_args!("{} changed under its own lock", render.id))) }
}

/// Writes a line of the render's history.
pub(super) async fn record(
    write: &mut Write<'_>,
    row: &RenderRow,
    transition: Option<Transition>,
    reason: &str,
) -> Result<(), StoreError> {
    let word = transition.map(|transition| format!("{transition:?}").to_lowercase());
    sqlx::query(
        "INSERT INTO render_transitions (render_id, revision, transition, status, reason, attempt, epoch, at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.render.id.0)
    .bind(row.render.revision)
    .bind(word)
    .bind(row.render.status.as_str())
    .bind(reason)
    .bind(row.render.attempts)
    .bind(row.render.epoch.0)
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

async fn settle(write: &mut Write<'_>, render: &Render, charged: Credits) -> Result<(), StoreError> {
    let cause = ledger::Cause::Render(render.id);
    if render.status == Status::Succeeded {
        let entries = postings::capture(render.org, render.price, charged);
        ledger::post(write, EntryKind::Capture, cause, charged, entries).await
    } else {
        let entries = postings::void(render.org, render.price);
        ledger::post(write, EntryKind::Void, cause, render.price, entries).await
    }
}
