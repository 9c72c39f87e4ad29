//! Bytes to what the model takes, on a thread that may block.

use std::sync::Arc;

use bytes::Bytes;
use kraftr_imaging::{Limits, RgbImage, decode};
use kraftr_models::{Description, Model, Prepared, Reading, Role};
use kraftr_protocol::spec::Prompt;
use kraftr_protocol::{Digest, Failure, FailureCode, RenderSpec, limits};

use super::Ending;
use super::fetch::INPUT_BYTES_MAX;
use super::readings::Readings;
use crate::engine::{Fault, guarded};

/// What an asset may be, but for the bytes: a normalised asset may be longer than what was uploaded.
const LIMITS: Limits = Limits {
    bytes_max: INPUT_BYTES_MAX,
    side_min: limits::ASSET_SIDE_MIN,
    side_max: limits::ASSET_SIDE_MAX,
    pixels_max: limits::ASSET_PIXELS_MAX,
    aspect_max: limits::ASSET_ASPECT_MAX,
};

/// Prepares the person's and the garment's picture, each with its digest, for `model`. What was read off one of them
/// before is not read again.
pub(super) async fn pictures(
    model: Arc<Model>,
    readings: &Arc<Readings>,
    spec: &RenderSpec,
    [person, garment]: [(Bytes, Digest); 2],
) -> Result<Prepared, Ending> {
    let (category, garment_photo) = (spec.category, spec.garment_photo);
    let readings = Arc::clone(readings);
    let work = move || {
        let read = |name, (bytes, digest): &(Bytes, Digest), role| -> Result<Reading, Ending> {
            // What is kept needs no decoding either.
            if let Some(reading) = readings.get(&model, *digest, role) {
                return Ok(reading);
            }
            let picture = picture(name, bytes)?;
            let reading = guarded(|| model.read(&picture, role)).map_err(ending)?;
            readings.keep(&model, *digest, role, reading.clone());
            Ok(reading)
        };
        let person = read("person", &person, Role::Person)?;
        let garment = read("garment", &garment, Role::Garment(garment_photo))?;
        guarded(|| model.join(&person, &garment, category)).map_err(ending)
    };
    // A decoder that panics took this render down as surely as a model that does.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Ending::Crashed))
}

/// Reads a scene's words for its painter: once for a render, so that no image and no step of it reads them again.
pub(super) async fn words(painter: Arc<Model>, words: Prompt) -> Result<Description, Ending> {
    let work = move || guarded(|| painter.describe(words.as_str())).map_err(ending);
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Ending::Crashed))
}

fn ending(fault: Fault) -> Ending {
    match fault {
        Fault::Failed(failure) => Ending::Failed(failure),
        Fault::Crashed => Ending::Crashed,
    }
}

fn picture(name: &str, bytes: &[u8]) -> Result<RgbImage, Failure> {
    let decoded = decode(bytes, &LIMITS);
    decoded.map(|decoded| decoded.image).map_err(|error| {
        Failure::new(FailureCode::InputInvalid, format!("the {name} picture cannot be used: {error}"))
    })
}
