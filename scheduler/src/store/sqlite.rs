//! The embedded store: one SQLite file.
//!
//! Writers queue for one connection, each transaction takes the write lock at its start, so there
//! is no lock upgrade that could deadlock; readers have connections of their own (WAL). A commit is
//! on disk when it returns (`synchronous = FULL`). Leases count by the injected clock.

mod assets;
mod audit;
mod authority;
mod claims;
mod columns;
mod dead_letters;
mod dispatch;
mod events;
mod flush;
mod idempotency;
mod leader;
mod ledger;
mod migrations;
mod objects;
mod orgs;
mod outbox;
mod reaper;
mod renders;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, UploadRequest};
use kraftr_protocol::{
    ApiKeyId, ArtifactId, AssetId, Clock, Credits, Digest, Event, Ids, OrgId, RenderId, Status, Timestamp,
    WatermarkRef, WorkerId,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Sqlite, SqlitePool, Transaction};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::columns::{corrupt, number};
use super::notices::{self, Notices};
use super::work::{RowIds, Work};
use super::{
    ApiKey, Applied, Artifact, Asset, AtOnce, Balance, CancelOutcome, ClaimOutcome, DeadLetter,
    DeleteOutcome, DiscardOutcome, Entry, Gauges, Idempotency, LaneLoad, NewAsset, NewRender, Notice,
    ObjectKind, ObjectRow, Org, OutboxRow, Page, Reaped, Render, ReplayOutcome, Resource, Store, StoreError,
    SubmitError, Term, Ticket, Traced, TransitionRow,
};
use crate::domain::invariants::Audit;

/// How long a writer waits for another process before the database counts as unavailable.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that only read.
const READERS: u32 = 4;
/// Renders that one pass of the dispatcher or the reaper touches at most.
const PASS_MAX: u32 = 200;

/// [`Store`] over one SQLite file.
pub struct SqliteStore {
    writer: SqlitePool,
    reader: SqlitePool,
    clock: Arc<dyn Clock>,
    ids: RowIds,
    notices: broadcast::Sender<Notice>,
}

/// One write transaction and the moment it happens at.
struct Write<'s> {
    tx: Transaction<'static, Sqlite>,
    now: Timestamp,
    store: &'s SqliteStore,
    notices: Notices,
}

impl<'s> Write<'s> {
    /// A new id, later than every id this process has made.
    fn id(&self) -> Uuid {
        self.store.ids.next(self.now)
    }

    /// A unit of work to decide in.
    fn work(&self) -> Work<'s> {
        Work::new(self.now, &self.store.ids)
    }

    /// Writes what was decided, and commits.
    async fn finish(mut self, work: Work<'s>) -> Result<(), StoreError> {
        self.notices = Notices::of(&work);
        flush::flush(&mut self, work).await?;
        self.commit().await
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        self.notices.send(&self.store.notices);
        Ok(())
    }
}

