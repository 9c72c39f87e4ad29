//! Where people are: YOLOX over the whole picture, then the boxes that overlap least.

use kraftr_imaging::RgbImage;
use kraftr_imaging::opencv::{self, Interpolation};

use super::onnx::Network;
use crate::ModelError;

/// Sides of the square that the network looks at.
const INPUT: u32 = 640;
/// The grey beside and below a picture that is no square.
const GREY: u8 = 114;
/// Pixels between two anchors, in the order of the network's rows.
const STRIDES: [u32; 3] = [8, 16, 32];
/// Values of a row before those of its classes: centre, size, and whether there is anything.
const BOX_VALUES: usize = 5;
/// Boxes below this score are not looked at, and those below the second not kept.
const SCORE_MIN: [f32; 2] = [0.1, 0.3];
/// Of two boxes that overlap more than this, the better one stays.
const OVERLAP_MAX: f32 = 0.45;

/// Left, top, right and bottom in pixels.
pub(crate) type Box = [f32; 4];

/// A picture in the network's square, at the top left.
pub(crate) struct Letterbox {
    /// Blue, green and red planes, `[3, 640, 640]`, 0 to 255.
    pub(crate) planes: Vec<f32>,
    /// Pixels of the square for one of the picture.
    pub(crate) ratio: f64,
}

impl Letterbox {
    pub(crate) fn of(picture: &RgbImage) -> Result<Self, ModelError> {
        let (width, height) = picture.dimensions();
        let side = f64::from(INPUT);
        let ratio = (side / f64::from(height)).min(side / f64::from(width));
        let [w, h] = [width, height].map(|of| ((f64::from(of) * ratio) as u32).clamp(1, INPUT));
        let scaled = opencv::resize(picture, w, h, Interpolation::Linear)?;
        let pixels = (INPUT * INPUT) as usize;
        let mut planes = vec![f32::from(GREY); 3 * pixels];
        for (x, y, pixel) in scaled.enumerate_pixels() {
            for (plane, byte) in pixel.0.iter().rev().enumerate() {
                planes[plane * pixels + (y * INPUT + x) as usize] = f32::from(*byte);
            }
        }
        Ok(Self { planes, ratio })
    }

    /// The people in the network's `[anchors, 5 + classes]`, the surest first, in pixels of the picture.
    pub(crate) fn people(&self, rows: &[f32], row: usize) -> Vec<Box> {
        let anchors = STRIDES.iter().flat_map(|stride| {
            let side = INPUT / stride;
            (0..side * side).map(move |n| (n % side, n / side, *stride))
        });
        let mut candidates: Vec<(f32, Box)> = anchors
            .zip(rows.chunks_exact(row))
            // The first class is people.
            .map(|(anchor, values)| (values[4] * values[BOX_VALUES], anchor, values))
            .filter(|(score, ..)| *score > SCORE_MIN[0])
            .map(|(score, (x, y, stride), values)| {
                let place = |n: usize, at: u32| (values[n] + at as f32) * stride as f32;
                let (x, y) = (place(0, x), place(1, y));
                let [w, h] = [values[2], values[3]].map(|size| size.exp() * stride as f32);
                let sides = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
                (score, sides.map(|side| side / self.ratio as f32))
            })
            .collect();
        candidates.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut kept: Vec<(f32, Box)> = Vec::new();
        for (score, candidate) in candidates {
            if kept.iter().all(|(_, other)| overlap(other, &candidate) <= OVERLAP_MAX) {
                kept.push((score, candidate));
            }
        }
        kept.into_iter().filter(|(score, _)| *score > SCORE_MIN[1]).map(|(_, person)| person).collect()
    }
}

/// What two boxes share of what they cover together; sides count as whole pixels.
fn overlap(a: &Box, b: &Box) -> f32 {
    let area = |[left, top, right, bottom]: &Box| (right - left + 1.0) * (bottom - top + 1.0);
    let shared = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let width = (shared[2] - shared[0] + 1.0).max(0.0);
    let height = (shared[3] - shared[1] + 1.0).max(0.0);
    let shared = width * height;
    shared / (area(a) + area(b) - shared)
}

/// The network that finds people.
pub(crate) struct Detector {
    network: Network,
}

impl Detector {
    /// A network from the bytes of its file, which `name` names in errors.
    pub(crate) fn load(name: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        Ok(Self { network: Network::load(name, bytes)? })
    }

    /// Boxes around people, the surest first.
    pub(crate) fn detect(&self, picture: &RgbImage) -> Result<Vec<Box>, ModelError> {
        let mut letterbox = Letterbox::of(picture)?;
        let side = INPUT as usize;
        let planes = std::mem::take(&mut letterbox.planes);
        let outputs = self.network.run(planes, [1, 3, side, side])?;
        let anchors: usize = STRIDES.iter().map(|stride| (INPUT / stride).pow(2) as usize).sum();
        match outputs.first().map(|output| (output.shape.as_slice(), output)) {
            Some(([1, rows, row], output)) if *rows == anchors && *row > BOX_VALUES => {
                Ok(letterbox.people(&output.values, *row))
            }
            _ => Err(self.network.unexpected(&outputs, &format!("[1, {anchors}, 5 + classes]"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_overlap_by_what_they_share() {
        assert!((overlap(&[0.0, 0.0, 9.0, 9.0], &[0.0, 0.0, 9.0, 9.0]) - 1.0).abs() < 1e-6);
        assert!((overlap(&[0.0, 0.0, 9.0, 9.0], &[5.0, 0.0, 14.0, 9.0]) - 50.0 / 150.0).abs() < 1e-6);
        assert!(overlap(&[0.0, 0.0, 9.0, 9.0], &[10.0, 10.0, 19.0, 19.0]).abs() < 1e-6);
    }

    #[test]
    fn of_boxes_over_each_other_the_surest_stays() {
        let letterbox = Letterbox { planes: Vec::new(), ratio: 2.0 };
        let mut rows = vec![0.0; 8_400 * 6];
        let mut put = |anchor: usize, centre: f32, score: f32| {
            let stride_of_40_pixels = (40.0f32 / 8.0).ln();
            let values = [centre, centre, stride_of_40_pixels, stride_of_40_pixels, 1.0, score];
            rows[anchor * 6..][..6].copy_from_slice(&values);
        };
        put(0, 10.0, 0.6); // 60..100
        put(80, 9.5, 0.9); // a row below: 76 - 20..
        put(40, 3.0, 0.2); // too unsure
        let people = letterbox.people(&rows, 6);
        assert_eq!(people, [[28.0, 32.0, 48.0, 52.0]]);
    }
}
