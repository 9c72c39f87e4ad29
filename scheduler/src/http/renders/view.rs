//! A render as the API shows it.

use kraftr_protocol::spec::Prompt;
use kraftr_protocol::{
    ArtifactId, AssetId, Category, Class, Credits, Digest, Failure, Format, GarmentPhoto, Quality, RenderId,
    Status, Timestamp,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::domain::ledger;
use crate::store::Render;

/// A render.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Render)]
pub(in crate::http) struct RenderView {
    /// Its id.
    pub id: RenderId,
    /// Where it stands: `succeeded`, `failed`, `cancelled` and `expired` are final.
    pub status: Status,
    /// The model that was asked for.
    #[schema(example = "demo-tryon")]
    pub model: String,
    /// The release of the model that runs it.
    #[schema(example = "demo-tryon")]
    pub release: String,
    /// Where the garment is worn.
    pub category: Category,
    /// How the garment was photographed.
    pub garment_photo: GarmentPhoto,
    /// What the person is put in front of; null keeps the background.
    #[schema(required, value_type = Option<String>)]
    pub scene: Option<Prompt>,
    /// The pictures it is made from.
    pub inputs: Inputs,
    /// Seed of the first image; image n uses `seed` + n. The same seed gives the same image.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64, example = 42)]
    pub seed: u64,
    /// Images asked for.
    #[schema(minimum = 1, maximum = 4)]
    pub samples: u32,
    /// Denoise steps of the try-on.
    #[schema(example = 20)]
    pub steps: u32,
    /// Time against fidelity.
    pub quality: Quality,
    /// File format of the artifacts.
    pub format: Format,
    /// How urgent.
    pub class: Class,
    /// How far it is.
    pub progress: ProgressView,
    /// Credits that are held for it until it ends.
    pub price: Credits,
    /// Credits that were taken; null until it ends, and 0 when it did not succeed.
    #[schema(required)]
    pub charged: Option<Credits>,
    /// What was delivered.
    pub artifacts: Vec<ArtifactView>,
    /// Why it failed, or why it waits for another try; null otherwise.
    #[schema(required)]
    pub error: Option<Failure>,
    /// What became of the wish to cancel it; null when there was none.
    #[schema(required)]
    pub cancellation: Option<Cancellation>,
    /// How often it was sent to a worker.
    pub attempts: u32,
    /// Where the end is told; null when nobody asked.
    #[schema(required)]
    pub webhook: Option<String>,
    /// The caller's own words, as they came.
    #[schema(required, value_type = Option<Object>)]
    pub metadata: Option<serde_json::Value>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When a worker first took it.
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
}

/// The pictures a render is made from.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Inputs {
    /// Who wears it.
    pub person: AssetId,
    /// What is worn.
    pub garment: AssetId,
}

/// How far a render is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Progress)]
pub(in crate::http) struct ProgressView {
    /// Steps done by the present attempt.
    #[schema(example = 20)]
    pub step: u32,
    /// Steps in all, those of a scene included.
    #[schema(example = 20)]
    pub steps: u32,
}

/// What became of the wish to cancel.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Cancellation {
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Steps that were done when it stopped; null until then.
    #[schema(required)]
    pub stopped_at_step: Option<u32>,
    /// Credits that are free again; null until it has ended.
    #[schema(required)]
    pub released: Option<Credits>,
}

/// An output file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub(in crate::http) struct ArtifactView {
    /// Its id.
    pub id: ArtifactId,
    /// Where to get it, with the same API key.
    #[schema(example = "http://127.0.0.1:8080/v1/artifacts/art_01h455vb4pex5vsknk084sn02q")]
    pub url: String,
    /// Width in pixels.
    #[schema(example = 384)]
    pub width: u32,
    /// Height in pixels.
    #[schema(example = 576)]
    pub height: u32,
    /// Media type.
    #[schema(example = "image/png")]
    pub content_type: String,
    /// Length of the file.
    #[schema(example = 348_160)]
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Digest,
}

impl RenderView {
    /// Shows a render with what is known about its progress.
    pub(in crate::http) fn new(app: &App, render: Render) -> Self {
        let ended = render.status.is_terminal();
        let charged = ended.then(|| match render.status {
            Status::Succeeded => {
                ledger::charge(render.price, render.spec.samples, render.artifacts.len() as u32)
            }
            _ => Credits(0),
        });
        let steps_total = render.spec.steps_total();
        let step = match render.status {
            Status::Succeeded => steps_total,
            Status::Running => app.hub.step(render.id, render.epoch).unwrap_or(0),
            Status::Cancelled => render.cancelled_at_step.unwrap_or(0),
            Status::Queued | Status::Dispatched | Status::Failed | Status::Expired => 0,
        };
        let cancellation = render.cancel_requested_at.map(|requested_at| Cancellation {
            requested_at,
            stopped_at_step: render.cancelled_at_step,
            released: charged.map(|charged| Credits(render.price.0 - charged.0)),
        });
        let public_url = &app.config.public_url;
        let artifacts = render.artifacts.into_iter().map(|artifact| ArtifactView {
            url: format!("{public_url}/v1/artifacts/{}", artifact.id),
            id: artifact.id,
            width: artifact.width,
            height: artifact.height,
            content_type: artifact.content_type,
            bytes: artifact.bytes,
            sha256: artifact.sha256,
        });
        Self {
            id: render.id,
            status: render.status,
            model: render.model,
            release: render.spec.release,
            category: render.spec.category,
            garment_photo: render.spec.garment_photo,
            scene: render.spec.scene.map(|scene| scene.prompt),
            inputs: Inputs { person: render.person, garment: render.garment },
            seed: render.spec.seed,
            samples: render.spec.samples,
            steps: render.spec.steps,
            quality: render.spec.quality,
            format: render.spec.format,
            class: render.class,
            progress: ProgressView { step, steps: steps_total },
            price: render.price,
            charged,
            artifacts: artifacts.collect(),
            error: render.failure,
            cancellation,
            attempts: render.attempts,
            webhook: render.webhook,
            metadata: render.metadata,
            created_at: render.created_at,
            started_at: render.started_at,
            finished_at: render.finished_at,
        }
    }
}
