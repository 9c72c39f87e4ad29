//! Pictures to marked files, on threads that may block.

use std::sync::Arc;

use kraftr_imaging::{Encoding, Filter, resize};
use kraftr_models::RgbImage;
use kraftr_protocol::limits::PREVIEW_BYTES_MAX;
use kraftr_protocol::message::Grant;
use kraftr_protocol::{Format, WatermarkRef};
use kraftr_provenance::{KeyRing, MarkError, Marked};
use tokio::sync::Semaphore;

use super::Ending;

/// JPEG quality of artifacts.
const ARTIFACT_QUALITY: u8 = 92;
/// JPEG quality of previews.
const PREVIEW_QUALITY: u8 = 80;
/// The longer side of a preview in pixels.
const PREVIEW_SIDE_MAX: u32 = 384;

const fn encoding(format: Format) -> Encoding {
    match format {
        Format::Png => Encoding::Png,
        Format::Jpeg => Encoding::Jpeg { quality: ARTIFACT_QUALITY },
        Format::Webp => Encoding::Webp,
    }
}

/// Marks and encodes a picture; `None` when the mark cannot be read back from it.
pub(super) async fn seal(
    seals: &Arc<Semaphore>,
    keys: &Arc<KeyRing>,
    grant: &Grant,
    sample: u32,
    picture: RgbImage,
) -> Result<Option<Marked>, Ending> {
    let place = Arc::clone(seals).acquire_owned().await.expect("the semaphore is never closed");
    let (keys, encoding) = (Arc::clone(keys), encoding(grant.spec.format));
    let watermark = grant.watermark.of_sample(sample);
    let sealed = tokio::task::spawn_blocking(move || {
        let _place = place;
        Marked::seal(&picture, watermark.0, keys.first(), encoding)
    });
    match sealed.await {
        Ok(Ok(marked)) => Ok(Some(marked)),
        Ok(Err(error)) => {
            tracing::error!(%error, "a picture could not be marked");
            Ok(None)
        }
        Err(_) => Err(Ending::Crashed),
    }
}

/// A small marked picture, or `None` when it cannot be marked or is too long to be worth sending.
/// `output_size` is that of the artifact: a network may paint fewer pixels than a mark needs.
pub(super) fn preview(
    keys: &KeyRing,
    watermark: WatermarkRef,
    output_size: [u32; 2],
    picture: &RgbImage,
) -> Option<Marked> {
    let encoding = Encoding::Jpeg { quality: PREVIEW_QUALITY };
    let [width, height] = preview_size(output_size);
    let sealed = resize(picture, width, height, Filter::Bilinear)
        .map_err(MarkError::from)
        .and_then(|small| Marked::seal(&small, watermark.0, keys.first(), encoding));
    let marked = sealed.inspect_err(|error| tracing::debug!(%error, "a preview could not be marked")).ok()?;
    (marked.bytes().len() <= PREVIEW_BYTES_MAX).then_some(marked)
}

/// The artifact's size, scaled down to what a preview may have.
fn preview_size(output_size: [u32; 2]) -> [u32; 2] {
    let long = output_size[0].max(output_size[1]);
    let shown = long.min(PREVIEW_SIDE_MAX);
    output_size.map(|side| (side * shown / long.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_small_and_keep_their_shape() {
        assert_eq!(preview_size([256, 384]), [256, 384]);
        assert_eq!(preview_size([768, 1_152]), [256, 384]);
        assert_eq!(preview_size([100, 50]), [100, 50]);
        assert_eq!(preview_size([4_096, 16]), [384, 1]);
    }

    #[test]
    fn a_preview_of_few_pixels_is_enlarged_until_it_can_be_marked() {
        let picture = RgbImage::from_fn(96, 144, |x, y| [(x * 2) as u8, y as u8, 90].into());
        let keys = KeyRing::development();
        let marked = preview(&keys, WatermarkRef([7; 8]), [384, 576], &picture).unwrap();
        assert_eq!((marked.width(), marked.height()), (256, 384));
        assert!(preview(&keys, WatermarkRef([7; 8]), [96, 144], &picture).is_none(), "too small to mark");
    }
}
