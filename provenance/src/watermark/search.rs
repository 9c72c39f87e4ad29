//! Where the lines of a mark may lie, whatever its key and payload.
//!
//! All lattices that an editor may have turned the mark's into are tried: the spectrum has more power at the lines of
//! the right one, and no more than around them at those of others.

use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

use super::climb::climbed;
use super::lattice::{RADII, TILE, lines};
use super::pose::{self, Matrix, inverse};
use super::relief::Relief;
use super::spectrum::Spectrum;

/// Sizes of the tile that are looked at, relative to what the picture would have as it was marked, in pictures that were
/// only cut and scaled, and in those that were turned.
const UPRIGHT: (f64, f64) = (0.3, 3.2);
const TURNED: (f64, f64) = (0.45, 3.2);
/// What is looked at in pictures that were stretched.
const STRETCHED: Distortions = Distortions { sizes: (0.6, 1.7), stretch: 1.17, turn: 0.07 };
/// What is looked at in parts of a picture that was bent or seen aslant.
const NEARBY: Distortions = Distortions { sizes: (0.92, 1.09), stretch: 1.09, turn: 0.06 };
/// Distance of neighbouring lattices, in frequencies that the picture resolves, at the fastest line.
const STEP: f64 = 0.8;
const UPRIGHT_STEP: f64 = 0.35;
/// Steps in pixels by which a lattice is moved to where its lines have most power.
const CLIMB: [f64; 2] = [0.5, 0.25];
/// Lattices that are looked at closely: upright ones, which costs little, and those of each other kind. Lattices that are
/// left.
const UPRIGHT_CLOSE: usize = 16;
const CLOSE: usize = 8;
const KEPT: usize = 10;
/// The same for a part of a picture.
const NEARBY_CLOSE: usize = 4;
const NEARBY_KEPT: usize = 2;
/// How far the power at a lattice's lines must stand out in a part of a picture, in deviations.
const NEARBY_MIN: f64 = 3.5;
/// Power in deviations from which a lattice may be looked at closely.
const HEIGHT_MIN: f64 = 3.0;
/// Distances in upright steps at which the power around a lattice is taken.
const BESIDE: Range<usize> = 4..12;

/// A lattice as the matrix from the picture to the tile, with how far the power at its lines stands out, in deviations.
/// Turned by quarters and mirrored it is the same lattice.
type Found = (f64, Matrix);

/// How a picture may have been changed.
struct Distortions {
    /// Sizes relative to what is expected.
    sizes: (f64, f64),
    /// Stretch of one axis against the other, either way.
    stretch: f64,
    /// Turn in radians, either way.
    turn: f64,
}

/// Lattices that may be the mark's, best first. `scale` is the number of pixels that a canonical pixel has if the picture
/// is as it was marked.
pub(crate) fn lattices(spectrum: &Spectrum, scale: f64) -> Vec<Matrix> {
    let search = Search::new(spectrum, scale, f64::MAX);
    let apart = 2.5 * STEP;
    let mut found = search.measured(search.apart(search.upright(), UPRIGHT_CLOSE, apart));
    for seen in [search.turned(), search.stretched(&STRETCHED)] {
        found.extend(search.measured(search.climbed(search.apart(seen, CLOSE, apart))));
    }
    search.apart(found, KEPT, UPRIGHT_STEP)
}

/// Lattices near the upright one of this `scale` that are probably the mark's, best first.
pub(crate) fn nearby(spectrum: &Spectrum, scale: f64) -> Vec<Matrix> {
    let fastest = f64::from(RADII.1) / (TILE as f64 * scale * NEARBY.sizes.0);
    let search = Search::new(spectrum, scale, fastest * NEARBY.stretch.sqrt());
    let close = search.apart(search.stretched(&NEARBY), NEARBY_CLOSE, 1.5 * STEP);
    let mut found = search.measured(search.climbed(close));
    found.retain(|(sharpness, _)| *sharpness > NEARBY_MIN);
    search.apart(found, NEARBY_KEPT, UPRIGHT_STEP)
}

/// A picture that is searched.
struct Search<'a> {
    spectrum: &'a Spectrum,
    relief: Relief,
    /// Pixels of a canonical pixel in a picture as it was marked.
    scale: f64,
    /// Part by which a tile of the size 1 changes when its fastest line moves by as much as the picture resolves.
    resolved: f64,
}

impl<'a> Search<'a> {
    /// Lines are looked for at frequencies up to `most` cycles for each pixel.
    fn new(spectrum: &'a Spectrum, scale: f64, most: f64) -> Self {
        let resolved = TILE as f64 / (f64::from(RADII.1) * spectrum.side());
        Self { spectrum, relief: Relief::new(spectrum, most), scale, resolved }
    }

    /// The part by which neighbours of a `size` differ. What is smaller than the picture as it was marked does not fill
    /// it, so that no more is resolved.
    fn step(&self, size: f64) -> f64 {
        self.resolved * size.max(self.scale)
    }

