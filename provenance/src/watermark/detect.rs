//! Pixels to the mark in them, without the original.

use std::f32::consts::TAU;

use kraftr_imaging::RgbImage;
use rayon::prelude::*;

use super::Strength;
use super::transform::{Layout, SIDE, luma, project};
use crate::payload::{CODED_BITS, decode, encode};
use crate::{Key, KeyRing};

/// What a search for marks found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Whether a mark of one of the keys was read and its check holds.
    pub found: bool,
    /// The payload of the mark.
    pub payload: Option<[u8; 8]>,
    /// How well the carriers agree with the mark that was read: near 1 just after embedding, less the more
    /// was lost since; 0 if none was found.
    pub score: f64,
    /// Name of the key that the mark was made with.
    pub key: Option<String>,
}

/// Searches `image` for a mark of any of `keys`, at each [`Strength`].
///
/// Each of these tries takes an unmarked picture for a marked one with probability 2^-48.
pub fn detect(image: &RgbImage, keys: &KeyRing) -> Detection {
    keys.keys().iter().find_map(|key| read(image, key)).unwrap_or(Detection {
        found: false,
        payload: None,
        score: 0.0,
        key: None,
    })
}

fn read(image: &RgbImage, key: &Key) -> Option<Detection> {
    let layout = Layout::new(image.width(), image.height(), key)?;
    let values = values(image, &layout);
    Strength::ALL.into_iter().find_map(|strength| {
        let soft = soft(&layout, &values, strength.step());
        let payload = decode(&soft, key)?;
        let agreement: f32 = soft.iter().zip(encode(payload, key)).map(|(soft, bit)| soft * bit).sum();
        let score = f64::from(agreement) / layout.slots.len() as f64;
        Some(Detection { found: true, payload: Some(payload), score, key: Some(key.id().to_owned()) })
    })
}

/// The coefficient of each slot.
fn values(image: &RgbImage, layout: &Layout) -> Vec<f32> {
    let width = image.width() as usize;
    let pixels: &[u8] = image;
    let mut values = vec![0.0; layout.slots.len()];
    values
        .par_chunks_exact_mut(layout.per_row)
        .zip(layout.slots.par_chunks_exact(layout.per_row))
        .zip(pixels.par_chunks_exact(SIDE * width * 3))
        .for_each(|((values, slots), rows)| {
            let blocks = values.chunks_exact_mut(layout.per_block);
            for (column, (values, slots)) in blocks.zip(slots.chunks_exact(layout.per_block)).enumerate() {
                let luma = luma(rows, width, column);
                for (value, slot) in values.iter_mut().zip(slots) {
                    *value = project(&luma, slot.pattern());
                }
            }
        });
    values
}

/// For each coded bit, the sum over its slots of 1 (on the lattice of a one) to -1 (on that of a zero).
fn soft(layout: &Layout, values: &[f32], step: f32) -> [f32; CODED_BITS] {
    let mut soft = [0.0; CODED_BITS];
    for (slot, value) in layout.slots.iter().zip(values) {
        soft[usize::from(slot.bit)] += (TAU * (value / step - slot.dither)).cos();
    }
    soft
}
