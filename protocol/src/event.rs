//! What workers tell about the renders they hold. Events are durable and confirmed; progress may be
//! lost and nothing depends on it.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ids::{RenderId, WorkerId};
use crate::units::{Digest, Epoch, GpuMillis};

/// An artifact that a worker has uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactReport {
    /// Which of the render's images, from 0.
    pub sample: u32,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Length of the file.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Media type of the file.
    pub content_type: String,
}

/// What became of a claim. The first event of a claim that is applied ends it; later ones are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    /// Every artifact named is uploaded; fewer than the samples asked for is a partial result.
    Succeeded {
        /// What was uploaded.
        artifacts: Vec<ArtifactReport>,
        /// Time the render took on the device.
        device_time: GpuMillis,
    },
    /// The worker could not finish it.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The worker stopped because the owner cancelled.
    Cancelled {
        /// Steps that were done.
        step: u32,
    },
    /// The worker gives it back unfinished (drain, shutdown); not the render's fault.
    HandedBack,
    /// The worker's supervisor found that its engine crashed with this render in it.
    EngineCrashed,
}

/// One durable message about one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The render.
    pub render: RenderId,
    /// The dispatch that the claim belongs to.
    pub attempt: u32,
    /// The claim's fencing number.
    pub epoch: Epoch,
    /// Who held the claim.
    pub worker: WorkerId,
    /// What became of it.
    pub body: EventBody,
}

/// What is shown while a render runs or changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressBody {
    /// A denoise step is done.
    Step {
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
    },
    /// A small marked picture of what the model expects to come out.
    Preview {
        /// Which of the render's images.
        sample: u32,
        /// Steps done.
        step: u32,
        /// Media type of `data`.
        content_type: String,
        /// The file, base64 in JSON.
        #[serde(with = "crate::base64_bytes")]
        data: Vec<u8>,
    },
}

/// One message that may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The render.
    pub render: RenderId,
    /// The claim it belongs to.
    pub epoch: Epoch,
    /// What happened.
    pub body: ProgressBody,
}
