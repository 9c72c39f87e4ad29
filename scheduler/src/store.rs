//! The seam to the database: every method is one transaction and one promise.
//!
//! Methods take slices where a batch is natural, so that batching needs no second interface; there
//! is no `begin` and no `commit` out here. Leases are decided by the store's own clock. A method
//! that changes a render writes, in the same transaction, its transition (for the event stream),
//! its ledger entries and the outbox rows for everything that must happen "and also".

mod columns;
pub mod conformance;
mod notices;
pub mod objects;
pub mod postgres;
pub mod rows;
mod rules;
pub mod sqlite;
mod work;

use std::collections::BTreeSet;

use async_trait::async_trait;
use kraftr_protocol::message::{Heartbeat, Held, Job, LeaseVerdict, NotGranted, UploadRequest};
use kraftr_protocol::{
    ApiKeyId, ArtifactId, AssetId, Credits, Digest, Event, Lane, OrgId, RenderId, Status, Timestamp,
    WatermarkRef, WorkerId,
};

use tokio::sync::broadcast;
use uuid::Uuid;

use self::work::Work;
use crate::domain::invariants::Audit;
pub use notices::Notice;
pub use objects::{LaneLoad, ObjectKind, ObjectName, ObjectRow};
pub use rows::{
    ApiKey, Artifact, Asset, Balance, Claimed, Entry, NewAsset, NewRender, Org, OutboxRow, Page, Render,
    Topic, Traced, TransitionRow,
};

/// Why the database could not do what was asked. Outcomes that a caller branches on are values, not errors.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is busy, away or out of space; the transaction did not happen.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A row does not say what its schema promises.
    #[error("corrupt row: {0}")]
    Corrupt(String),
    /// A constraint refused the write: a bug of ours that the schema caught.
    #[error("the database refused a write: {0}")]
    Refused(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration failed: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// True when trying again cannot help.
    pub const fn is_permanent(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(ref refusal) if is_constraint(refusal.as_ref()) => Self::Refused(error),
            sqlx::Error::RowNotFound
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

/// SQLite's primary result code 19, whatever the extended code says; PostgreSQL's classes 22 (data that it does not
/// take) and 23 (constraints).
fn is_constraint(error: &dyn sqlx::error::DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return code.starts_with("22") || code.starts_with("23");
    }
    code.parse::<u32>().is_ok_and(|code| code & 0xff == 19)
}

/// What a call to [`Store::begin_idempotent`] found under the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: the key is reserved for this request until it completes, abandons it, or the reservation lapses.
    Fresh(Ticket),
    /// The same request, completed.
    Done(Resource),
    /// The same request, still under way.
    InFlight,
    /// Another request.
    Mismatch,
}

/// A reservation of an idempotency key by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose key it is.
    pub org: OrgId,
    /// What the caller sent.
    pub key: String,
    /// Tells this reservation from a later one of the same key.
    pub token: i64,
}

/// What a request made, so that its repetition can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// An asset.
    Asset(AssetId),
    /// A render that was submitted.
    Render(RenderId),
    /// A render that was cancelled.
    Cancellation(RenderId),
}

/// Why a submission was refused; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// `posted - held` is less than the price.
    #[error("{available} credits are available and this costs {price}")]
    InsufficientCredits {
        /// What the org could still hold.
        available: Credits,
        /// What was asked.
        price: Credits,
    },
    /// An input was deleted meanwhile.
    #[error("the asset {0} is gone")]
    AssetGone(AssetId),
    /// The reservation of the idempotency key lapsed and somebody else took it.
    #[error("the idempotency key was taken over by a later request")]
    TicketLost,
}

/// What became of a wish to cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// No such render in this org.
    NotFound,
    /// It had ended before, in this way.
    AlreadyEnded(Box<Render>),
    /// It waited for a worker and is cancelled now.
    Cancelled(Box<Render>),
    /// A worker holds it and was told to stop.
    Requested(Box<Render>),
}

