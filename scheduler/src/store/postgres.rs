//! The store of the fleet: PostgreSQL, shared by every replica.
//!
//! Each transaction locks its rows in one order (idempotency keys, renders by id, assets, accounts by
//! org), so that no two wait for each other; decides in memory; and writes everything with one statement,
//! however many renders it is about. Moments are this database's own, read after the locks are held, so
//! that whoever comes later in a row's history has the later moment.

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
mod listener;
mod migrations;
mod objects;
mod orgs;
mod outbox;
mod reaper;
mod renders;
mod statement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, UploadRequest};
use kraftr_protocol::{
    ApiKeyId, ArtifactId, AssetId, Credits, Digest, Event, Ids, OrgId, RenderId, Status, Timestamp,
    WatermarkRef, WorkerId,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Row as _, Transaction};
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::columns::Moment;
use self::listener::{Sender, Teller};
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

/// Renders that one pass of the dispatcher (in each lane) or the reaper touches at most.
const PASS_MAX: u32 = 500;
/// A page that begins here begins with the newest row.
const NEWEST: Uuid = Uuid::max();
/// How long a connection is waited for before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be idle before it is asked whether it is still there.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// How a [`PgStore`] connects.
#[derive(Debug, Clone)]
pub struct PgOptions {
    /// Connections at most, besides one that listens for notices and one that tells them.
    pub connections: u32,
    /// Microseconds that are added to the database's clock: for tests that cannot wait for leases to end.
    pub skew: Arc<AtomicI64>,
}

impl Default for PgOptions {
    fn default() -> Self {
        Self { connections: 16, skew: Arc::default() }
    }
}

/// [`Store`] over PostgreSQL 14 or later.
pub struct PgStore {
    pool: PgPool,
    ids: RowIds,
    skew: Arc<AtomicI64>,
    notices: broadcast::Sender<Notice>,
    /// Held by whoever fills the lanes' windows, so that no place is given twice: only one process leads.
    windows: tokio::sync::Mutex<()>,
    teller: Teller,
    _listener: AbortOnDropHandle<()>,
}

/// A transaction that locks what it will decide about.
struct Locks {
    tx: Transaction<'static, Postgres>,
    /// This database's clock after the last lock that said so.
    at: Option<Timestamp>,
    accounts: BTreeMap<OrgId, (i64, i64)>,
}

impl Locks {
    /// Notes when these rows were locked.
    fn took(&mut self, rows: &[PgRow]) -> Result<(), StoreError> {
        self.at = self.at.max(columns::locked_at(rows)?);
        Ok(())
    }

    /// Locks accounts and notes what they hold.
    async fn lock_accounts(&mut self, orgs: &[OrgId]) -> Result<(), StoreError> {
        let locked = ledger::lock_accounts(&mut self.tx, orgs).await?;
        self.at = self.at.max(locked.locked_at);
        self.accounts.extend(locked.balances);
        Ok(())
    }
}

/// One write transaction and the moment it happens at.
struct Write<'s> {
    tx: Transaction<'static, Postgres>,
    now: Timestamp,
    store: &'s PgStore,
    notices: Notices,
    /// What the accounts hold that it has locked.
    accounts: BTreeMap<OrgId, (i64, i64)>,
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
        self.store.tell(self.notices);
        Ok(())
    }
}

impl PgStore {
    /// Connects, and brings the schema up to date.
    pub async fn connect(url: &str, options: PgOptions, ids: Arc<dyn Ids>) -> Result<Self, StoreError> {
        let connect: PgConnectOptions =
            url.parse::<PgConnectOptions>()?.application_name("kraftr").options([
                // A client that vanished must not hold rows that others wait for.
                ("idle_in_transaction_session_timeout", "10s"),
                ("lock_timeout", "10s"),
                ("statement_timeout", "60s"),
                // A promise that was answered is on disk.
                ("synchronous_commit", "on"),
                // Plans are kept from when the tables were small, and every statement here has an index to go by.
                ("plan_cache_mode", "force_generic_plan"),
                ("enable_seqscan", "off"),
                ("jit", "off"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A connection that was at work just now is not asked again whether it is there.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > ASK_AFTER {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(connect.clone())
            .await?;
        migrations::run(&pool).await?;
        let (ids, notices) = (RowIds::new(ids), notices::channel());
        let sender = Sender::new(ids.random());
        // One connection listens, one tells. A crash may lose a hint, so none waits for the disk.
        let connect = connect.options([("synchronous_commit", "off")]);
        let aside = PgPoolOptions::new().max_connections(2).connect_lazy_with(connect);
        let teller = Teller::start(aside.clone(), sender);
        let listener = AbortOnDropHandle::new(tokio::spawn(listener::listen(aside, sender, notices.clone())));
        let windows = tokio::sync::Mutex::default();
        Ok(Self { pool, ids, skew: options.skew, notices, windows, teller, _listener: listener })
    }

    /// Waits for what is under way and closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The moment it is in the database.
    async fn now(&self, connection: &mut PgConnection) -> Result<Timestamp, StoreError> {
        let row = sqlx::query("SELECT clock_timestamp() AS now").fetch_one(connection).await?;
        let Moment(now) = row.try_get("now")?;
        Ok(Timestamp(now.0 + self.skew()))
    }

    async fn begin(&self) -> Result<Locks, StoreError> {
        Ok(Locks { tx: self.pool.begin().await?, at: None, accounts: BTreeMap::new() })
    }

    /// Goes on with a transaction that holds its locks.
    async fn at_work(&self, locks: Locks) -> Result<Write<'_>, StoreError> {
        let Locks { mut tx, at, accounts } = locks;
        let now = match at {
            Some(at) => Timestamp(at.0 + self.skew()),
            None => self.now(&mut tx).await?,
        };
        Ok(Write { tx, now, store: self, notices: Notices::default(), accounts })
    }

    /// Writes what [`flush::is_lone`]; false, and nothing is written, when somebody was faster.
    async fn write_alone(&self, work: Work<'_>) -> Result<bool, StoreError> {
        let notices = Notices::of(&work);
        let written = flush::flush_alone(&mut *self.pool.acquire().await?, &work).await?;
        if written {
            self.tell(notices);
        }
        Ok(written)
    }

    /// Tells what a commit changed: here at once, to the other replicas through the database.
    fn tell(&self, notices: Notices) {
        notices.send(&self.notices);
        self.teller.tell(notices);
    }

    /// Microseconds that are added to the database's clock.
    fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// A transaction that waits for nobody.
    async fn write(&self) -> Result<Write<'_>, StoreError> {
        self.at_work(self.begin().await?).await
    }
}

#[async_trait]
impl Store for PgStore {
    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
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
        Box::pin(dead_letters::replay(self, render)).await
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
