//! A picture as the watermark sees it: a few DCT coefficients of each 8x8 block of luma, and how much each may change.

use std::f32::consts::PI;

use kraftr_imaging::RgbImage;

/// Coefficients of a block that carry the mark.
pub(super) const LINES: usize = 5;
/// Their horizontal and vertical frequency: wavelengths of 4 to 7 pixels. Not on the axes, where edges and
/// borders are; not lower, where a flat wall shows blotches; not higher, where JPEG quantises coarsely.
const FREQUENCIES: [(usize, usize); LINES] = [(2, 1), (1, 2), (2, 2), (1, 3), (3, 1)];
/// How the amplitude is shared between them: by the steps that JPEG quality 75 quantises luma with (7, 7, 8, 9, 10).
const SHARES: [f32; LINES] = [0.95, 0.95, 1.05, 1.15, 1.2];
pub(super) const SIDE: usize = 8;

/// Change of a flat block in levels of luma, root mean square. Below it, JPEG quality 75 rounds the mark away.
const RMS_FLAT: f32 = 0.62;
/// Change of the busiest block.
const RMS_MAX: f32 = 2.4;
/// Change that each level of activity hides.
const RMS_PER_ACTIVITY: f32 = 0.1;
/// Amplitude of one coefficient that survives JPEG quality 75: a block has as many marked lines as its share of
/// change allows at this amplitude.
const AMPLITUDE: f32 = 5.0;
/// Variance that compression adds to a coefficient.
const NOISE: f32 = 6.0;

/// One block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Its coefficients, orthonormal.
    pub(super) coefficients: [f32; LINES],
    /// Lines that carry the mark: 1 in flat blocks, all in busy ones.
    pub(super) lines: usize,
    /// Amplitude of the mark on each of them at normal strength.
    pub(super) amplitudes: [f32; LINES],
    /// What a coefficient counts for when bits are summed: amplitude over variance, but for the amplitude.
    pub(super) reliability: f32,
    /// 0 for flat blocks, 1 for busy ones.
    pub(super) texture: f32,
}

/// The cosines of the DCT for frequencies 1, 2 and 3, orthonormal.
pub(super) struct Basis([[f32; SIDE]; 3]);

impl Basis {
    pub(super) fn new() -> Self {
        Self([1.0, 2.0, 3.0].map(|frequency: f32| {
            std::array::from_fn(|x| 0.5 * (PI * frequency * (2 * x + 1) as f32 / 16.0).cos())
        }))
    }

    fn wave(&self, frequency: usize) -> &[f32; SIDE] {
        &self.0[frequency - 1]
    }

    fn forward(&self, luma: &[[f32; SIDE]; SIDE]) -> [f32; LINES] {
        let columns = self.0.map(|wave| luma.map(|row| dot(&row, &wave)));
        FREQUENCIES.map(|(u, v)| dot(&columns[u - 1], self.wave(v)))
    }

    /// The luma at (`x`, `y`) of a block with these coefficients.
    pub(super) fn inverse(&self, coefficients: &[f32; LINES], x: usize, y: usize) -> f32 {
        let term =
            |(coefficient, (u, v)): (&f32, (usize, usize))| coefficient * self.wave(u)[x] * self.wave(v)[y];
        coefficients.iter().zip(FREQUENCIES).map(term).sum()
    }
}

/// Blocks across and down. What is left at the right and bottom edge stays as it is.
pub(super) fn grid(image: &RgbImage) -> (usize, usize) {
    (image.width() as usize / SIDE, image.height() as usize / SIDE)
}

/// All blocks in reading order.
pub(super) fn blocks(image: &RgbImage, basis: &Basis) -> Vec<Block> {
    let (across, down) = grid(image);
    let mut blocks = Vec::with_capacity(across * down);
    for row in 0..down {
        for column in 0..across {
            blocks.push(block(&luma(image, column, row), basis));
        }
    }
    blocks
}

/// Where the bytes of row `y` of a block begin in the picture.
pub(super) fn offset(image: &RgbImage, column: usize, row: usize, y: usize) -> usize {
    ((row * SIDE + y) * image.width() as usize + column * SIDE) * 3
}

fn luma(image: &RgbImage, column: usize, row: usize) -> [[f32; SIDE]; SIDE] {
    std::array::from_fn(|y| {
        let start = offset(image, column, row, y);
        let pixels = &image.as_raw()[start..start + SIDE * 3];
        std::array::from_fn(|x| {
            let [r, g, b] = [pixels[3 * x], pixels[3 * x + 1], pixels[3 * x + 2]].map(f32::from);
            0.299 * r + 0.587 * g + 0.114 * b
        })
    })
}

fn block(luma: &[[f32; SIDE]; SIDE], basis: &Basis) -> Block {
    let coefficients = basis.forward(luma);
    let rms = (RMS_FLAT + RMS_PER_ACTIVITY * activity(luma)).min(RMS_MAX);
    // By Parseval, the coefficients of a block of rms r have 64 r^2 as the sum of their squares.
    let energy = 64.0 * rms * rms;
    let lines = ((energy / (AMPLITUDE * AMPLITUDE)) as usize).clamp(1, LINES);
    let amplitude = (energy / lines as f32).sqrt();
    let mean_square = coefficients.iter().map(|c| c * c).sum::<f32>() / LINES as f32;
    Block {
        coefficients,
        lines,
        amplitudes: SHARES.map(|share| share * amplitude),
        reliability: 1.0 / (mean_square + NOISE),
        texture: ((rms - RMS_FLAT) / RMS_FLAT).min(1.0),
    }
}

/// The root mean square step between neighbours, in the quietest quarter: an edge beside a flat wall must not
/// let the mark into the wall.
fn activity(luma: &[[f32; SIDE]; SIDE]) -> f32 {
    let quarter = |top: usize, left: usize| {
        let mut sum = 0.0;
        for y in top..top + SIDE / 2 {
            for x in left..left + SIDE / 2 {
                let across = luma[y][x] - luma[y][x ^ 1];
                let down = luma[y][x] - luma[y ^ 1][x];
                sum += across * across + down * down;
            }
        }
        sum / 32.0
    };
    let quarters = [quarter(0, 0), quarter(0, 4), quarter(4, 0), quarter(4, 4)];
    quarters.into_iter().fold(f32::INFINITY, f32::min).sqrt()
}

fn dot(a: &[f32; SIDE], b: &[f32; SIDE]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
