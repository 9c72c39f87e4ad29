//! A unit of work: what one transaction decided, collected in memory and then written by the database at
//! hand.
//!
//! A store loads and locks rows, [`rules`](super::rules) decide on them without knowing which database
//! they came from, and the store writes the unit: row by row where a call is cheap (SQLite), column by
//! column where a round trip is not (PostgreSQL).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kraftr_protocol::{
    ArtifactReport, Credits, Epoch, GpuMillis, Ids, Lane, OrgId, RenderId, Status, Timestamp, Transition,
    WorkerId,
};
use uuid::Uuid;

use super::rows::{Render, Topic};
use super::{Resource, StoreError, Ticket};
use crate::domain::lease;
use crate::domain::ledger::{self as postings, Account, EntryKind, Postings};
use crate::domain::retry::Blame;

/// The id source of one store: ids rise within this process, since lists are ordered by id.
pub(super) struct RowIds {
    ids: Arc<dyn Ids>,
    last: Mutex<Uuid>,
}

impl RowIds {
    pub(super) fn new(ids: Arc<dyn Ids>) -> Self {
        Self { ids, last: Mutex::default() }
    }

    /// A new id, later than every one before it.
    pub(super) fn next(&self, now: Timestamp) -> Uuid {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.ids.uuid(now);
        *last = if fresh > *last { fresh } else { Uuid::from_u128(last.as_u128() + 1) };
        *last
    }

    /// Eight random bytes.
    pub(super) fn random(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        self.ids.fill(&mut bytes);
        bytes
    }
}

/// A render with what only the store needs.
#[derive(Debug, Clone)]
pub(super) struct RenderRow {
    pub(super) render: Render,
    pub(super) pool: String,
    pub(super) estimate: GpuMillis,
    pub(super) worker: Option<WorkerId>,
    /// Until when it is left alone; in a state that has a lease.
    pub(super) lease_until: Option<Timestamp>,
    pub(super) not_before: Timestamp,
    pub(super) blame: Blame,
    pub(super) device_ms: Option<i64>,
}

impl RenderRow {
    /// Where its jobs go.
    pub(super) fn lane(&self) -> Lane {
        let Render { spec, class, .. } = &self.render;
        Lane { pool: self.pool.clone(), release: spec.runs_on(), class: *class }
    }

    /// True while a claim of that epoch holds.
    pub(super) fn held_at(&self, epoch: Epoch) -> bool {
        self.render.status == Status::Running && self.render.epoch == epoch
    }
}

/// A row as it is written, and what it was when it was loaded: the write is refused when it is not that any more.
pub(super) struct Changed {
    pub(super) before: (Status, i64),
    pub(super) after: RenderRow,
}

/// A line of a render's history.
pub(super) struct History {
    pub(super) render: RenderId,
    pub(super) revision: i64,
    pub(super) transition: Option<String>,
    pub(super) status: Status,
    pub(super) reason: String,
    pub(super) attempt: u32,
    pub(super) epoch: Epoch,
}

/// What a happening in the ledger belongs to.
pub(super) enum Cause {
    /// A payer's grant, by the payer's reference.
    Reference(String),
    /// A render.
    Render(RenderId),
}

/// One line of the ledger; the org's side carries the balance after it.
pub(super) struct EntryLine {
    pub(super) id: Uuid,
    pub(super) org: OrgId,
    pub(super) account: &'static str,
    pub(super) kind: EntryKind,
    pub(super) render: Option<RenderId>,
    pub(super) reference: Option<String>,
    pub(super) amount: Credits,
    pub(super) posted: i64,
    pub(super) held: i64,
    pub(super) after: Option<(i64, i64)>,
}

/// An artifact to record.
pub(super) struct ArtifactLine {
    pub(super) id: Uuid,
    pub(super) render: RenderId,
    pub(super) object_key: String,
    pub(super) report: ArtifactReport,
}

/// What one transaction writes.
pub(super) struct Work<'s> {
    pub(super) now: Timestamp,
    pub(super) ids: &'s RowIds,
    /// Rows that are new, by their ids, which rise.
    pub(super) submitted: BTreeMap<RenderId, RenderRow>,
    pub(super) changed: BTreeMap<RenderId, Changed>,
    pub(super) history: Vec<History>,
    pub(super) entries: Vec<EntryLine>,
    pub(super) artifacts: Vec<ArtifactLine>,
    pub(super) dead_letters: Vec<RenderId>,
    pub(super) outbox: Vec<Topic>,
    /// What the outbox promises is being done already.
    pub(super) gone_ahead: bool,
    pub(super) tickets: Vec<(Ticket, Resource)>,
}

