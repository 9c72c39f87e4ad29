//! A spectrum's power at a glance, for trying hundreds of thousands of lattices.

use std::sync::LazyLock;

use super::lattice::{TILE, lines};
use super::pose::Matrix;
use super::spectrum::Spectrum;

/// Points for each frequency that the picture resolves, in each direction.
const FINENESS: f64 = 1.5;
/// Radius in points of the box whose mean power a point is compared with.
const SURROUNDINGS: usize = 8;
/// Largest power in units of that mean: what stands out more is the picture's own.
const CLIP: f32 = 4.0;
/// Frequency in cycles for each pixel above which nothing is seen.
const FREQUENCY_MAX: f64 = 0.49;
/// Lines that are tried together, so that the processor's vector units can be.
const CHUNK: usize = 8;
/// Added to a number that is not negative and below 2^22, leaves the nearest whole one in the lower bits.
const ROUNDER: f32 = 12_582_912.0;
const ROUNDED: u32 = 0x003F_FFFF;
/// Parts that the lines are looked at in.
const PARTS: usize = 8;
/// Deviations that one part, and two, must promise before more are looked at.
const PROMISING: [f64; 2] = [0.5, 1.5];

/// How much power the spectrum has at each frequency, against its surroundings.
pub(crate) struct Relief {
    /// By vertical, then by horizontal frequency, the latter from 0, each row of a power of two.
    values: Vec<u8>,
    /// Base-two logarithm of a row's length.
    row_bits: u32,
    /// Columns and rows that hold frequencies; the outermost stand for those beyond.
    columns: usize,
    rows: usize,
    /// Points for each cycle per pixel, across and down.
    points: (f64, f64),
    mean: f64,
    deviation: f64,
}

/// Frequencies of some lines, across and down, in cycles for each canonical pixel.
struct Chunk {
    across: [f32; CHUNK],
    down: [f32; CHUNK],
}

impl Relief {
    /// Of frequencies up to `most` cycles for each pixel, across and down.
    pub(crate) fn new(spectrum: &Spectrum, most: f64) -> Self {
        let most = most.min(FREQUENCY_MAX);
        let points = (spectrum.width as f64 * FINENESS, spectrum.height as f64 * FINENESS);
        let half = (points.1 * most) as usize + 1;
        let (columns, rows) = ((points.0 * most) as usize + 2, 2 * half + 1);
        let across: Vec<f64> = (0..columns).map(|column| column as f64 / points.0).collect();
        let down: Vec<f64> = (0..rows).map(|row| (row as f64 - half as f64) / points.1).collect();
        let plane = spectrum.powers(&across, &down);
        let surroundings = plane.box_mean(SURROUNDINGS, |value| value);
        let levels = plane.values.iter().zip(&surroundings.values).map(|(power, mean)| {
            let stands = power / mean.max(f32::MIN_POSITIVE);
            (stands.min(CLIP) / CLIP * 255.0) as u8
        });
        let levels: Vec<u8> = levels.collect();
        let count = levels.len() as f64;
        let mean = levels.iter().map(|level| f64::from(*level)).sum::<f64>() / count;
        let variance = levels.iter().map(|level| (f64::from(*level) - mean).powi(2)).sum::<f64>() / count;
        let row_bits = columns.next_power_of_two().trailing_zeros();
        let mut values = vec![mean.round() as u8; rows << row_bits];
        for y in 1..rows - 1 {
            let row = &levels[y * columns..][..columns - 1];
            values[y << row_bits..][..columns - 1].copy_from_slice(row);
        }
        Self { values, row_bits, columns, rows, points, mean, deviation: variance.sqrt().max(1e-3) }
    }

    /// How much more power there is at the lines than anywhere, in deviations. `matrix` is from the picture to the tile.
    pub(crate) fn height(&self, matrix: Matrix) -> f64 {
        let sum = parts().iter().map(|part| self.sum(matrix, part)).sum();
        self.deviations(sum, parts().iter().map(Vec::len).sum())
    }

    /// As [`Relief::height`], of half of the lines, if the first of these promise something.
    pub(crate) fn glance(&self, matrix: Matrix) -> Option<f64> {
        let (mut sum, mut count) = (0, 0);
        for (index, part) in parts()[..PARTS / 2].iter().enumerate() {
            sum += self.sum(matrix, part);
            count += part.len();
            if PROMISING.get(index).is_some_and(|least| self.deviations(sum, count) < *least) {
                return None;
            }
        }
        Some(self.deviations(sum, count))
    }

    fn deviations(&self, sum: u32, chunks: usize) -> f64 {
        let count = (chunks * CHUNK) as f64;
        (f64::from(sum) / count - self.mean) / self.deviation * count.sqrt()
    }

    fn sum(&self, matrix: Matrix, chunks: &[Chunk]) -> u32 {
        let wide = [(matrix[0] * self.points.0) as f32, (matrix[2] * self.points.0) as f32];
        let tall = [(matrix[1] * self.points.1) as f32, (matrix[3] * self.points.1) as f32];
        let middle = (self.rows / 2) as f32;
        let (right, bottom) = ((self.columns - 1) as f32, (self.rows - 1) as f32);
        let mut sum = 0;
        for chunk in chunks {
            let mut places = [0; CHUNK];
            for (place, (across, down)) in places.iter_mut().zip(chunk.across.iter().zip(&chunk.down)) {
                let x = wide[0] * across + wide[1] * down;
                let y = tall[0] * across + tall[1] * down;
                // The other half of the spectrum is this one's mirror image.
                let sign = x.to_bits() & (1 << 31);
                let x = f32::from_bits(x.to_bits() ^ sign).min(right);
                let y = (f32::from_bits(y.to_bits() ^ sign) + middle).max(0.0).min(bottom);
                let column = (x + ROUNDER).to_bits() & ROUNDED;
                let row = (y + ROUNDER).to_bits() & ROUNDED;
                *place = row << self.row_bits | column;
            }
            sum += places.iter().map(|place| u32::from(self.values[*place as usize])).sum::<u32>();
        }
        sum
    }
}

/// The lines in parts, each spread over all radii.
fn parts() -> &'static [Vec<Chunk>; PARTS] {
    static LINES: LazyLock<[Vec<Chunk>; PARTS]> = LazyLock::new(|| std::array::from_fn(chunks));
    &LINES
}

/// The lines of a part.
fn chunks(part: usize) -> Vec<Chunk> {
    // The first two parts together are every fourth line, the first four every other.
    let from = [0, 4, 2, 6, 1, 5, 3, 7][part];
    let some: Vec<_> = lines().iter().skip(from).step_by(PARTS).collect();
    let frequency = |steps: i16| f32::from(steps) / TILE as f32;
    let (chunks, _) = some.as_chunks::<CHUNK>();
    chunks
        .iter()
        .map(|lines| Chunk {
            across: lines.map(|line| frequency(line.u)),
            down: lines.map(|line| frequency(line.v)),
        })
        .collect()
}
