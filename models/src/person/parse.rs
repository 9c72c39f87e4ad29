//! Human parsing: every pixel of a picture to one of 18 classes.
//!
//! Source: the package `fashn-human-parser` 0.1.1 (MIT) for preparation and classes. The published weights inherit
//! NVIDIA's SegFormer licence, which forbids commercial use: see `allow_noncommercial` in docs/config.md.

use candle_core::{Device, Tensor};
use kraftr_imaging::RgbImage;
use kraftr_imaging::opencv::{self, Interpolation};

use super::mask::Mask;
use super::segformer::{Config, Segformer};
use crate::ModelError;
use crate::device::Precision;
use crate::weights::Weights;

/// Pixels that the network looks at, width and height.
const INPUT: [u32; 2] = [384, 576];
/// `ImageNet`'s mean and deviation of red, green and blue.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// What a pixel shows; the numbers are the network's, and 0 is the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Label {
    Face = 1,
    Hair,
    Top,
    Dress,
    Skirt,
    Pants,
    Belt,
    Bag,
    Hat,
    Scarf,
    Glasses,
    Arms,
    Hands,
    Legs,
    Feet,
    Torso,
    Jewelry,
}

impl Label {
    /// How many there are, the background included.
    pub(crate) const COUNT: usize = Self::Jewelry as usize + 1;
}

/// A class for every pixel of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelMap {
    width: usize,
    height: usize,
    /// Row by row, each below [`Label::COUNT`].
    labels: Vec<u8>,
}

impl LabelMap {
    /// A map of given classes, row by row; `None` when they do not fill it or are none of [`Label`]'s.
    pub(crate) fn new(width: usize, height: usize, labels: Vec<u8>) -> Option<Self> {
        let known = labels.iter().all(|label| usize::from(*label) < Label::COUNT);
        (labels.len() == width * height && known).then_some(Self { width, height, labels })
    }

    /// Where one of `labels` is.
    pub(crate) fn mask(&self, labels: &[Label]) -> Mask {
        let mut wanted = [false; Label::COUNT];
        for label in labels {
            wanted[*label as usize] = true;
        }
        let set = self.labels.iter().map(|label| wanted[usize::from(*label)]).collect();
        Mask::new(self.width, self.height, set)
    }

    /// Where nothing of a person is, nor what they wear or carry.
    pub(crate) fn background(&self) -> Mask {
        Mask::new(self.width, self.height, self.labels.iter().map(|label| *label == 0).collect())
    }

    /// Bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.labels.len()
    }
}

/// The network, on a device.
pub(crate) struct Parser {
    network: Segformer,
    device: Device,
}

impl Parser {
    /// A network of any size.
    pub(crate) fn load(config: &Config, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let tensors = weights.open(&config.contract(), device, Precision::F32)?;
        Ok(Self { network: Segformer::load(config, &tensors)?, device: device.clone() })
    }

    /// The class of every pixel of `picture`.
    pub(crate) fn parse(&self, picture: &RgbImage) -> Result<LabelMap, ModelError> {
        let logits = self.network.forward(&self.input(picture)?)?;
        let (_, _, rows, columns) = logits.dims4()?;
        let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        Ok(LabelMap { width, height, labels: likeliest(&logits, [rows, columns], [height, width]) })
    }

    /// `[1, 3, height, width]` of the network, whatever the picture's aspect.
    fn input(&self, picture: &RgbImage) -> Result<Tensor, ModelError> {
        let [width, height] = INPUT;
        let grows = picture.width() < width || picture.height() < height;
        // Where a side grows, OpenCV's area interpolation is a linear one.
        let interpolation = if grows { Interpolation::Linear } else { Interpolation::Area };
        let scaled = opencv::resize(picture, width, height, interpolation)?;
        let pixels = (width * height) as usize;
        let mut planes = vec![0.0; 3 * pixels];
        for (at, pixel) in scaled.pixels().enumerate() {
            for (plane, byte) in pixel.0.iter().enumerate() {
                planes[plane * pixels + at] = (f32::from(*byte) / 255.0 - MEAN[plane]) / DEVIATION[plane];
            }
        }
        Ok(Tensor::from_vec(planes, (1, 3, height as usize, width as usize), &self.device)?)
    }
}

/// Scales logits `[classes, from]` to `to` (height and width), between the nearest ones, and takes the largest.
fn likeliest(logits: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let axis = |n: usize| -> Vec<(usize, usize, f32)> {
        let (of, to) = (from[n], to[n]);
        let centre = |at: usize| ((at as f32 + 0.5) * of as f32 / to as f32 - 0.5).max(0.0);
        let place = |centre: f32| {
            let below = (centre as usize).min(of - 1);
            (below, (below + 1).min(of - 1), centre - below as f32)
        };
        (0..to).map(|at| place(centre(at))).collect()
    };
    let (down, across) = (axis(0), axis(1));
    let plane = from[0] * from[1];
    let mut labels = Vec::with_capacity(to[0] * to[1]);
    // Rows between the network's, one for each class.
    let mut rows = vec![0.0; logits.len() / plane * from[1]];
    for (above, below, part) in down {
        for (row, logits) in rows.chunks_exact_mut(from[1]).zip(logits.chunks_exact(plane)) {
            let (above, below) = (&logits[above * from[1]..], &logits[below * from[1]..]);
            for (at, value) in row.iter_mut().enumerate() {
                *value = above[at] + (below[at] - above[at]) * part;
            }
        }
        labels.extend(across.iter().map(|(left, right, part)| {
            let value = |row: &[f32]| row[*left] + (row[*right] - row[*left]) * part;
            let mut best = (0u8, f32::NEG_INFINITY);
            for (label, row) in (0u8..).zip(rows.chunks_exact(from[1])) {
                let value = value(row);
                if value > best.1 {
                    best = (label, value);
                }
            }
            best.0
        }));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_wins_after_scaling() {
        // Two classes over 1 x 2: the border lies in the middle.
        let labels = likeliest(&[1.0, 0.0, 0.0, 1.0], [1, 2], [2, 6]);
        assert_eq!(labels, [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
        // Uneven logits move it.
        let labels = likeliest(&[5.0, 0.0, 0.0, 1.0], [1, 2], [1, 6]);
        assert_eq!(labels, [0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn labels_beyond_the_last_are_no_map() {
        assert!(LabelMap::new(2, 1, vec![0, 17]).is_some());
        assert!(LabelMap::new(2, 1, vec![0, 18]).is_none());
        assert!(LabelMap::new(2, 2, vec![0, 17]).is_none());
    }
}
