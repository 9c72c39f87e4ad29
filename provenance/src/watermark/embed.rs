use kraftr_imaging::RgbImage;

use super::detect::{Sums, sum};
use super::layout::places;
use super::transform::{Basis, LINES, SIDE, blocks, grid, offset};
use super::{Strength, check_size};
use crate::payload::{self, CODED_BITS};
use crate::{Key, MarkError};

/// How far a bit may be pushed where the picture works against it, and how little it is pushed where the picture
/// agrees by itself, as multiples of the normal amplitude.
const GAINS: (f32, f32) = (0.3, 2.2);
/// How much more is asked for where clipping takes half.
const SCALE_MAX: f32 = 2.2;

/// Changes of luma in one block.
type Pixels = [[f32; SIDE]; SIDE];

/// Hides `payload` in `image`. The same input gives the same output.
pub fn embed(
    image: &RgbImage,
    payload: [u8; 8],
    key: &Key,
    strength: Strength,
) -> Result<RgbImage, MarkError> {
    check_size(image)?;
    let basis = Basis::new();
    let blocks = blocks(image, &basis);
    let places = places(key, blocks.len());
    let coded = payload::encode(payload, key);
    let gains = gains(&sum(&blocks, &places), &coded);

    let mut marked = image.clone();
    let (across, _) = grid(image);
    for (n, (block, place)) in blocks.iter().zip(&places).enumerate() {
        let mut change = [0.0; LINES];
        for (line, bit) in place.carried(block) {
            // Flat blocks keep the normal amplitude: less is lost to compression, more is seen.
            let gain = 1.0 + (gains[bit] - 1.0) * block.texture;
            change[line] = coded[bit] * place.signs[line] * gain * block.amplitudes[line] * strength.factor();
        }
        add(&mut marked, &basis, n % across, n / across, &change);
    }
    Ok(marked)
}

/// What each bit needs so that the picture says it as loudly as a mark of normal strength does by itself.
fn gains(sums: &Sums, coded: &[f32; CODED_BITS]) -> [f32; CODED_BITS] {
    std::array::from_fn(|bit| {
        // Zero over zero for a bit that no coefficient carries: any gain does.
        let agreement = coded[bit] * sums.values[bit] / sums.expected[bit].max(f32::MIN_POSITIVE);
        (1.0 - agreement).clamp(GAINS.0, GAINS.1)
    })
}

/// Adds `change` to the luma of one block.
fn add(image: &mut RgbImage, basis: &Basis, column: usize, row: usize, change: &[f32; LINES]) {
    let wanted: Pixels = std::array::from_fn(|y| std::array::from_fn(|x| basis.inverse(change, x, y)));
    // White can only get darker and black lighter: what clipping and rounding take away is asked for again, once.
    let kept = kept(image, column, row, &wanted);
    let scale = if kept > 0.0 { (1.0 / kept).clamp(1.0, SCALE_MAX) } else { SCALE_MAX };
    for (y, row_changes) in wanted.iter().enumerate() {
        let start = offset(image, column, row, y);
        let pixels = &mut image.as_mut()[start..start + SIDE * 3];
        for (pixel, wanted) in pixels.chunks_exact_mut(3).zip(row_changes) {
            let step = (wanted * scale).round() as i16;
            for sample in pixel {
                *sample = stepped(*sample, step);
            }
        }
    }
}

/// The share of `wanted` that would be left after clipping and rounding.
fn kept(image: &RgbImage, column: usize, row: usize, wanted: &Pixels) -> f32 {
    let (mut left, mut all) = (0.0, 0.0);
    for (y, row_changes) in wanted.iter().enumerate() {
        let start = offset(image, column, row, y);
        let pixels = &image.as_raw()[start..start + SIDE * 3];
        for (pixel, wanted) in pixels.chunks_exact(3).zip(row_changes) {
            let step = wanted.round() as i16;
            // Green is most of luma.
            left += wanted * (f32::from(stepped(pixel[1], step)) - f32::from(pixel[1]));
            all += wanted * wanted;
        }
    }
    if all > 0.0 { left / all } else { 1.0 }
}

fn stepped(sample: u8, step: i16) -> u8 {
    (i16::from(sample) + step).clamp(0, 255) as u8
}