impl<'s> Work<'s> {
    pub(super) fn new(now: Timestamp, ids: &'s RowIds) -> Self {
        Self {
            now,
            ids,
            submitted: BTreeMap::new(),
            changed: BTreeMap::new(),
            history: Vec::new(),
            entries: Vec::new(),
            artifacts: Vec::new(),
            dead_letters: Vec::new(),
            outbox: Vec::new(),
            gone_ahead: false,
            tickets: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.ids.next(self.now)
    }

    /// Moves a render by `transition` and notes everything that follows from it: the line of its history, the
    /// settlement of its hold when it ends (`charged` is what it is charged then). The caller has set what is particular to the happening.
    pub(super) fn advance(
        &mut self,
        row: &mut RenderRow,
        transition: Transition,
        reason: &str,
        charged: Credits,
    ) -> Result<(), StoreError> {
        let before = (row.render.status, row.render.revision);
        let status = transition.apply(before.0).ok_or_else(|| {
            StoreError::Corrupt(format!("{transition:?} of {} that is {}", row.render.id, before.0.as_str()))
        })?;
        row.render.status = status;
        row.render.revision += 1;
        row.lease_until = lease::lease_until(status, self.now);
        if status != Status::Running {
            row.worker = None;
        }
        if status.is_terminal() {
            row.render.finished_at = Some(self.now);
        }
        self.record(row, Some(transition), reason);
        if status.is_terminal() {
            self.settle(&row.render, charged);
        }
        self.write(row, before);
        Ok(())
    }

    /// The row as this unit has left it, where it has; what was loaded is older then.
    pub(super) fn latest(&self, loaded: Option<RenderRow>) -> Option<RenderRow> {
        loaded.map(|row| self.changed.get(&row.render.id).map_or(row, |changed| changed.after.clone()))
    }

    /// Notes that `row` is to be written; `before` is what it was when it was loaded.
    pub(super) fn write(&mut self, row: &RenderRow, before: (Status, i64)) {
        if let Some(new) = self.submitted.get_mut(&row.render.id) {
            new.clone_from(row);
            return;
        }
        let changed =
            self.changed.entry(row.render.id).or_insert_with(|| Changed { before, after: row.clone() });
        changed.after = row.clone();
    }

    /// Notes a line of the render's history.
    pub(super) fn record(&mut self, row: &RenderRow, transition: Option<Transition>, reason: &str) {
        self.history.push(History {
            render: row.render.id,
            revision: row.render.revision,
            transition: transition.map(|transition| format!("{transition:?}").to_lowercase()),
            status: row.render.status,
            reason: reason.to_owned(),
            attempt: row.render.attempts,
            epoch: row.render.epoch,
        });
    }

    fn settle(&mut self, render: &Render, charged: Credits) {
        let cause = Cause::Render(render.id);
        if render.status == Status::Succeeded {
            let entries = postings::capture(render.org, render.price, charged);
            self.post(render.org, EntryKind::Capture, &cause, charged, entries);
        } else {
            let entries = postings::void(render.org, render.price);
            self.post(render.org, EntryKind::Void, &cause, render.price, entries);
        }
    }

    /// Notes both entries of a happening. Every movement of credits goes through here.
    pub(super) fn post(
        &mut self,
        org: OrgId,
        kind: EntryKind,
        cause: &Cause,
        amount: Credits,
        postings: Postings,
    ) {
        let (render, reference) = match cause {
            Cause::Reference(reference) => (None, Some(reference)),
            Cause::Render(render) => (Some(*render), None),
        };
        for posting in postings {
            let account = match posting.account {
                Account::Org(_) => "org",
                Account::Grants => "grants",
                Account::Revenue => "revenue",
            };
            self.entries.push(EntryLine {
                id: self.ids.next(self.now),
                org,
                account,
                kind,
                render,
                reference: reference.cloned(),
                amount,
                posted: posting.posted,
                held: posting.held,
                after: None,
            });
        }
    }

    /// What each org's account changes by, posted and held.
    pub(super) fn balance_changes(&self) -> BTreeMap<OrgId, (i64, i64)> {
        let mut changes: BTreeMap<OrgId, (i64, i64)> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.account == "org") {
            let change = changes.entry(entry.org).or_default();
            change.0 += entry.posted;
            change.1 += entry.held;
        }
        changes
    }

    /// Writes into each org's entries the balance after it; `after` is the balance after all of them.
    pub(super) fn set_balances(&mut self, after: &BTreeMap<OrgId, (i64, i64)>) -> Result<(), StoreError> {
        let mut balance = self.balance_changes();
        for (org, change) in &mut balance {
            let (posted, held) =
                after.get(org).ok_or_else(|| StoreError::Corrupt(format!("{org} has no account")))?;
            *change = (posted - change.0, held - change.1);
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.account == "org") {
            let running = balance.entry(entry.org).or_default();
            *running = (running.0 + entry.posted, running.1 + entry.held);
            entry.after = Some(*running);
        }
        Ok(())
    }
}
