//! Where the lines of a mark may lie, whatever its key and payload.
//!
//! All lattices that an editor may have turned the mark's into are tried: the spectrum has more power at the lines of
//! the right one, and no more than around them at those of others.

use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

use super::lattice::{RADII, TILE, lines};
use super::pose::{self, Matrix, inverse};
use super::relief::Relief;
use super::spectrum::Spectrum;

/// Sizes of the tile that are looked at, relative to what the picture would have as it was marked: of pictures that
/// were only cut and scaled, of those that were turned, and of those that were stretched.
const UPRIGHT: (f64, f64) = (0.3, 3.2);
const TURNED: (f64, f64) = (0.45, 3.2);
const STRETCHED: (f64, f64) = (0.6, 1.7);
/// Stretch of one axis against the other up to which lattices are looked at, and how much they may be turned as well,
/// in radians.
const STRETCH: f64 = 1.17;
const STRETCHED_TURN: f64 = 0.07;
/// Distance of neighbouring lattices, in frequencies that the picture resolves, at the fastest line.
const STEP: f64 = 0.8;
const UPRIGHT_STEP: f64 = 0.35;
/// Lattices of each kind that are looked at closely, and lattices that are left.
const CLOSE: usize = 12;
const KEPT: usize = 14;
/// Power in deviations from which a lattice may be looked at closely.
const HEIGHT_MIN: f64 = 3.0;
/// Distances in upright steps at which the power around a lattice is taken.
const BESIDE: Range<usize> = 4..12;

/// A lattice as the matrix from the picture to the tile, with how far the power at its lines stands out, in deviations.
/// Turned by quarters and mirrored it is the same lattice.
pub(crate) type Found = (f64, Matrix);

/// Lattices that may be the mark's, best first.
pub(crate) fn lattices(spectrum: &Spectrum, scale: f64) -> Vec<Matrix> {
    let relief = Relief::new(spectrum);
    let resolved = Resolved::new(spectrum, scale);
    let reach = 0.35 * ((spectrum.width * spectrum.height) as f64).sqrt();
    let mut found = Vec::new();
    for (seen, climb) in [
        (upright(&relief, &resolved), false),
        (turned(&relief, &resolved), true),
        (stretched(&relief, &resolved), true),
    ] {
        for matrix in apart(seen, CLOSE, 2.5 * STEP * resolved.step(scale)) {
            let matrix = if climb { climbed(spectrum, matrix, reach) } else { matrix };
            found.push((resolved.sharpness(spectrum, matrix), matrix));
        }
    }
    apart(found, KEPT, UPRIGHT_STEP * resolved.step(scale))
}

/// How finely a picture tells sizes apart.
struct Resolved {
    scale: f64,
    /// Part by which a tile of the size 1 changes when its fastest line moves by as much as the picture resolves.
    unit: f64,
}

impl Resolved {
    fn new(spectrum: &Spectrum, scale: f64) -> Self {
        let side = ((spectrum.width * spectrum.height) as f64).sqrt();
        Self { scale, unit: TILE as f64 / (f64::from(RADII.1) * side) }
    }

    /// The part by which neighbours of a `size` differ. What is smaller than the picture as it was marked does not fill
    /// it, so that no more is resolved.
    fn step(&self, size: f64) -> f64 {
        self.unit * size.max(self.scale)
    }

    /// Hands each of the `sizes`, relative to the scale, to `visit`, with the part by which it differs from the next.
    fn sizes(&self, sizes: (f64, f64), part: f64, mut visit: impl FnMut(f64, f64)) {
        let mut size = self.scale * sizes.0;
        while size < self.scale * sizes.1 {
            let step = part * self.step(size);
            visit(size, step);
            size *= 1.0 + step;
        }
    }

    /// How far the power at the lines of a lattice stands out among those of somewhat larger and smaller ones.
    fn sharpness(&self, spectrum: &Spectrum, matrix: Matrix) -> f64 {
        let size = (matrix[0] * matrix[3] - matrix[1] * matrix[2]).abs().sqrt().recip();
        let step = UPRIGHT_STEP * self.unit * size;
        let scaled = |part: f64| power(spectrum, matrix.map(|entry| entry * part));
        // Every other one is enough.
        let beside = BESIDE.step_by(2).map(|steps| steps as f64 * step);
        let beside: f64 = beside.map(|part| scaled(1.0 + part) + scaled(1.0 - part)).sum();
        power(spectrum, matrix) - beside / BESIDE.len() as f64
    }
}

/// The best of these lattices that differ by more than `distance`, at most so `many`.
fn apart(mut all: Vec<Found>, many: usize, distance: f64) -> Vec<Matrix> {
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

/// What is seen of lattices at any angle.
fn turned(relief: &Relief, resolved: &Resolved) -> Vec<Found> {
    let mut found = Vec::new();
    resolved.sizes(TURNED, STEP, |size, step| {
        let angles = (FRAC_PI_2 / step).ceil();
        found.extend(
            (0..angles as u32)
                .filter_map(|turn| seen(relief, size, f64::from(turn) * FRAC_PI_2 / angles, 0.0)),
        );
    });
    found
}

/// What is seen of lattices that are wider than high or higher than wide.
fn stretched(relief: &Relief, resolved: &Resolved) -> Vec<Found> {
    let mut found = Vec::new();
    resolved.sizes(STRETCHED, STEP, |size, step| {
        let stretches = (STRETCH.ln() / (2.0 * step)).ceil() as i32;
        let turns = (STRETCHED_TURN / step).ceil() as i32;
        for stretch in (-stretches..=stretches).map(|stretch| f64::from(stretch) * step) {
            let angles = (-turns..=turns).map(|turn| f64::from(turn) * step);
            found.extend(angles.filter_map(|angle| seen(relief, size, angle, stretch)));
        }
    });
    found
}

/// The lattice of a tile whose pixels have this `size` in the picture, stretched by the exponential, then turned, if its
/// lines stand out.
fn seen(relief: &Relief, size: f64, angle: f64, stretch: f64) -> Option<Found> {
    let (sin, cos) = angle.sin_cos();
    let (wide, tall) = (size * stretch.exp(), size / stretch.exp());
    let matrix = inverse([wide * cos, -tall * sin, wide * sin, tall * cos]);
    relief.glance(matrix).filter(|height| *height > HEIGHT_MIN).map(|height| (height, matrix))
}

/// What is seen of lattices that are neither turned nor stretched: there are so few that each is looked at well.
fn upright(relief: &Relief, resolved: &Resolved) -> Vec<Found> {
    let mut found = Vec::new();
    let mut size = resolved.scale * UPRIGHT.0;
    while size < resolved.scale * UPRIGHT.1 {
        let matrix = [size.recip(), 0.0, 0.0, size.recip()];
        found.push((relief.height(matrix), matrix));
        size *= 1.0 + UPRIGHT_STEP * resolved.unit * size;
    }
    found
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

/// The lattice nearby whose lines have most power.
fn climbed(spectrum: &Spectrum, mut matrix: Matrix, reach: f64) -> Matrix {
    let mut best = power(spectrum, matrix);
    let mut step = 0.5;
    while step > 0.2 {
        let mut improved = false;
        for place in 0..4 {
            for sign in [step, -step] {
                let mut other = matrix;
                other[place] += sign / reach;
                let height = power(spectrum, other);
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
    matrix
}
