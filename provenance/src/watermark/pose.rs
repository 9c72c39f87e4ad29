//! How a mark lies in a picture, and how well one lies there.

use std::f64::consts::TAU;
use std::sync::Arc;

use rustfft::num_complex::{Complex32, Complex64};
use rustfft::{Fft, FftDirection, FftPlanner};

use super::lattice::{Known, Lattice, Line, TILE};
use super::spectrum::Spectrum;

/// A matrix by rows.
pub(crate) type Matrix = [f64; 4];

/// Height that lines are taken to have, in units of what hides them, when a pose is polished. A line of height `a` and
/// known phase, read as `r`, speaks for a pose by `2a Re r`, and one that carries unknown bits by about `a² |r|²`: the
/// known ones alone are too few to say where the others lie.
const HEIGHT: f32 = 0.35;

/// From a picture to the tile: a pixel at `x` from the picture's centre shows the tile at `matrix * x + shift`, both in
/// canonical pixels of the tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pose {
    pub(crate) matrix: Matrix,
    pub(crate) shift: [f64; 2],
}

pub(crate) fn product(a: Matrix, b: Matrix) -> Matrix {
    [
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    ]
}

pub(crate) fn inverse(m: Matrix) -> Matrix {
    let determinant = m[0] * m[3] - m[1] * m[2];
    [m[3] / determinant, -m[1] / determinant, -m[2] / determinant, m[0] / determinant]
}

/// The ways in which a square can be laid onto itself: turned by quarters and mirrored.
pub(crate) const SYMMETRIES: [Matrix; 8] = [
    [1.0, 0.0, 0.0, 1.0],
    [0.0, -1.0, 1.0, 0.0],
    [-1.0, 0.0, 0.0, -1.0],
    [0.0, 1.0, -1.0, 0.0],
    [-1.0, 0.0, 0.0, 1.0],
    [1.0, 0.0, 0.0, -1.0],
    [0.0, 1.0, 1.0, 0.0],
    [0.0, -1.0, -1.0, 0.0],
];

impl Pose {
    /// What the picture has of `line` if the mark lies like this.
    pub(crate) fn read(&self, spectrum: &Spectrum, line: Line) -> Complex32 {
        let value = unshifted(spectrum, self.matrix, line);
        let angle =
            -TAU * (f64::from(line.u) * self.shift[0] + f64::from(line.v) * self.shift[1]) / TILE as f64;
        value * Complex32::cis(angle as f32)
    }

    /// The value that each known line has, against the one that it should have: real and positive if all is as
    /// supposed.
    pub(crate) fn known(&self, spectrum: &Spectrum, lattice: &Lattice) -> Vec<Complex32> {
        lattice.known.iter().map(|known| self.read(spectrum, known.line) * known.value.conj()).collect()
    }

    /// How well the known lines fit: about normal with deviation 1 where there is no mark.
    pub(crate) fn fit(&self, spectrum: &Spectrum, lattice: &Lattice) -> f64 {
        fit(&self.known(spectrum, lattice))
    }

    /// The pose near this one that is most probable, with the fit of its known lines. The `first` steps, in pixels, are
    /// the largest.
    pub(crate) fn polished(self, spectrum: &Spectrum, lattice: &Lattice, first: f64) -> (Self, f64) {
        let scale = spectrum.power.max(f64::MIN_POSITIVE).sqrt().recip() as f32;
        let evidence = |pose: Self, carried: f32| {
            let known: f32 = pose.known(spectrum, lattice).iter().map(|value| value.re * scale).sum();
            2.0 * known + HEIGHT * carried
        };
        let carried = |matrix: Matrix| -> f32 {
            let powers =
                lattice.carriers.iter().map(|carrier| unshifted(spectrum, matrix, carrier.line).norm_sqr());
            powers.sum::<f32>() * scale * scale
        };
        let mut pose = self;
        let mut power = carried(pose.matrix);
        let mut best = evidence(pose, power);
        let mut step = first;
        while step > 0.06 {
            let mut improved = false;
            for place in 0..6 {
                for sign in [step, -step] {
                    let (mut other, mut other_power) = (pose, power);
                    match place {
                        0 | 1 => other.shift[place] += sign,
                        _ => {
                            other.matrix[place - 2] += sign / spectrum.reach();
                            other_power = carried(other.matrix);
                        }
                    }
                    let found = evidence(other, other_power);
                    if found > best {
                        (pose, power, best, improved) = (other, other_power, found, true);
                        break;
                    }
                }
            }
            if !improved {
                step /= 2.0;
            }
        }
        (pose, pose.fit(spectrum, lattice))
    }
}

