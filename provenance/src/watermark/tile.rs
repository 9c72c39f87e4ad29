//! The pattern that repeats over a picture.

use rustfft::num_complex::Complex32;
use rustfft::{FftDirection, FftPlanner};

use super::lattice::{Lattice, TILE, TILT};
use crate::payload::CODED_BITS;

/// Samples for each canonical pixel: reading between them linearly is then off by under 2 % at the fastest line.
const FINE: usize = 4;
const SIDE: usize = TILE * FINE;

/// One period of the mark, finely sampled, of mean 0 and variance 1.
pub(crate) struct Tile {
    samples: Vec<f32>,
}

impl Tile {
    /// The pattern of these coded bits on `lattice`.
    pub(crate) fn new(lattice: &Lattice, coded: &[f32; CODED_BITS]) -> Self {
        // Columns of the spectrum, by horizontal frequency; both halves, so that the pattern is real.
        let mut spectrum = vec![Complex32::ZERO; SIDE * SIDE];
        let mut energy = 0.0;
        let wrap = |frequency: i16| (i32::from(frequency)).rem_euclid(SIDE as i32) as usize;
        for (line, value) in lattice.values(coded) {
            let value = value * line.radius().powf(-TILT);
            energy += 2.0 * value.norm_sqr();
            spectrum[wrap(line.u) * SIDE + wrap(line.v)] = value;
            spectrum[wrap(-line.u) * SIDE + wrap(-line.v)] = value.conj();
        }
        let inverse = FftPlanner::new().plan_fft(SIDE, FftDirection::Inverse);
        for column in spectrum.chunks_exact_mut(SIDE) {
            if column.iter().any(|value| *value != Complex32::ZERO) {
                inverse.process(column);
            }
        }
        let mut samples = vec![0.0; SIDE * SIDE];
        let mut row = vec![Complex32::ZERO; SIDE];
        let scale = energy.sqrt().recip();
        for (y, samples) in samples.chunks_exact_mut(SIDE).enumerate() {
            row.iter_mut().enumerate().for_each(|(x, value)| *value = spectrum[x * SIDE + y]);
            inverse.process(&mut row);
            samples.iter_mut().zip(&row).for_each(|(sample, value)| *sample = value.re * scale);
        }
        Self { samples }
    }

    /// The mark of a picture of `width` by `height` pixels, each `pitch` canonical pixels wide, by rows. The tile's
    /// origin is at the picture's centre.
    pub(crate) fn spread(&self, width: usize, height: usize, pitch: f64) -> Vec<f32> {
        let places = |count: usize| -> Vec<(usize, f32)> {
            let place = |index: usize| {
                let at =
                    ((index as f64 + 0.5 - count as f64 / 2.0) * pitch * FINE as f64).rem_euclid(SIDE as f64);
                (at as usize % SIDE, at.fract() as f32)
            };
            (0..count).map(place).collect()
        };
        let columns = places(width);
        let mut line = vec![0.0; SIDE + 1];
        let mut spread = Vec::with_capacity(width * height);
        for (row, part) in places(height) {
            let upper = &self.samples[row * SIDE..][..SIDE];
            let lower = &self.samples[(row + 1) % SIDE * SIDE..][..SIDE];
            for ((line, upper), lower) in line.iter_mut().zip(upper).zip(lower) {
                *line = upper + (lower - upper) * part;
            }
            line[SIDE] = line[0];
            spread.extend(columns.iter().map(|(at, part)| line[*at] + (line[at + 1] - line[*at]) * part));
        }
        spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, payload};

    #[test]
    fn a_tile_repeats_and_has_unit_variance() {
        let key = Key::development();
        let tile = Tile::new(&Lattice::new(&key), &payload::encode([9; 8], &key));
        let spread = tile.spread(2 * TILE, 2 * TILE, 1.0);
        let mean = spread.iter().sum::<f32>() / spread.len() as f32;
        let variance = spread.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / spread.len() as f32;
        assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        for (y, row) in spread.chunks_exact(2 * TILE).enumerate().take(TILE) {
            let below = &spread[(y + TILE) * 2 * TILE..][..2 * TILE];
            assert!(row.iter().zip(below).all(|(a, b)| (a - b).abs() < 1e-3));
            assert!(row[..TILE].iter().zip(&row[TILE..]).all(|(a, b)| (a - b).abs() < 1e-3));
        }
    }
}
