//! Pixels to marked pixels.

use kraftr_imaging::RgbImage;
use rayon::prelude::*;

use super::transform::{Layout, Pattern, SIDE, Slot, luma, project};
use super::{SIDE_MIN, Strength};
use crate::{Key, MarkError, payload};

/// Passes over a block at most: clipping and rounding to 8 bits undo a part of each.
const PASSES: usize = 6;
/// A carrier this near to its lattice point, in steps, is left as it is.
const NEAR: f32 = 0.08;

/// Hides `payload` in `image` under `key`. The same input gives the same output.
pub fn embed(
    image: &RgbImage,
    payload: [u8; 8],
    key: &Key,
    strength: Strength,
) -> Result<RgbImage, MarkError> {
    let (width, height) = image.dimensions();
    let layout =
        Layout::new(width, height, key).ok_or(MarkError::TooSmall { width, height, side_min: SIDE_MIN })?;
    let lattice = Lattice { coded: &payload::encode(payload, key), step: strength.step() };
    let width = width as usize;
    let mut marked = image.clone();
    let pixels: &mut [u8] = &mut marked;
    pixels
        .par_chunks_exact_mut(SIDE * width * 3)
        .zip(layout.slots.par_chunks_exact(layout.per_row))
        .for_each(|(rows, slots)| {
            for (column, slots) in slots.chunks_exact(layout.per_block).enumerate() {
                lattice.mark(rows, width, column, slots);
            }
        });
    Ok(marked)
}

struct Lattice<'a> {
    coded: &'a [f32],
    step: f32,
}

impl Lattice<'_> {
    /// Moves the carriers of a block onto their lattices, as far as 8-bit pixels allow.
    ///
    /// The change is kept as real numbers beside the original pixels, so that what rounding and clipping
    /// take in one pass is asked of the other pixels in the next.
    fn mark(&self, rows: &mut [u8], width: usize, column: usize, slots: &[Slot]) {
        let original = pixels(rows, width, column);
        let mut change: Pattern = [0.0; SIDE * SIDE];
        for _ in 0..PASSES {
            let now = luma(rows, width, column);
            let mut done = true;
            for slot in slots {
                let miss = self.miss(project(&now, slot.pattern()), *slot);
                if miss.abs() > NEAR * self.step {
                    done = false;
                    change.iter_mut().zip(slot.pattern()).for_each(|(change, wave)| *change += miss * wave);
                }
            }
            if done {
                break;
            }
            write(rows, width, column, &original, &change);
        }
    }

    /// The way from `value` to the nearest lattice point that stands for the slot's bit.
    fn miss(&self, value: f32, slot: Slot) -> f32 {
        let half = if self.coded[usize::from(slot.bit)] > 0.0 { 0.0 } else { 0.5 };
        let at = value / self.step - slot.dither - half;
        (at.round() - at) * self.step
    }
}

fn pixels(rows: &[u8], width: usize, column: usize) -> [u8; SIDE * SIDE * 3] {
    let mut block = [0; SIDE * SIDE * 3];
    for (y, line) in block.chunks_exact_mut(SIDE * 3).enumerate() {
        let start = (y * width + column * SIDE) * 3;
        line.copy_from_slice(&rows[start..start + SIDE * 3]);
    }
    block
}

fn write(rows: &mut [u8], width: usize, column: usize, original: &[u8], change: &Pattern) {
    for (y, (line, change)) in original.chunks_exact(SIDE * 3).zip(change.chunks_exact(SIDE)).enumerate() {
        let start = (y * width + column * SIDE) * 3;
        let target = rows[start..start + SIDE * 3].chunks_exact_mut(3);
        for ((target, pixel), change) in target.zip(line.chunks_exact(3)).zip(change) {
            let change = change.round() as i16;
            for (target, sample) in target.iter_mut().zip(pixel) {
                *target = (i16::from(*sample).saturating_add(change)).clamp(0, 255) as u8;
            }
        }
    }
}
