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

#[cfg(test)]
mod tests {
    use kraftr_models::{Device, Registry, bundled};
    use kraftr_protocol::{Category, Format, GarmentPhoto, Quality};

    use super::*;

    #[tokio::test]
    async fn a_picture_that_was_read_before_is_not_read_again() {
        let model = Arc::new(Registry::bundled().load("demo-tryon", &Device::Cpu).unwrap());
        let readings = Arc::new(Readings::new(1 << 24));
        let spec = RenderSpec {
            release: model.manifest().name.clone(),
            category: Category::Tops,
            garment_photo: GarmentPhoto::FlatLay,
            quality: Quality::Fast,
            steps: 1,
            guidance: 1.0,
            seed: 0,
            samples: 1,
            format: Format::Png,
            scene: None,
        };
        let prepare = async |person: &'static [u8], digest: &[u8]| {
            let person = (Bytes::from_static(person), Digest::of(digest));
            let garment = (Bytes::from_static(bundled::SAMPLE_GARMENT), Digest::of(b"garment"));
            pictures(Arc::clone(&model), &readings, &spec, [person, garment]).await
        };
        assert!(prepare(bundled::SAMPLE_PERSON, b"person").await.is_ok());
        // Whoever looked at the bytes would see that they are no picture.
        assert!(prepare(b"no picture", b"person").await.is_ok(), "it is known by its digest");
        assert!(prepare(b"no picture", b"somebody else").await.is_err());
    }
}