    /// Hands each of the `sizes`, relative to the scale, to `visit`, with the part by which it differs from the next.
    fn sizes(&self, sizes: (f64, f64), mut visit: impl FnMut(f64, f64)) {
        let mut size = self.scale * sizes.0;
        while size < self.scale * sizes.1 {
            let step = STEP * self.step(size);
            visit(size, step);
            size *= 1.0 + step;
        }
    }

    /// What is seen of lattices that are neither turned nor stretched: there are so few that each is looked at well.
    fn upright(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut size = self.scale * UPRIGHT.0;
        while size < self.scale * UPRIGHT.1 {
            let matrix = [size.recip(), 0.0, 0.0, size.recip()];
            found.push((self.relief.height(matrix), matrix));
            size *= 1.0 + UPRIGHT_STEP * self.resolved * size;
        }
        found
    }

    /// What is seen of lattices at any angle.
    fn turned(&self) -> Vec<Found> {
        let mut found = Vec::new();
        self.sizes(TURNED, |size, step| {
            let count = (FRAC_PI_2 / step).ceil();
            let angles = (0..count as u32).map(|turn| f64::from(turn) * FRAC_PI_2 / count);
            found.extend(angles.filter_map(|angle| self.seen(size, angle, 0.0)));
        });
        found
    }

    /// What is seen of lattices that are wider than high or higher than wide.
    fn stretched(&self, distortions: &Distortions) -> Vec<Found> {
        let mut found = Vec::new();
        self.sizes(distortions.sizes, |size, step| {
            let stretches = (distortions.stretch.ln() / (2.0 * step)).ceil() as i32;
            let turns = (distortions.turn / step).ceil() as i32;
            for stretch in (-stretches..=stretches).map(|stretch| f64::from(stretch) * step) {
                let angles = (-turns..=turns).map(|turn| f64::from(turn) * step);
                found.extend(angles.filter_map(|angle| self.seen(size, angle, stretch)));
            }
        });
        found
    }

    /// The lattice of a tile whose pixels have this `size` in the picture, stretched by the exponential, then turned, if
    /// its lines stand out.
    fn seen(&self, size: f64, angle: f64, stretch: f64) -> Option<Found> {
        let (sin, cos) = angle.sin_cos();
        let (wide, tall) = (size * stretch.exp(), size / stretch.exp());
        let matrix = inverse([wide * cos, -tall * sin, wide * sin, tall * cos]);
        self.relief.glance(matrix).filter(|height| *height > HEIGHT_MIN).map(|height| (height, matrix))
    }

    /// The best of these lattices that differ by more than so many `steps`, at most so `many`.
    fn apart(&self, mut all: Vec<Found>, many: usize, steps: f64) -> Vec<Matrix> {
        let distance = steps * self.step(self.scale);
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut kept: Vec<Matrix> = Vec::new();
        for (_, matrix) in all {
            if kept.len() == many {
                break;
            }
            if !kept.iter().any(|other| near(*other, matrix, distance)) {
                kept.push(matrix);
            }
        }
        kept
    }

    /// The lattices nearby whose lines have most power.
    fn climbed(&self, matrices: Vec<Matrix>) -> Vec<Matrix> {
        let moved = |matrix: Matrix, place: usize, step: f64| {
            let mut other = matrix;
            other[place] += step / self.spectrum.reach();
            other
        };
        let top = |matrix| climbed(matrix, &CLIMB, 4, moved, |matrix| power(self.spectrum, matrix)).0;
        matrices.into_iter().map(top).collect()
    }

    /// The lattices with how far the power at their lines stands out among those of somewhat larger and smaller ones.
    fn measured(&self, matrices: Vec<Matrix>) -> Vec<Found> {
        let sharpness = |matrix: Matrix| {
            let size = (matrix[0] * matrix[3] - matrix[1] * matrix[2]).abs().sqrt().recip();
            let step = UPRIGHT_STEP * self.resolved * size;
            let scaled = |part: f64| power(self.spectrum, matrix.map(|entry| entry * part));
            // Every other one is enough.
            let beside = BESIDE.step_by(2).map(|steps| steps as f64 * step);
            let beside: f64 = beside.map(|part| scaled(1.0 + part) + scaled(1.0 - part)).sum();
            power(self.spectrum, matrix) - beside / BESIDE.len() as f64
        };
        matrices.into_iter().map(|matrix| (sharpness(matrix), matrix)).collect()
    }
}

/// Whether two matrices differ by at most this part.
fn near(a: Matrix, b: Matrix, part: f64) -> bool {
    let size = (a[0] * a[3] - a[1] * a[2]).abs().sqrt();
    a.iter().zip(&b).all(|(a, b)| (a - b).abs() < part * size)
}

/// How much more power the lines have than others would, in deviations. `matrix` is from the picture to the tile.
fn power(spectrum: &Spectrum, matrix: Matrix) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for line in lines() {
        let power = pose::power(spectrum, matrix, *line);
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