/// What became of a wish to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// It is gone for every reader, and its objects are on the way to be erased.
    Deleted,
    /// No such thing in this org.
    NotFound,
    /// A live render needs it.
    InUse,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimOutcome {
    /// There is no such render: not any more, or not yet where its job went ahead of its commit.
    NotThere,
    /// The epoch rose; whoever held an earlier one is fenced.
    Granted(Box<Claimed>),
    /// Not granted.
    NotGranted(NotGranted),
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The render changed to this state.
    Changed(Status),
    /// It is of a claim that no longer holds: refused, and right so.
    Stale,
}

/// A render that took workers down again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The render, which has failed.
    pub render: Render,
    /// What was decided.
    pub resolution: Option<Resolution>,
}

/// What was decided about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// When.
    pub at: Timestamp,
    /// The render that repeats it; `None` when it was discarded.
    pub replay: Option<RenderId>,
}

/// What became of a wish to replay a dead letter.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplayOutcome {
    /// This render repeats it.
    Replayed(Box<Render>),
    /// No such dead letter.
    NotFound,
    /// It was decided before.
    AlreadyResolved(Resolution),
    /// The org cannot have it again now; the dead letter stays open.
    Refused(SubmitError),
}

/// What became of a wish to discard a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// It is.
    Discarded,
    /// No such dead letter.
    NotFound,
    /// It was decided before.
    AlreadyResolved(Resolution),
}

/// What one pass of the reaper did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Lost leases and lost job messages: back in the queue.
    pub requeued: Vec<RenderId>,
    /// Ended: cancelled while the worker was away, poison, or waited too long.
    pub ended: Vec<RenderId>,
}

impl Reaped {
    /// True when there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.requeued.is_empty() && self.ended.is_empty()
    }
}

/// A stretch of time in which one replica leads; a number that rises whenever the lead is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub i64);

/// Takes jobs ahead of their commit; true when it publishes them.
pub type GoAhead<'a> = dyn FnMut(&[(Lane, Job)]) -> bool + Send + 'a;

/// Leave to dispatch what is submitted at once, where nobody waits: the leader's.
pub struct AtOnce<'a> {
    /// In which it leads.
    pub term: Term,
    /// Told before the commit which jobs it will dispatch. Their outbox rows are written all the same.
    pub ahead: Option<&'a mut GoAhead<'a>>,
}

impl From<Term> for AtOnce<'_> {
    fn from(term: Term) -> Self {
        Self { term, ahead: None }
    }
}

impl AtOnce<'_> {
    /// Lets the jobs of `work`, which submits their renders, go ahead.
    fn go_ahead(self, work: &mut Work<'_>) {
        let jobs: Vec<_> = work.outbox.iter().filter_map(Topic::as_job).collect();
        if let Some(ahead) = self.ahead
            && !jobs.is_empty()
        {
            work.gone_ahead = ahead(&jobs);
        }
    }
}

/// Gauges computed from the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Renders in each state that is not an end: those that ended are counted where they end.
    pub renders: Vec<(Status, i64)>,
    /// Outbox rows that wait.
    pub outbox_pending: i64,
    /// Slots of the workers that are present.
    pub slots: i64,
}

