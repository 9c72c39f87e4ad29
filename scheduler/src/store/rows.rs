//! What the store takes and gives: plain data.

use kraftr_protocol::message::{Held, Job};
use kraftr_protocol::{
    ApiKeyId, ArtifactId, AssetId, Class, Credits, Digest, EntryId, Epoch, Failure, Format, GpuMillis, Lane,
    OrgId, RenderId, RenderSpec, Status, Timestamp, Transition, WatermarkRef, WorkerId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::ledger::EntryKind;
use crate::store::Ticket;

/// A window into a list that is ordered by id, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Rows wanted at most.
    pub limit: u32,
    /// Only rows whose id is smaller (older).
    pub before: Option<Uuid>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// For operators.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub org: OrgId,
    /// For its owner.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stopped working.
    pub revoked_at: Option<Timestamp>,
}

/// What an org has. `available = posted - held`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// Credits that are the org's.
    pub posted: Credits,
    /// The part of them that open renders reserve.
    pub held: Credits,
}

impl Balance {
    /// What can still be held.
    pub const fn available(&self) -> Credits {
        Credits(self.posted.0 - self.held.0)
    }
}

/// One line of an org's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// What happened.
    pub kind: EntryKind,
    /// The render it belongs to.
    pub render: Option<RenderId>,
    /// Credits granted, held, captured, given back or refunded; never negative.
    pub amount: Credits,
    /// The account's `posted` after it.
    pub posted_after: Credits,
    /// The account's `held` after it.
    pub held_after: Credits,
    /// When it was written.
    pub created_at: Timestamp,
}

/// An asset to record; its object is already stored under `object_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAsset {
    /// Its id, which is part of the object key.
    pub id: AssetId,
    /// Whose it is.
    pub org: OrgId,
    /// Where the object lies.
    pub object_key: String,
    /// SHA-256 of the object: the normalised picture.
    pub sha256: Digest,
    /// Media type of the object.
    pub content_type: String,
    /// Width in pixels, after orientation.
    pub width: u32,
    /// Height in pixels, after orientation.
    pub height: u32,
    /// Length of the object.
    pub bytes: u64,
}

/// An asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its id.
    pub id: AssetId,
    /// Whose it is.
    pub org: OrgId,
    /// Where the object lies.
    pub object_key: String,
    /// SHA-256 of the object: the normalised picture.
    pub sha256: Digest,
    /// Media type of the object.
    pub content_type: String,
    /// Width in pixels, after orientation.
    pub width: u32,
    /// Height in pixels, after orientation.
    pub height: u32,
    /// Length of the object.
    pub bytes: u64,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

/// A validated, priced render to submit.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRender {
    /// Whose it is.
    pub org: OrgId,
    /// The reservation of the request's idempotency key.
    pub ticket: Option<Ticket>,
    /// The public name that was asked for.
    pub model: String,
    /// What to do.
    pub spec: RenderSpec,
    /// Which workers.
    pub pool: String,
    /// How urgent.
    pub class: Class,
    /// The person's picture.
    pub person: AssetId,
    /// The garment's picture.
    pub garment: AssetId,
    /// Price of all images.
    pub price: Credits,
    /// Expected device time.
    pub estimate: GpuMillis,
    /// Whom to tell at the end.
    pub webhook: Option<String>,
    /// The caller's own words, given back as they came.
    pub metadata: Option<serde_json::Value>,
}

/// What a watermark's reference leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// The render that made the picture; without artifacts where it was deleted.
    pub render: Render,
    /// Which of its images carries the reference.
    pub sample: u32,
    /// Whether its owner deleted it.
    pub deleted: bool,
}

/// A render as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Render {
    /// Its id.
    pub id: RenderId,
    /// Whose it is.
    pub org: OrgId,
    /// Where it stands.
    pub status: Status,
    /// Rises by one at every transition, from 1.
    pub revision: i64,
    /// The public name that was asked for.
    pub model: String,
    /// What to do.
    pub spec: RenderSpec,
    /// How urgent.
    pub class: Class,
    /// The person's picture.
    pub person: AssetId,
    /// The garment's picture.
    pub garment: AssetId,
    /// Price of all images.
    pub price: Credits,
    /// How often it was dispatched.
    pub attempts: u32,
    /// How often a claim was granted.
    pub epoch: Epoch,
    /// Why it failed, or why it is in the queue again.
    pub failure: Option<Failure>,
    /// When its owner asked to stop it.
    pub cancel_requested_at: Option<Timestamp>,
    /// Steps that were done when it stopped.
    pub cancelled_at_step: Option<u32>,
    /// What its pictures' watermark carries.
    pub watermark: WatermarkRef,
    /// Whom to tell at the end.
    pub webhook: Option<String>,
    /// The caller's own words.
    pub metadata: Option<serde_json::Value>,
    /// What was delivered.
    pub artifacts: Vec<Artifact>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its first claim was granted.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// An output file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
    /// The render it belongs to.
    pub render: RenderId,
    /// Which of the render's images.
    pub sample: u32,
    /// Where the object lies.
    pub object_key: String,
    /// SHA-256 of the object.
    pub sha256: Digest,
    /// Media type of the object.
    pub content_type: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Length of the object.
    pub bytes: u64,
}

/// One change of a render's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionRow {
    /// The revision it made.
    pub revision: i64,
    /// What happened; `None` for the submission.
    pub transition: Option<Transition>,
    /// The state it led to.
    pub status: Status,
    /// Why, in a few stable words.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What a granted claim hands to the worker, less the URLs.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The render with its new epoch.
    pub render: Render,
    /// The person's picture.
    pub person: Asset,
    /// The garment's picture.
    pub garment: Asset,
    /// Who holds the claim.
    pub worker: WorkerId,
}

/// Something that must happen because a transaction was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "topic", rename_all = "snake_case")]
pub enum Topic {
    /// Publish a job message.
    Job {
        /// Where to.
        lane: Lane,
        /// What.
        job: Job,
    },
    /// Tell the workers to stop a render.
    Cancel {
        /// Which.
        render: RenderId,
    },
    /// Erase an object.
    Erase {
        /// Which.
        object_key: String,
    },
}

impl Topic {
    /// The render whose rows keep their order; an erasure has none.
    pub const fn render(&self) -> Option<RenderId> {
        match self {
            Self::Job { job, .. } => Some(job.render),
            Self::Cancel { render } => Some(*render),
            Self::Erase { .. } => None,
        }
    }

    /// The job that it sends, and where to.
    pub fn as_job(&self) -> Option<(Lane, Job)> {
        match self {
            Self::Job { lane, job } => Some((lane.clone(), *job)),
            Self::Cancel { .. } | Self::Erase { .. } => None,
        }
    }
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number, in the order of commits.
    pub id: i64,
    /// What must happen.
    pub topic: Topic,
    /// How often it was tried.
    pub tries: u32,
}

/// The key of an artifact's object. It carries the claim's epoch, so that a worker that lost its claim
/// can never overwrite what a later one uploads.
pub fn artifact_key(held: Held, sample: u32, content_type: &str) -> String {
    let extension = Format::ALL
        .iter()
        .find(|format| format.content_type() == content_type)
        .map_or("bin", |known| known.extension());
    format!("artifacts/{}/{}/{sample}.{extension}", held.render, held.epoch)
}