impl SqliteStore {
    /// Opens the file, makes it when there is none, and brings its schema up to date.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new().max_connections(1).before_acquire(|connection, _| {
            // A full disk makes SQLite roll back by itself, and the rollback that follows then fails: the connection
            // counts as within a transaction for ever and can begin no other. Another one takes its place.
            let usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        });
        let writer = writer.connect_with(options.clone()).await?;
        migrations::run(&writer).await?;
        let reader = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await?;
        Ok(Self::over(writer, reader, clock, ids))
    }

    /// A database in memory that ends with this value: for simulations.
    pub async fn in_memory(clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        migrations::run(&pool).await?;
        Ok(Self::over(pool.clone(), pool, clock, ids))
    }

    /// Closes every connection once its transaction has ended.
    pub async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }

    fn over(writer: SqlitePool, reader: SqlitePool, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { writer, reader, clock, ids: RowIds::new(ids), notices: notices::channel() }
    }

    async fn write(&self) -> Result<Write<'_>, StoreError> {
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write { tx, now: self.clock.now(), store: self, notices: Notices::default() })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.reader).await?;
        Ok(())
    }

    async fn create_org(&self, name: &str) -> Result<Org, StoreError> {
        orgs::create_org(self, name).await
    }

    async fn orgs(&self) -> Result<Vec<Org>, StoreError> {
        orgs::orgs(self).await
    }

    async fn create_key(&self, org: OrgId, label: &str, secret: Digest) -> Result<ApiKey, StoreError> {
        orgs::create_key(self, org, label, secret).await
    }

    async fn keys(&self, org: OrgId) -> Result<Vec<ApiKey>, StoreError> {
        orgs::keys(self, org).await
    }

    async fn key_by_secret(&self, secret: Digest) -> Result<Option<ApiKey>, StoreError> {
        orgs::key_by_secret(self, secret).await
    }

    async fn revoke_key(&self, key: ApiKeyId) -> Result<bool, StoreError> {
        orgs::revoke_key(self, key).await
    }

    async fn grant(&self, org: OrgId, amount: Credits, reference: &str) -> Result<bool, StoreError> {
        ledger::grant(self, org, amount, reference).await
    }

    async fn balance(&self, org: OrgId) -> Result<Balance, StoreError> {
        ledger::balance(self, org).await
    }

    async fn ledger(&self, org: OrgId, page: &Page) -> Result<Vec<Entry>, StoreError> {
        ledger::entries(self, org, page).await
    }

    async fn ledger_of_render(&self, render: RenderId) -> Result<Vec<Entry>, StoreError> {
        ledger::entries_of_render(self, render).await
    }

    async fn begin_idempotent(
        &self,
        org: OrgId,
        key: &str,
        fingerprint: Digest,
    ) -> Result<Idempotency, StoreError> {
        idempotency::begin(self, org, key, fingerprint).await
    }

    async fn complete_idempotent(&self, ticket: &Ticket, resource: Resource) -> Result<bool, StoreError> {
        idempotency::complete_alone(self, ticket, resource).await
    }

    async fn abandon_idempotent(&self, ticket: &Ticket) -> Result<(), StoreError> {
        idempotency::abandon(self, ticket).await
    }

    async fn insert_asset(&self, asset: &NewAsset, ticket: Option<&Ticket>) -> Result<Asset, StoreError> {
        assets::insert(self, asset, ticket).await
    }

    async fn asset(&self, org: OrgId, id: AssetId) -> Result<Option<Asset>, StoreError> {
        assets::get(self, org, id).await
    }

    async fn asset_by_digest(&self, org: OrgId, sha256: Digest) -> Result<Option<Asset>, StoreError> {
        assets::by_digest(self, org, sha256).await
    }

    async fn assets(&self, org: OrgId, page: &Page) -> Result<Vec<Asset>, StoreError> {
        assets::list(self, org, page).await
    }

    async fn delete_asset(&self, org: OrgId, id: AssetId) -> Result<DeleteOutcome, StoreError> {
        assets::delete(self, org, id).await
    }

    async fn submit_renders(
        &self,
        renders: &[NewRender],
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Render, SubmitError>>, StoreError> {
        renders::submit(self, renders, at_once).await
    }

    async fn render(&self, org: OrgId, id: RenderId) -> Result<Option<Render>, StoreError> {
        renders::get(self, org, id).await
    }

    async fn renders(
        &self,
        org: OrgId,
        status: Option<Status>,
        page: &Page,
    ) -> Result<Vec<Render>, StoreError> {
        renders::list(self, org, status, page).await
    }

    async fn transitions(&self, id: RenderId, after_revision: i64) -> Result<Vec<TransitionRow>, StoreError> {
        renders::transitions(self, id, after_revision).await
    }

    async fn cancel_render(&self, org: OrgId, id: RenderId) -> Result<CancelOutcome, StoreError> {
        renders::cancel(self, org, id).await
    }

    async fn delete_render(&self, org: OrgId, id: RenderId) -> Result<DeleteOutcome, StoreError> {
        renders::delete(self, org, id).await
    }

    async fn artifact(&self, org: OrgId, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
        renders::artifact(self, org, id).await
    }

    async fn lead(&self, replica: Uuid) -> Result<Option<Term>, StoreError> {
        leader::lead(self, replica).await
    }

    async fn resign(&self, replica: Uuid) -> Result<(), StoreError> {
        leader::resign(self, replica).await
    }

    fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    async fn dispatch(&self, term: Term) -> Result<Option<u32>, StoreError> {
        dispatch::dispatch(self, term).await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        outbox::due(self, limit).await
    }

    async fn settle_outbox(&self, done: &[i64]) -> Result<(), StoreError> {
        outbox::settle(self, done).await
    }

    async fn defer_outbox(&self, rows: &[i64]) -> Result<(), StoreError> {
        outbox::defer(self, rows).await
    }

    async fn grant_claims(&self, claims: &[(Job, WorkerId)]) -> Result<Vec<ClaimOutcome>, StoreError> {
        claims::grant(self, claims).await
    }

    async fn renew_leases(&self, heartbeat: &Heartbeat) -> Result<Vec<LeaseVerdict>, StoreError> {
        claims::renew(self, heartbeat).await
    }

    async fn authorise_upload(&self, request: &UploadRequest) -> Result<Option<String>, StoreError> {
        claims::authorise_upload(self, request).await
    }

    async fn may_sign(&self, held: Held, sample: u32) -> Result<bool, StoreError> {
        claims::may_sign(self, held, sample).await
    }

    async fn trace(&self, mark: WatermarkRef) -> Result<Option<Traced>, StoreError> {
        renders::trace(self, mark).await
    }

    async fn keep_authority(&self, made: &str, replaced: Option<&str>) -> Result<String, StoreError> {
        authority::keep(self, made, replaced).await
    }

    async fn authority(&self) -> Result<Option<String>, StoreError> {
        authority::kept(self).await
    }

    async fn apply_events(&self, events: &[Event]) -> Result<Vec<Applied>, StoreError> {
        events::apply(self, events).await
    }

    async fn reap(&self) -> Result<Reaped, StoreError> {
        reaper::reap(self).await
    }

    async fn requeue_in_flight(&self) -> Result<u32, StoreError> {
        reaper::requeue_in_flight(self).await
    }

    async fn dead_letters(&self, page: &Page) -> Result<Vec<Render>, StoreError> {
        dead_letters::list(self, page).await
    }

    async fn dead_letter(&self, render: RenderId) -> Result<Option<DeadLetter>, StoreError> {
        dead_letters::get(self, render).await
    }

    async fn replay_dead_letter(&self, render: RenderId) -> Result<ReplayOutcome, StoreError> {
        dead_letters::replay(self, render).await
    }

    async fn discard_dead_letter(&self, render: RenderId) -> Result<DiscardOutcome, StoreError> {
        dead_letters::discard(self, render).await
    }

    async fn wanted_objects(&self, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
        objects::wanted(self, keys).await
    }

    async fn objects(&self, kind: ObjectKind, page: &Page) -> Result<Vec<ObjectRow>, StoreError> {
        objects::list(self, kind, page).await
    }

    async fn lanes_in_flight(&self) -> Result<Vec<LaneLoad>, StoreError> {
        objects::lanes_in_flight(self).await
    }

    async fn audit(&self) -> Result<Audit, StoreError> {
        audit::audit(self).await
    }

    async fn gauges(&self) -> Result<Gauges, StoreError> {
        audit::gauges(self).await
    }
}