/// The database. See the module for what every method promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Answers when the database does.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Makes an org with an account of zero.
    async fn create_org(&self, name: &str) -> Result<Org, StoreError>;
    /// Every org, oldest first.
    async fn orgs(&self) -> Result<Vec<Org>, StoreError>;
    /// Makes an API key; only the digest of its secret is kept.
    async fn create_key(&self, org: OrgId, label: &str, secret: Digest) -> Result<ApiKey, StoreError>;
    /// The keys of an org, oldest first, revoked ones included.
    async fn keys(&self, org: OrgId) -> Result<Vec<ApiKey>, StoreError>;
    /// The key with that secret, revoked or not.
    async fn key_by_secret(&self, secret: Digest) -> Result<Option<ApiKey>, StoreError>;
    /// Revokes a key; false when there is no such key. Revoking twice is fine.
    async fn revoke_key(&self, key: ApiKeyId) -> Result<bool, StoreError>;

    /// Adds credits, once for each `reference` of an org; false when it was granted before.
    async fn grant(&self, org: OrgId, amount: Credits, reference: &str) -> Result<bool, StoreError>;
    /// What an org has.
    async fn balance(&self, org: OrgId) -> Result<Balance, StoreError>;
    /// An org's entries, newest first.
    async fn ledger(&self, org: OrgId, page: &Page) -> Result<Vec<Entry>, StoreError>;
    /// The entries of one render in the order they were written.
    async fn ledger_of_render(&self, render: RenderId) -> Result<Vec<Entry>, StoreError>;

    /// Reserves an idempotency key for a request with this fingerprint, or says what is under it.
    async fn begin_idempotent(
        &self,
        org: OrgId,
        key: &str,
        fingerprint: Digest,
    ) -> Result<Idempotency, StoreError>;
    /// Records what the request made, where no insert did; false when the reservation had lapsed.
    async fn complete_idempotent(&self, ticket: &Ticket, resource: Resource) -> Result<bool, StoreError>;
    /// Frees the key of a request that made nothing.
    async fn abandon_idempotent(&self, ticket: &Ticket) -> Result<(), StoreError>;

    /// Records an asset whose object is stored, and completes the ticket. When the org already has the same
    /// content, that asset is returned instead of the new one.
    async fn insert_asset(&self, asset: &NewAsset, ticket: Option<&Ticket>) -> Result<Asset, StoreError>;
    /// The org's asset of that id.
    async fn asset(&self, org: OrgId, id: AssetId) -> Result<Option<Asset>, StoreError>;
    /// The org's asset of that content.
    async fn asset_by_digest(&self, org: OrgId, sha256: Digest) -> Result<Option<Asset>, StoreError>;
    /// The org's assets, newest first.
    async fn assets(&self, org: OrgId, page: &Page) -> Result<Vec<Asset>, StoreError>;
    /// Deletes an asset and queues the erasure of its object; refused while a live render needs it.
    async fn delete_asset(&self, org: OrgId, id: AssetId) -> Result<DeleteOutcome, StoreError>;

    /// For each: inserts the render, holds its price, completes its ticket; or refuses it and writes nothing. The leader
    /// may dispatch `at_once` what finds a free place in a lane where nobody waits.
    async fn submit_renders(
        &self,
        renders: &[NewRender],
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Render, SubmitError>>, StoreError>;
    /// The org's render of that id.
    async fn render(&self, org: OrgId, id: RenderId) -> Result<Option<Render>, StoreError>;
    /// The org's renders, newest first.
    async fn renders(
        &self,
        org: OrgId,
        status: Option<Status>,
        page: &Page,
    ) -> Result<Vec<Render>, StoreError>;
    /// The transitions of a render after a revision, in order.
    async fn transitions(&self, id: RenderId, after_revision: i64) -> Result<Vec<TransitionRow>, StoreError>;
    /// Cancels a waiting render, or asks the worker of a running one to stop.
    async fn cancel_render(&self, org: OrgId, id: RenderId) -> Result<CancelOutcome, StoreError>;
    /// Hides an ended render and queues the erasure of its objects.
    async fn delete_render(&self, org: OrgId, id: RenderId) -> Result<DeleteOutcome, StoreError>;
    /// The org's artifact of that id.
    async fn artifact(&self, org: OrgId, id: ArtifactId) -> Result<Option<Artifact>, StoreError>;

    /// Takes the lead, or keeps it for another `limits::LEADER_LEASE`; `None` while another replica leads.
    async fn lead(&self, replica: Uuid) -> Result<Option<Term>, StoreError>;
    /// Ends the lead of that replica now, if it leads.
    async fn resign(&self, replica: Uuid) -> Result<(), StoreError>;
    /// Hints that there is something to do, from whichever process wrote it. They may be lost: whoever listens
    /// also polls.
    fn notices(&self) -> broadcast::Receiver<Notice>;

    /// Fills every lane's window with waiting renders and queues their job messages; says how many, or `None` when
    /// that term is over.
    async fn dispatch(&self, term: Term) -> Result<Option<u32>, StoreError>;
    /// Outbox rows that are due, at most `limit`, in the order of their commits. A row of a render stays back while an
    /// earlier one of the same render is put off.
    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError>;
    /// Forgets outbox rows that are done.
    async fn settle_outbox(&self, done: &[i64]) -> Result<(), StoreError>;
    /// Puts outbox rows off; the delay of each grows with its tries.
    async fn defer_outbox(&self, rows: &[i64]) -> Result<(), StoreError>;

    /// Grants a claim iff the render is still wanted and the attempt is current; the epoch rises.
    async fn grant_claims(&self, claims: &[(Job, WorkerId)]) -> Result<Vec<ClaimOutcome>, StoreError>;
    /// Records the worker's presence and extends the leases it holds; a verdict for each claim, in order.
    async fn renew_leases(&self, heartbeat: &Heartbeat) -> Result<Vec<LeaseVerdict>, StoreError>;
    /// The object key for an artifact of a claim that still holds; `None` when it is fenced or no longer wanted.
    async fn authorise_upload(&self, request: &UploadRequest) -> Result<Option<String>, StoreError>;
    /// Whether a claim still holds and delivers that image, so that its credentials may be signed.
    async fn may_sign(&self, held: Held, sample: u32) -> Result<bool, StoreError>;
    /// The image that carries the reference; also that of a render that was deleted.
    async fn trace(&self, mark: WatermarkRef) -> Result<Option<Traced>, StoreError>;
    /// Keeps what a development installation signs with, and says what is kept: `made`, where nothing was kept or what
    /// was kept is `replaced`; otherwise what some replica kept before.
    async fn keep_authority(&self, made: &str, replaced: Option<&str>) -> Result<String, StoreError>;
    /// What [`keep_authority`](Self::keep_authority) kept.
    async fn authority(&self) -> Result<Option<String>, StoreError>;
    /// Applies events whose epoch is current: captures, voids or requeues; refuses the rest.
    async fn apply_events(&self, events: &[Event]) -> Result<Vec<Applied>, StoreError>;
    /// Requeues or ends renders whose lease, patience or time in the queue ran out.
    async fn reap(&self) -> Result<Reaped, StoreError>;
    /// Requeues everything in flight without blame, says how many, frees the idempotency keys of requests that
    /// were under way, and ends the lead: for a process that was the only scheduler and worker.
    async fn requeue_in_flight(&self) -> Result<u32, StoreError>;

    /// Renders that ended as poison and that nobody has decided about, newest first.
    async fn dead_letters(&self, page: &Page) -> Result<Vec<Render>, StoreError>;
    /// The dead letter of that render, decided or not.
    async fn dead_letter(&self, render: RenderId) -> Result<Option<DeadLetter>, StoreError>;
    /// Submits the same again, as a new render with a new hold.
    async fn replay_dead_letter(&self, render: RenderId) -> Result<ReplayOutcome, StoreError>;
    /// Decides that nothing is to be done.
    async fn discard_dead_letter(&self, render: RenderId) -> Result<DiscardOutcome, StoreError>;

    /// Those of these keys that a row which is not deleted refers to, or that a claim under way may still report.
    async fn wanted_objects(&self, keys: &[String]) -> Result<BTreeSet<String>, StoreError>;
    /// The objects that rows of one kind refer to, newest row first.
    async fn objects(&self, kind: ObjectKind, page: &Page) -> Result<Vec<ObjectRow>, StoreError>;
    /// What is in flight in each lane that has anything in flight.
    async fn lanes_in_flight(&self) -> Result<Vec<LaneLoad>, StoreError>;

    /// Checks every invariant of the ledger against the rows.
    async fn audit(&self) -> Result<Audit, StoreError>;
    /// Gauges for the metrics page.
    async fn gauges(&self) -> Result<Gauges, StoreError>;
}
