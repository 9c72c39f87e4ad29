//! Jobs, claims and the other calls a worker makes, and what the scheduler broadcasts.

use serde::{Deserialize, Serialize};

use crate::ids::{AssetId, RenderId, WorkerId};
use crate::lane::{Class, Lane};
use crate::spec::RenderSpec;
use crate::units::{Digest, Epoch, Timestamp, WatermarkRef};

/// A job message: ids only. It says that a render may be claimed, never what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Job {
    /// The render.
    pub render: RenderId,
    /// Which dispatch of it, from 1.
    pub attempt: u32,
}

/// What a worker can ask the scheduler for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// May I run this?
    Claim {
        /// The job message received.
        job: Job,
        /// Who asks.
        worker: WorkerId,
    },
    /// I still run these; also says what I offer, so that the dispatcher knows its window.
    Heartbeat(Heartbeat),
    /// Where may I put this artifact?
    Upload(UploadRequest),
    /// Sign what I say about this artifact.
    Sign(SignRequest),
}

/// A worker's sign of life: sent when it starts, then every `limits::HEARTBEAT_EVERY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub worker: WorkerId,
    /// Lanes it takes jobs from; empty while it drains.
    pub lanes: Vec<Lane>,
    /// Renders it can run at once.
    pub slots: u32,
    /// Claims it holds.
    pub held: Vec<Held>,
}

/// A claim that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// The render.
    pub render: RenderId,
    /// The claim's fencing number.
    pub epoch: Epoch,
}

/// Asks where to put one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRequest {
    /// The claim.
    pub held: Held,
    /// Which of the render's images, from 0.
    pub sample: u32,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Length of the file.
    pub bytes: u64,
    /// Media type of the file.
    pub content_type: String,
}

/// Asks for the signature of one artifact's Content Credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignRequest {
    /// The claim on the render.
    pub held: Held,
    /// Which of the render's images, from 0.
    pub sample: u32,
    /// The COSE structure to sign, around what the manifest claims; base64 in JSON.
    #[serde(with = "crate::base64_bytes")]
    pub message: Vec<u8>,
}

/// The scheduler's answer to a [`Request`] of the same kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To a claim: run it.
    Granted(Box<Grant>),
    /// To a claim: drop it, and acknowledge the job message.
    NotGranted {
        /// Why.
        reason: NotGranted,
    },
    /// To a heartbeat: what holds for each claim, in the order asked.
    Leases {
        /// One verdict for each claim.
        verdicts: Vec<LeaseVerdict>,
    },
    /// To an upload request: put it there.
    UploadTo(Link),
    /// To a request for a signature: the signature with ES256, `r` and `s`; base64 in JSON.
    Signed {
        /// 64 bytes.
        #[serde(with = "crate::base64_bytes")]
        signature: Vec<u8>,
    },
    /// To a request for a signature: this is never signed.
    NotSigned {
        /// Why, for the log.
        reason: String,
    },
    /// To a request for a place or a signature: the claim is gone, stop.
    Fenced,
    /// The scheduler could not answer now; ask again.
    Unavailable {
        /// For the log.
        message: String,
    },
}

/// Why a claim was not granted. None of these is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotGranted {
    /// The render is finished, cancelled, or was never there.
    NotWanted,
    /// A newer dispatch is under way.
    StaleAttempt,
}

/// What holds for a claim at a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseVerdict {
    /// Extended by a full lease.
    Renewed,
    /// The owner cancelled: stop and report `cancelled`.
    Cancel,
    /// Another claim took over or the render has ended: stop and report nothing.
    Fenced,
}

/// A granted claim: everything that is needed to run the render.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The render.
    pub render: RenderId,
    /// The dispatch that was claimed.
    pub attempt: u32,
    /// The claim's fencing number.
    pub epoch: Epoch,
    /// What to do.
    pub spec: RenderSpec,
    /// How urgent: a worker's engine lets `interactive` overtake `batch` at every step.
    pub class: Class,
    /// The person's picture.
    pub person: Input,
    /// The garment's picture.
    pub garment: Input,
    /// What the watermark of the first image carries; see [`WatermarkRef::of_sample`].
    pub watermark: WatermarkRef,
    /// What its Content Credentials are signed under.
    pub signing: Signing,
    /// Milliseconds the claim holds without a heartbeat, counted from when the worker asked.
    pub lease_ms: u64,
    /// Milliseconds the render may run in all.
    pub time_limit_ms: u64,
}

/// What a worker needs to know about signatures that it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signing {
    /// The certificates in PEM form, the signer's first.
    pub chain: String,
    /// The time that credentials name.
    pub at: Timestamp,
}

/// An input picture of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The asset.
    pub asset: AssetId,
    /// SHA-256 of the object, checked after the fetch.
    pub sha256: Digest,
    /// Where to get it.
    pub link: Link,
}

/// A short-lived URL with the method and headers it wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Absolute.
    pub url: String,
    /// Headers that must be sent as they are.
    pub headers: Vec<(String, String)>,
}

/// What the scheduler tells every worker at once; may be lost, since claims and heartbeats say the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Stop this render if you hold it.
    Cancel {
        /// The render.
        render: RenderId,
    },
    /// Load this release, if you have it, and take its jobs from then on.
    Load {
        /// Whom it concerns; everyone when absent.
        worker: Option<WorkerId>,
        /// Which.
        release: String,
    },
    /// Take no more jobs.
    Drain {
        /// Whom it concerns; everyone when absent.
        worker: Option<WorkerId>,
    },
}
