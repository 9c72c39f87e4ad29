//! Where the lines of a mark may lie, whatever its key and payload.
//!
//! A mark repeats with its tile, so the residual's autocorrelation has a peak at each vector of the tile's lattice,
//! turned and stretched as the picture was (Kutter, 1998). What looks like such a lattice is then moved to where the
//! spectrum has most power at its lines, which tells the mark's from those of the picture's own patterns.

use std::f64::consts::FRAC_PI_2;

use super::lattice::{Line, RADII, TILE, lines};
use super::plane::Plane;
use super::pose::{Matrix, inverse, unshifted};
use super::spectrum::Spectrum;

/// Sizes of the tile that are looked at, relative to what the picture would have as it was marked.
struct Band {
    sizes: (f64, f64),
    /// Lattices that are looked at closely.
    close: usize,
    /// Lattices that are left: each band has its own, since a picture's patterns may outshine the mark in some.
    kept: usize,
}

const BANDS: [Band; 6] = [
    Band { sizes: (0.74, 1.05), close: 12, kept: 3 },
    Band { sizes: (1.05, 1.5), close: 12, kept: 3 },
    Band { sizes: (0.3, 0.48), close: 6, kept: 1 },
    Band { sizes: (0.48, 0.74), close: 6, kept: 1 },
    Band { sizes: (1.5, 2.2), close: 10, kept: 2 },
    Band { sizes: (2.2, 3.2), close: 16, kept: 2 },
];
/// Ratio of neighbouring sizes, and angle between neighbouring directions: one pixel at the tile's side.
const STEP: f64 = 0.008;
/// Stretch of one axis against the other up to which lattices are looked at.
const STRETCH: f64 = 1.17;
/// Largest turn of a stretched picture that is looked at, in radians.
const STRETCHED_TURN: f64 = 0.2;
/// Length in steps of the shortest line that is looked at: the picture drowns slower ones.
const RADIUS_MIN: f32 = 12.0;
/// Distance from the axes, in steps of the largest tile, within which edges and borders drown all else.
const OFF_AXIS: f32 = 1.5;
/// A single peak counts for no more deviations than this: one that is higher is the picture's own.
const PEAK_MAX: f32 = 5.0;
/// Part of the picture's sides up to which correlations are used.
const LAG_MAX: f64 = 0.62;
/// Upright lattices that are looked at closely, and their distance in resolvable frequencies at the fastest line.
const UPRIGHT: usize = 6;
const UPRIGHT_STEP: f64 = 0.7;
/// A lattice as the matrix from the picture to the tile, with the power at its lines in deviations. Turned by quarters
/// and mirrored it is the same lattice.
pub(crate) type Found = (f64, Matrix);

