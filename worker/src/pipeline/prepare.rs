//! Bytes to what the model takes, on a thread that may block.

use std::sync::Arc;

use bytes::Bytes;
use kraftr_imaging::{Limits, RgbImage, decode};
use kraftr_models::{Inputs, Model, Prepared};
use kraftr_protocol::{Failure, FailureCode, RenderSpec, limits};

use super::Ending;
use super::fetch::INPUT_BYTES_MAX;
use crate::engine::{Fault, guarded};

/// What an asset may be, but for the bytes: a normalised asset may be longer than what was uploaded.
const LIMITS: Limits = Limits {
    bytes_max: INPUT_BYTES_MAX,
    side_min: limits::ASSET_SIDE_MIN,
    side_max: limits::ASSET_SIDE_MAX,
    pixels_max: limits::ASSET_PIXELS_MAX,
    aspect_max: limits::ASSET_ASPECT_MAX,
};

/// Decodes both pictures and prepares them for `model`.
pub(super) async fn prepare(
    model: Arc<Model>,
    spec: &RenderSpec,
    person: Bytes,
    garment: Bytes,
) -> Result<Prepared, Ending> {
    let (category, garment_photo) = (spec.category, spec.garment_photo);
    let work = move || {
        let person = picture("person", &person)?;
        let garment = picture("garment", &garment)?;
        let inputs = Inputs { person, garment, category, garment_photo };
        guarded(|| model.prepare(&inputs)).map_err(|fault| match fault {
            Fault::Failed(failure) => Ending::Failed(failure),
            Fault::Crashed => Ending::Crashed,
        })
    };
    // A decoder that panics took this render down as surely as a model that does.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Ending::Crashed))
}

fn picture(name: &str, bytes: &[u8]) -> Result<RgbImage, Failure> {
    let decoded = decode(bytes, &LIMITS);
    decoded.map(|decoded| decoded.image).map_err(|error| {
        Failure::new(FailureCode::InputInvalid, format!("the {name} picture cannot be used: {error}"))
    })
}
