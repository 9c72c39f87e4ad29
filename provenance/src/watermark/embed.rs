//! Pixels to marked pixels.

use kraftr_imaging::RgbImage;

use super::lattice::Lattice;
use super::plane::Plane;
use super::quality::Limits;
use super::texture::{Masking, Texture};
use super::tile::Tile;
use super::{SIDE_MIN, Strength, canonical_scale};
use crate::{Key, MarkError, payload};

/// How a mark follows texture: steeply where sight is the limit, so that plain ground takes little of it, and less so
/// where energy is, so that busy ground does not take all.
const SIGHT: Masking = Masking(0.63);
const ENERGY: Masking = Masking(0.41);

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
    let masked = |masking| {
        let mut pattern = texture.heights(masking);
        pattern.iter_mut().zip(&wave).for_each(|(height, wave)| *height *= wave);
        let limits = Limits::new(image, &luma, &pattern);
        (pattern, limits)
    };
    let (mut pattern, mut limits) = masked(SIGHT);
    if limits.energy < limits.plain.min(limits.ssim) {
        (pattern, limits) = masked(ENERGY);
    }
    let height = limits.height() * strength.factor();
    let mut marked = image.clone();
    for (pixel, change) in marked.chunks_exact_mut(3).zip(&pattern) {
        let change = (change * height).round() as i16;
        for level in pixel {
            *level = i16::from(*level).saturating_add(change).clamp(0, 255) as u8;
        }
    }
    Ok(marked)
}