/// Lattices that may be the mark's, best first.
pub(crate) fn lattices(spectrum: &Spectrum, scale: f64) -> Vec<Found> {
    let reach = 0.35 * ((spectrum.width * spectrum.height) as f64).sqrt();
    let close = |matrices: Vec<Matrix>, kept: usize| {
        let mut found: Vec<Found> = Vec::new();
        for matrix in matrices {
            let (power, matrix) = climbed(spectrum, matrix, reach);
            if !found.iter().any(|(_, other)| near(*other, matrix, STEP)) {
                found.push((power, matrix));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.truncate(kept);
        found
    };
    let mut found = close(upright(spectrum, scale), UPRIGHT);
    for band in BANDS {
        let sizes = (scale * band.sizes.0, scale * band.sizes.1);
        let correlation = Correlation::new(spectrum, sizes);
        let matrices = coarse(&correlation, sizes, band.close).into_iter().map(|(_, matrix)| inverse(matrix));
        found.extend(close(matrices.collect(), band.kept));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}

/// The best lattices, as matrices from the picture to the tile, of a picture that was cut and scaled but neither turned
/// nor stretched: there are so few that each is looked at closely.
fn upright(spectrum: &Spectrum, scale: f64) -> Vec<Matrix> {
    let side = ((spectrum.width * spectrum.height) as f64).sqrt();
    let (least, most) = BANDS.iter().fold((f64::MAX, 0.0f64), |(least, most), band| {
        (least.min(scale * band.sizes.0), most.max(scale * band.sizes.1))
    });
    let mut sizes: Vec<(f64, f64)> = Vec::new();
    let mut size = least;
    while size < most {
        let matrix = [size.recip(), 0.0, 0.0, size.recip()];
        sizes.push((power(spectrum, matrix, lines().iter().step_by(2)), size));
        // The fastest line moves by this part of what the picture resolves.
        size *= 1.0 + UPRIGHT_STEP * TILE as f64 * size / (f64::from(RADII.1) * side);
    }
    sizes.sort_by(|a, b| b.0.total_cmp(&a.0));
    sizes.into_iter().take(UPRIGHT).map(|(_, size)| [size.recip(), 0.0, 0.0, size.recip()]).collect()
}

/// The autocorrelation in deviations.
struct Correlation {
    plane: Plane,
    /// Pixels of the picture.
    size: (f64, f64),
}

impl Correlation {
    /// For tiles of these sizes in pixels for each canonical pixel.
    fn new(spectrum: &Spectrum, sizes: (f64, f64)) -> Self {
        let frequency = |radius: f32, size: f64| f64::from(radius) / (TILE as f64 * size);
        let band = (frequency(RADIUS_MIN, sizes.1), frequency(RADII.1, sizes.0));
        let mut plane = spectrum.autocorrelation(band, frequency(OFF_AXIS, sizes.1));
        let size = (spectrum.width as f64, spectrum.height as f64);
        let (across, down) = (plane.width, plane.height);
        let overlap = |at: usize, count: usize, side: f64| {
            let lag = at.min(count - at) as f64;
            if lag > side * LAG_MAX { 0.0 } else { (1.0 - lag / side) as f32 }
        };
        let overlaps: Vec<f32> = (0..across).map(|x| overlap(x, across, size.0)).collect();
        for (y, row) in plane.values.chunks_exact_mut(across).enumerate() {
            let tall = overlap(y, down, size.1);
            for (value, wide) in row.iter_mut().zip(&overlaps) {
                let overlap = tall * wide;
                *value = if overlap > 0.0 { *value / overlap.sqrt() } else { 0.0 };
            }
        }
        let scale = deviation(&plane.values).recip();
        plane.values.iter_mut().for_each(|value| *value = (*value * scale).clamp(-PEAK_MAX, PEAK_MAX));
        Self { plane, size }
    }

    /// The value at a movement, and the part of the picture that overlaps then; nothing beyond what is used.
    fn at(&self, x: f64, y: f64) -> Option<(f32, f64)> {
        let (wide, tall) = (x.abs() / self.size.0, y.abs() / self.size.1);
        if wide.max(tall) > LAG_MAX {
            return None;
        }
        let (across, down) = (self.plane.width, self.plane.height);
        let x = if x < 0.0 { x + across as f64 } else { x };
        let y = if y < 0.0 { y + down as f64 } else { y };
        let (column, row) = ((x as usize).min(across - 1), (y as usize).min(down - 1));
        let (part_x, part_y) = ((x - column as f64) as f32, (y - row as f64) as f32);
        let right = if column + 1 == across { 0 } else { column + 1 };
        let below = if row + 1 == down { 0 } else { row + 1 };
        let at = |column: usize, row: usize| self.plane.values[row * across + column];
        let upper = at(column, row) + (at(right, row) - at(column, row)) * part_x;
        let lower = at(column, below) + (at(right, below) - at(column, below)) * part_x;
        Some((upper + (lower - upper) * part_y, (1.0 - wide) * (1.0 - tall)))
    }

    /// How high the peaks of a lattice are together. `matrix` is from the tile to the picture.
    fn height(&self, matrix: Matrix) -> f64 {
        const VECTORS: [(f64, f64); 12] = [
            (1.0, 0.0),
            (0.0, 1.0),
            (1.0, 1.0),
            (1.0, -1.0),
            (2.0, 0.0),
            (0.0, 2.0),
            (2.0, 1.0),
            (2.0, -1.0),
            (1.0, 2.0),
            (1.0, -2.0),
            (2.0, 2.0),
            (2.0, -2.0),
        ];
        let side = TILE as f64;
        let (mut sum, mut overlaps) = (0.0, 0.0);
        for (i, j) in VECTORS {
            let (x, y) = ((matrix[0] * i + matrix[1] * j) * side, (matrix[2] * i + matrix[3] * j) * side);
            if let Some((value, overlap)) = self.at(x, y) {
                sum += f64::from(value) * overlap.sqrt();
                overlaps += overlap;
            }
        }
        if overlaps > 0.0 { sum / overlaps.sqrt() } else { 0.0 }
    }
}

/// The deviation of the values that are not 0, without regard to the few that stand out.
fn deviation(values: &[f32]) -> f32 {
    let mut some: Vec<f32> =
        values.iter().step_by(7).map(|value| value.abs()).filter(|value| *value > 0.0).collect();
    let middle = some.len() / 2;
    if some.is_empty() {
        return f32::INFINITY;
    }
    // Half of what is normal lies within 0.6745 deviations.
    *some.select_nth_unstable_by(middle, f32::total_cmp).1 / 0.6745
}

/// The best lattices with tiles of these sizes that are no neighbours, as matrices from the tile to the picture.
fn coarse(correlation: &Correlation, sizes: (f64, f64), share: usize) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    let stretches = (STRETCH.ln() / (2.0 * STEP)).ceil() as i32;
    let mut size = sizes.0;
    while size < sizes.1 {
        for turn in 0..(FRAC_PI_2 / STEP) as i32 {
            let angle = f64::from(turn) * STEP;
            let turned = angle.min(FRAC_PI_2 - angle) > STRETCHED_TURN;
            for stretch in if turned { 0..=0 } else { -stretches..=stretches } {
                let matrix = stretched(size, angle, f64::from(stretch) * STEP);
                let height = correlation.height(matrix);
                if height > 2.5 {
                    all.push((height, matrix));
                }
            }
        }
        size *= 1.0 + STEP;
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut kept: Vec<Found> = Vec::new();
    for (height, matrix) in all {
        if kept.len() == share {
            break;
        }
        if !kept.iter().any(|(_, other)| near(*other, matrix, 2.5 * STEP)) {
            kept.push((height, matrix));
        }
    }
    kept
}

/// From the tile to a picture in which its pixels have this `size`, stretched, then turned.
fn stretched(size: f64, angle: f64, stretch: f64) -> Matrix {
    let (sin, cos) = angle.sin_cos();
    let (wide, tall) = (size * stretch.exp(), size / stretch.exp());
    [wide * cos, -tall * sin, wide * sin, tall * cos]
}

/// Whether two matrices differ by at most this part.
fn near(a: Matrix, b: Matrix, part: f64) -> bool {
    let size = (a[0] * a[3] - a[1] * a[2]).abs().sqrt();
    a.iter().zip(&b).all(|(a, b)| (a - b).abs() < part * size)
}

/// How much more power the lines have than others would, in deviations. `matrix` is from the picture to the tile.
fn power<'a>(spectrum: &Spectrum, matrix: Matrix, lines: impl Iterator<Item = &'a Line>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for line in lines {
        let power = unshifted(spectrum, matrix, *line).norm_sqr();
        if power > 0.0 {
            sum += f64::from(power);
            count += 1.0;
        }
    }
    if count > 0.0 {
        (sum / count - spectrum.power) / spectrum.power_deviation * f64::sqrt(count)
    } else {
        0.0
    }
}

/// The lattice nearby whose lines have most power.
fn climbed(spectrum: &Spectrum, mut matrix: Matrix, reach: f64) -> Found {
    let some = || lines().iter().filter(|line| line.radius() >= RADIUS_MIN).step_by(2).take(270);
    let mut best = power(spectrum, matrix, some());
    let mut step = 1.0;
    while step > 0.2 {
        let mut improved = false;
        for place in 0..4 {
            for sign in [step, -step] {
                let mut other = matrix;
                other[place] += sign / reach;
                let height = power(spectrum, other, some());
                if height > best {
                    (matrix, best, improved) = (other, height, true);
                    break;
                }
            }
        }
        if !improved {
            step /= 2.0;
        }
    }
    (power(spectrum, matrix, lines().iter()), matrix)
}
