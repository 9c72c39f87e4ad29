//! How a mark lies in a picture, and how well one lies there.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::Arc;

use rustfft::num_complex::{Complex32, Complex64};
use rustfft::{Fft, FftDirection, FftPlanner};

use super::climb::climbed;
use super::lattice::{Known, Lattice, Line, TILE, lines};
use super::spectrum::Spectrum;

/// A matrix by rows.
pub(crate) type Matrix = [f64; 4];

/// Height that lines are taken to have, in units of what hides them, when a pose is polished. A line of height `a` and
/// known phase, read as `r`, speaks for a pose by `2a Re r`, and one that carries unknown bits by about `a² |r|²`: the
/// known ones alone are too few to say where the others lie.
const HEIGHT: f32 = 0.35;
/// Steps in pixels by which a pose settles.
const SETTLE: f64 = 0.5;

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

    /// How well the known lines fit where they fit best nearby. It costs little and tells most of what chance offers from a
    /// mark, but the known lines are too few to say where exactly that lies.
    pub(crate) fn settled(self, spectrum: &Spectrum, lattice: &Lattice) -> f64 {
        let moved = |pose: Self, place, step| pose.moved(spectrum, place, step);
        climbed(self, &[SETTLE], 6, moved, |pose| pose.fit(spectrum, lattice)).1
    }

    /// The pose near this one that is most probable, with the fit of its known lines. Its sizes of `steps` are pixels.
    pub(crate) fn polished(self, powers: &mut Powers, lattice: &Lattice, steps: &[f64]) -> (Self, f64) {
        let spectrum = powers.spectrum;
        let scale = spectrum.power.max(f64::MIN_POSITIVE).sqrt().recip() as f32;
        let evidence = |pose: Self| {
            let known = pose.known(spectrum, lattice);
            let (sum, power) = sums(&known);
            let carried = powers.all(pose.matrix) - power;
            f64::from(2.0 * sum * scale + HEIGHT * carried * scale * scale)
        };
        let moved = |pose: Self, place, step| pose.moved(spectrum, place, step);
        let (pose, _) = climbed(self, steps, 6, moved, evidence);
        (pose, pose.fit(spectrum, lattice))
    }

    /// This pose with one of its six numbers, the shift's before the matrix's, changed so that the mark moves by `step`
    /// pixels.
    fn moved(mut self, spectrum: &Spectrum, place: usize, step: f64) -> Self {
        match place {
            0 | 1 => self.shift[place] += step,
            _ => self.matrix[place - 2] += step / spectrum.reach(),
        }
        self
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
    let (sum, power) = sums(values);
    if power > 0.0 { f64::from(sum) / f64::from(power / 2.0).sqrt() } else { 0.0 }
}

/// The sums of the real parts and of the squared magnitudes.
fn sums(values: &[Complex32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(sum, power), value| (sum + value.re, power + value.norm_sqr()))
}

/// The power of all lines by matrix. It is remembered, as poses under many keys, in all symmetries, ask for it around the
/// same few lattices.
pub(crate) struct Powers<'a> {
    pub(crate) spectrum: &'a Spectrum,
    seen: HashMap<[u64; 4], f32>,
}

impl<'a> Powers<'a> {
    pub(crate) fn new(spectrum: &'a Spectrum) -> Self {
        Self { spectrum, seen: HashMap::new() }
    }

    fn all(&mut self, matrix: Matrix) -> f32 {
        let sum = || lines().iter().map(|line| power(self.spectrum, matrix, *line)).sum();
        *self.seen.entry(alike(matrix).map(f64::to_bits)).or_insert_with(sum)
    }
}

/// The same matrix for all symmetries of a lattice: its rows, each or its opposite, in order.
fn alike([a, b, c, d]: Matrix) -> Matrix {
    // Zero is added to make it positive.
    let forward = |row: [f64; 2]| {
        if row < [0.0; 2] { row.map(|entry| 0.0 - entry) } else { row.map(|entry| entry + 0.0) }
    };
    let (first, second) = (forward([a, b]), forward([c, d]));
    let ([a, b], [c, d]) = if first < second { (second, first) } else { (first, second) };
    [a, b, c, d]
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
    let turns: [Complex64; TILE] =
        std::array::from_fn(|steps| Complex64::cis(-TAU * steps as f64 / TILE as f64));
    let mut best = (Pose { matrix, shift: [0.0; 2] }, f64::NEG_INFINITY);
    for y in -reach..=reach {
        for x in -reach..=reach {
            let sum: f64 = values
                .iter()
                .map(|(line, value)| {
                    let steps = i32::from(line.u) * x + i32::from(line.v) * y;
                    let turn = turns[steps.rem_euclid(TILE as i32) as usize];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watermark::plane::Plane;

    #[test]
    fn symmetric_matrices_share_their_power() {
        let values = (0..200 * 160).map(|n| (n as f32 * 0.37).sin() + (n as f32 * 0.011).cos()).collect();
        let spectrum = Spectrum::new(&Plane { width: 200, height: 160, values });
        for matrix in [[1.25, 0.0, 0.0, 1.25], [1.1, 0.06, -0.05, 1.2]] {
            let mut powers = Powers::new(&spectrum);
            for symmetry in SYMMETRIES {
                let turned = product(symmetry, matrix);
                let sum: f32 = lines().iter().map(|line| power(&spectrum, turned, *line)).sum();
                let shared = powers.all(turned);
                assert!((sum - shared).abs() < 1e-3 * sum, "{sum} {shared}");
            }
            assert_eq!(powers.seen.len(), 1);
            powers.all(matrix.map(|entry| entry + 1e-3));
            assert_eq!(powers.seen.len(), 2);
        }
    }
}
