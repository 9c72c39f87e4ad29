use kraftr_imaging::RgbImage;

use super::check_size;
use super::layout::{Place, places};
use super::transform::{Basis, Block, blocks};
use crate::payload::{self, CODED_BITS};
use crate::{Key, KeyRing};

/// Agreement with the picture that a word needs besides its check, in standard deviations: a picture without
/// content agrees with nothing.
const SCORE_MIN: f64 = 5.0;

/// What a picture says about where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// True when one of the keys marked it: wrong for less than one picture in 10^9, see README.md.
    pub found: bool,
    /// The bits that were embedded; present exactly when found.
    pub payload: Option<[u8; 8]>,
    /// How far the picture agrees with the word that was read, in standard deviations of what an unmarked picture
    /// would show; 0 when nothing was found.
    pub score: f64,
    /// The name of the key that marked it; present exactly when found.
    pub key: Option<String>,
}

/// Looks for a mark of any of `keys`. Smaller pictures than [`SIDE_MIN`](crate::SIDE_MIN) carry none.
pub fn detect(image: &RgbImage, keys: &KeyRing) -> Detection {
    let unmarked = Detection { found: false, payload: None, score: 0.0, key: None };
    if check_size(image).is_err() {
        return unmarked;
    }
    let blocks = blocks(image, &Basis::new());
    keys.keys().iter().find_map(|key| detect_one(&blocks, key)).unwrap_or(unmarked)
}

fn detect_one(blocks: &[Block], key: &Key) -> Option<Detection> {
    let sums = sum(blocks, &places(key, blocks.len()));
    let (payload, coded) = payload::decode(&sums.values, key)?;
    let agreement: f32 = coded.iter().zip(&sums.values).map(|(sign, value)| sign * value).sum();
    let score = f64::from(agreement) / f64::from(sums.variance).sqrt();
    // Not `score < SCORE_MIN`: a picture without any variance has no number here.
    (score >= SCORE_MIN).then(|| Detection {
        found: true,
        payload: Some(payload),
        score,
        key: Some(key.id().to_owned()),
    })
}

/// All coefficients of a picture, gathered by the coded bit that they carry.
pub(super) struct Sums {
    /// For each bit the log-likelihood of a 1, up to a common factor.
    pub(super) values: [f32; CODED_BITS],
    /// What a mark of normal strength adds to each, in absolute value.
    pub(super) expected: [f32; CODED_BITS],
    /// Sum of squares of all that was added up.
    pub(super) variance: f32,
}

pub(super) fn sum(blocks: &[Block], places: &[Place]) -> Sums {
    let mut sums = Sums { values: [0.0; CODED_BITS], expected: [0.0; CODED_BITS], variance: 0.0 };
    for (block, place) in blocks.iter().zip(places) {
        for (line, bit) in place.carried(block) {
            let weight = block.amplitudes[line] * block.reliability;
            let value = weight * place.signs[line] * block.coefficients[line];
            sums.values[bit] += value;
            sums.expected[bit] += weight * block.amplitudes[line];
            sums.variance += value * value;
        }
    }
    sums
}
