//! Pixels to marked pixels.

use kraftr_imaging::RgbImage;

use super::lattice::Lattice;
use super::masking::Places;
use super::plane::Plane;
use super::quality::{Limits, SSIM_RADIUS};
use super::texture::Texture;
use super::tile::Tile;
use super::{SIDE_MIN, Strength, canonical_scale};
use crate::{Key, MarkError, payload};

/// Hides `payload` in `image` under `key`. The same input gives the same output.
pub fn embed(
    image: &RgbImage,
    payload: [u8; 8],
    key: &Key,
    strength: Strength,
) -> Result<RgbImage, MarkError> {
    let (width, height) = image.dimensions();
    if width.min(height) < SIDE_MIN {
        return Err(MarkError::TooSmall { width, height, side_min: SIDE_MIN });
    }
    let luma = Plane::luma(image);
    let pitch = canonical_scale(luma.width, luma.height).recip();
    let tile = Tile::new(&Lattice::new(key), &payload::encode(payload, key));
    let wave = tile.spread(luma.width, luma.height, pitch);
    let texture = Texture::new(&luma, pitch);
    let variance = luma.variance(SSIM_RADIUS);
    let (masking, seen) = Places::new(&luma, &variance, &texture, pitch).best();
    let mut pattern = texture.heights(masking);
    pattern.iter_mut().zip(&wave).for_each(|(height, wave)| *height *= wave);
    let limits = Limits::new(image, &variance, &pattern, seen);
    let height = limits.height() * strength.factor();
    let mut marked = image.clone();
    for (pixel, change) in marked.chunks_exact_mut(3).zip(&pattern) {
        let change = rounded(change * height);
        for level in pixel {
            *level = i16::from(*level).saturating_add(change).clamp(0, 255) as u8;
        }
    }
    Ok(marked)
}

/// The whole number next to `change`, of at most a few thousand; `f32::round` calls a function for each pixel.
fn rounded(change: f32) -> i16 {
    const ABOVE_ZERO: i16 = 1 << 13;
    (change + f32::from(ABOVE_ZERO) + 0.5) as i16 - ABOVE_ZERO
}