/// The value at a line without regard to the shift.
pub(crate) fn unshifted(spectrum: &Spectrum, matrix: Matrix, line: Line) -> Complex32 {
    let (across, down) = frequency(matrix, line);
    spectrum.at(across, down)
}

/// The squared magnitude at a line.
pub(crate) fn power(spectrum: &Spectrum, matrix: Matrix, line: Line) -> f32 {
    let (across, down) = frequency(matrix, line);
    spectrum.power_at(across, down)
}

/// Where a line lies in the picture's spectrum, in cycles for each pixel, across and down.
fn frequency(matrix: Matrix, line: Line) -> (f64, f64) {
    let (u, v) = (f64::from(line.u) / TILE as f64, f64::from(line.v) / TILE as f64);
    (matrix[0] * u + matrix[2] * v, matrix[1] * u + matrix[3] * v)
}

/// The sum of the real parts, in deviations that it would have if all phases were random.
pub(crate) fn fit(values: &[Complex32]) -> f64 {
    let (sum, power) =
        values.iter().fold((0.0, 0.0), |(sum, power), value| (sum + value.re, power + value.norm_sqr()));
    if power > 0.0 { f64::from(sum) / f64::from(power / 2.0).sqrt() } else { 0.0 }
}

/// How well a matrix fits with each shift by whole canonical pixels.
pub(crate) struct Fits {
    fft: Arc<dyn Fft<f32>>,
    rows: Vec<Complex32>,
    columns: Vec<Complex32>,
}

impl Fits {
    pub(crate) fn new() -> Self {
        let fft = FftPlanner::new().plan_fft(TILE, FftDirection::Forward);
        Self { fft, rows: vec![Complex32::ZERO; TILE * TILE], columns: vec![Complex32::ZERO; TILE * TILE] }
    }

    /// The best shift for `matrix`, and how well it fits.
    pub(crate) fn best(&mut self, spectrum: &Spectrum, lattice: &Lattice, matrix: Matrix) -> (Pose, f64) {
        let values: Vec<Complex32> =
            lattice.known.iter().map(|known| unshifted(spectrum, matrix, known.line)).collect();
        let power: f32 = values.iter().map(Complex32::norm_sqr).sum();
        let map = self.map(&lattice.known, &values);
        let (at, height) = map
            .iter()
            .enumerate()
            .map(|(at, value)| (at, value.re))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .expect("a tile has pixels");
        let shift = [(at / TILE) as f64, (at % TILE) as f64];
        let fit = if power > 0.0 { f64::from(height) / f64::from(power / 2.0).sqrt() } else { 0.0 };
        (Pose { matrix, shift }, fit)
    }

    /// The sum over the known lines by shift: columns of vertical shifts, by horizontal shift.
    fn map(&mut self, known: &[Known], values: &[Complex32]) -> &[Complex32] {
        self.rows.fill(Complex32::ZERO);
        let mut last = 0;
        for (known, value) in known.iter().zip(values) {
            let (u, v) = (i32::from(known.line.u).rem_euclid(TILE as i32) as usize, known.line.v as usize);
            self.rows[v * TILE + u] = value * known.value.conj();
            last = last.max(v);
        }
        self.fft.process(&mut self.rows[..(last + 1) * TILE]);
        for x in 0..TILE {
            for y in 0..TILE {
                self.columns[x * TILE + y] =
                    if y <= last { self.rows[y * TILE + x] } else { Complex32::ZERO };
            }
        }
        self.fft.process(&mut self.columns);
        &self.columns
    }
}

/// The best fit of `matrix` with a shift of at most `reach` canonical pixels in each direction.
pub(crate) fn fit_near(spectrum: &Spectrum, lattice: &Lattice, matrix: Matrix, reach: i32) -> (Pose, f64) {
    let values: Vec<(Line, Complex32)> = lattice
        .known
        .iter()
        .map(|known| (known.line, unshifted(spectrum, matrix, known.line) * known.value.conj()))
        .collect();
    let power: f64 = values.iter().map(|(_, value)| f64::from(value.norm_sqr())).sum();
    let mut best = (Pose { matrix, shift: [0.0; 2] }, f64::NEG_INFINITY);
    for y in -reach..=reach {
        for x in -reach..=reach {
            let sum: f64 = values
                .iter()
                .map(|(line, value)| {
                    let angle = -TAU * f64::from(i32::from(line.u) * x + i32::from(line.v) * y) / TILE as f64;
                    let turn = Complex64::cis(angle);
                    f64::from(value.re) * turn.re - f64::from(value.im) * turn.im
                })
                .sum();
            if sum > best.1 {
                best = (Pose { matrix, shift: [f64::from(x), f64::from(y)] }, sum);
            }
        }
    }
    (best.0, if power > 0.0 { best.1 / (power / 2.0).sqrt() } else { 0.0 })
}
