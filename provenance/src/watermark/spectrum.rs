//! The spectrum of a residual at any frequency.
//!
//! The Fourier transform on a padded grid, read between its points through a short Kaiser-Bessel kernel whose own
//! transform was divided out of the pixels beforehand (a non-uniform FFT: Fessler and Sutton, 2003).

use std::sync::LazyLock;

use realfft::RealFftPlanner;
use rustfft::num_complex::Complex32;
use rustfft::{FftDirection, FftPlanner};

use super::plane::Plane;

/// Points of the grid for each pixel, at least.
const PADDING: f64 = 1.32;
/// Points of the grid that a reading takes in, in each direction.
const TAPS: usize = 6;
/// Readings between two points that have their own weights.
const FINENESS: usize = 1024;
/// Radius in points of the box whose mean magnitude a point is divided by.
const EVEN: usize = 9;
/// Largest magnitude in units of that mean.
const CLIP: f32 = 4.0;
/// Points kept beyond each end, so that no reading needs to wrap.
const MARGIN: usize = 4;
/// Frequency in cycles for each pixel above which nothing is read.
const FREQUENCY_MAX: f64 = 0.49;

/// A whitened spectrum.
pub(crate) struct Spectrum {
    /// Pixels of the picture.
    pub(crate) width: usize,
    /// Pixels of the picture.
    pub(crate) height: usize,
    /// Points of the grid across and down.
    grid: (usize, usize),
    /// By horizontal, then by vertical frequency, with margins.
    points: Vec<Complex32>,
    /// As [`weights`] has them, at hand: readings are made by the million.
    weights: &'static [[f32; TAPS]],
    /// Mean and deviation of the squared magnitude of readings.
    pub(crate) power: f64,
    pub(crate) power_deviation: f64,
}

impl Spectrum {
    pub(crate) fn new(residual: &Plane) -> Self {
        let grid = (padded(residual.width), padded(residual.height));
        let mut points = transform(residual, grid);
        whiten(&mut points, grid);
        let points = with_margins(&points, grid);
        let mut spectrum = Self {
            width: residual.width,
            height: residual.height,
            grid,
            points,
            weights: weights(),
            power: 0.0,
            power_deviation: 1.0,
        };
        (spectrum.power, spectrum.power_deviation) = spectrum.power();
        spectrum
    }

    /// Mean and deviation of the squared magnitude where marks have their lines, from readings spread over it.
    fn power(&self) -> (f64, f64) {
        let frequency = |n: u32, step: f64| 0.03 + (f64::from(n) * step).fract() * 0.27;
        // Multiples of the powers of the inverse of the plastic number fill a square evenly (Roberts, 2018).
        let readings: Vec<f64> = (0..2_000)
            .map(|n| {
                let down = frequency(n, 0.569_840_290_998) * if n % 2 == 0 { 1.0 } else { -1.0 };
                f64::from(self.power_at(frequency(n, 0.754_877_666_247), down))
            })
            .collect();
        let mean = readings.iter().sum::<f64>() / readings.len() as f64;
        let variance =
            readings.iter().map(|power| (power - mean).powi(2)).sum::<f64>() / readings.len() as f64;
        (mean, variance.sqrt().max(f64::MIN_POSITIVE))
    }

    /// Side in pixels of a square with as many as the picture.
    pub(crate) fn side(&self) -> f64 {
        ((self.width * self.height) as f64).sqrt()
    }

    /// Distance in pixels over which matrices count: a step of one moves the mark there by as many pixels as a step of
    /// the shift does everywhere.
    pub(crate) fn reach(&self) -> f64 {
        0.35 * self.side()
    }

    fn stride(&self) -> usize {
        self.grid.1 + 2 * MARGIN
    }

    /// The value at a frequency in cycles for each pixel, across and down; the origin is the picture's centre. Zero
    /// where the pixels are too coarse for it.
    pub(crate) fn at(&self, across: f64, down: f64) -> Complex32 {
        if across < 0.0 {
            return self.at(-across, -down).conj();
        }
        // Pixels of an even number are centred half a pixel beside the origin.
        let beside = |count: usize| if count.is_multiple_of(2) { 0.5 } else { 0.0 };
        let angle = across * beside(self.width) + down * beside(self.height);
        self.between(across, down) * Complex32::cis((-std::f64::consts::TAU * angle) as f32)
    }

    /// The squared magnitude at a frequency, as [`Spectrum::at`] has it.
    pub(crate) fn power_at(&self, across: f64, down: f64) -> f32 {
        if across < 0.0 { self.power_at(-across, -down) } else { self.between(across, down).norm_sqr() }
    }

    /// The squared magnitudes at all frequencies of some columns, none negative, and some rows.
    pub(crate) fn powers(&self, across: &[f64], down: &[f64]) -> Plane {
        let rows: Vec<(usize, usize)> = down.iter().map(|down| taps(self.row(*down))).collect();
        let mut line = vec![Complex32::ZERO; self.stride()];
        let mut values = vec![0.0; across.len() * down.len()];
        for (x, column) in across.iter().enumerate() {
            let (first, weights) = taps(column * self.grid.0 as f64);
            line.fill(Complex32::ZERO);
            for (tap, weight) in self.weights[weights].iter().enumerate() {
                let points = &self.points[(first + tap) * self.stride()..][..self.stride()];
                line.iter_mut().zip(points).for_each(|(sum, point)| *sum += point * weight);
            }
            for (y, (first, weights)) in rows.iter().enumerate() {
                let points = line[*first..][..TAPS].iter().zip(&self.weights[*weights]);
                let value: Complex32 = points.map(|(point, weight)| point * weight).sum();
                values[y * across.len() + x] = value.norm_sqr();
            }
        }
        Plane { width: across.len(), height: down.len(), values }
    }

    /// Where a vertical frequency lies among the points of a column.
    fn row(&self, down: f64) -> f64 {
        let row = down * self.grid.1 as f64;
        if row < 0.0 { row + self.grid.1 as f64 } else { row }
    }

    /// The value between the points of the grid.
    fn between(&self, across: f64, down: f64) -> Complex32 {
        if across > FREQUENCY_MAX || down.abs() > FREQUENCY_MAX {
            return Complex32::ZERO;
        }
        let (first_column, column_weights) = taps(across * self.grid.0 as f64);
        let (first_row, row_weights) = taps(self.row(down));
        let (column_weights, row_weights) = (&self.weights[column_weights], &self.weights[row_weights]);
        // Along the columns first: neighbours in memory are then added alike, several at once.
        let mut sums = [Complex32::ZERO; TAPS];
        for (tap, weight) in column_weights.iter().enumerate() {
            let start = (first_column + tap) * self.stride() + first_row;
            for (sum, point) in sums.iter_mut().zip(&self.points[start..start + TAPS]) {
                *sum += point * weight;
            }
        }
        sums.iter().zip(row_weights).map(|(sum, weight)| sum * weight).sum()
    }
}

/// The next even number from [`PADDING`] times `side` on whose only factors are 2, 3 and 5.
fn padded(side: usize) -> usize {
    let mut size = (side as f64 * PADDING).ceil() as usize;
    loop {
        let mut rest = size;
        for factor in [2, 3, 5] {
            while rest.is_multiple_of(factor) {
                rest /= factor;
            }
        }
        if rest == 1 && size.is_multiple_of(2) {
            return size;
        }
        size += 1;
    }
}

/// The shape of the kernel: its bound in the transform follows from taps and padding (Beatty et al., 2005).
fn beta() -> f64 {
    let taps = TAPS as f64;
    std::f64::consts::PI * ((taps / PADDING * (PADDING - 0.5)).powi(2) - 0.8).sqrt()
}

/// The kernel `distance` points from its centre.
fn kernel(distance: f64) -> f64 {
    let inside = 1.0 - (2.0 * distance / TAPS as f64).powi(2);
    if inside <= 0.0 { 0.0 } else { bessel_i0(beta() * inside.sqrt()) }
}

/// The kernel's transform at `place` grid lengths.
fn kernel_transform(place: f64) -> f64 {
    let root = (beta().powi(2) - (std::f64::consts::PI * TAPS as f64 * place).powi(2)).max(1e-9).sqrt();
    TAPS as f64 * root.sinh() / root
}

/// The modified Bessel function of the first kind of order zero, by its series.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let terms = (1..60).scan(1.0, |term, n| {
        *term *= quarter / f64::from(n * n);
        Some(*term)
    });
    1.0 + terms.sum::<f64>()
}

/// The weights of the points that a reading takes in, by its place between two points.
fn weights() -> &'static [[f32; TAPS]] {
    static WEIGHTS: LazyLock<Vec<[f32; TAPS]>> = LazyLock::new(|| {
        let before = (TAPS / 2 - 1) as f64;
        let weights = |part: usize| {
            let part = part as f64 / FINENESS as f64;
            std::array::from_fn(|tap| kernel(part + before - tap as f64) as f32)
        };
        (0..=FINENESS).map(weights).collect()
    });
    &WEIGHTS
}

/// The first point of a reading, counted with the margin, and where the weights of the points from there are.
#[inline]
fn taps(at: f64) -> (usize, usize) {
    let whole = at as u32;
    let part = ((at - f64::from(whole)) * FINENESS as f64 + 0.5) as u32;
    (whole as usize + MARGIN + 1 - TAPS / 2, part as usize)
}

/// The transform on the grid, by horizontal, then by vertical frequency.
fn transform(residual: &Plane, grid: (usize, usize)) -> Vec<Complex32> {
    let (width, height) = (residual.width, residual.height);
    let centred = |count: usize, size: usize| -> Vec<f32> {
        (0..count)
            .map(|n| kernel_transform((n as f64 - (count / 2) as f64) / size as f64).recip() as f32)
            .collect()
    };
    let (across_weights, down_weights) = (centred(width, grid.0), centred(height, grid.1));
    let columns = grid.0 / 2 + 1;
    let real = RealFftPlanner::new().plan_fft_forward(grid.0);
    let (mut row, mut scratch) = (real.make_input_vec(), real.make_scratch_vec());
    let mut out = real.make_output_vec();
    let mut points = vec![Complex32::ZERO; columns * grid.1];
    for (y, values) in residual.values.chunks_exact(width).enumerate() {
        row.fill(0.0);
        for ((x, value), weight) in values.iter().enumerate().zip(&across_weights) {
            row[(x + grid.0 - width / 2) % grid.0] = value * weight * down_weights[y];
        }
        real.process_with_scratch(&mut row, &mut out, &mut scratch)
            .expect("the buffers have the plan's lengths");
        let at = (y + grid.1 - height / 2) % grid.1;
        out.iter().enumerate().for_each(|(x, value)| points[x * grid.1 + at] = *value);
    }
    FftPlanner::new().plan_fft(grid.1, FftDirection::Forward).process(&mut points);
    points
}

/// Makes all frequencies about equally strong, so that none of the picture's own stands out.
fn whiten(points: &mut [Complex32], grid: (usize, usize)) {
    let magnitudes = Plane {
        width: grid.1,
        height: grid.0 / 2 + 1,
        values: points.iter().map(|point| point.norm()).collect(),
    };
    let means = magnitudes.box_mean(EVEN, |value| value);
    for ((point, magnitude), mean) in points.iter_mut().zip(&magnitudes.values).zip(&means.values) {
        let mean = mean.max(f32::MIN_POSITIVE * 1e6);
        *point *= if *magnitude > CLIP * mean { CLIP / magnitude } else { mean.recip() };
    }
}

fn with_margins(points: &[Complex32], grid: (usize, usize)) -> Vec<Complex32> {
    let (across, down) = grid;
    let stride = down + 2 * MARGIN;
    let columns = across / 2 + 1;
    let mut wide = vec![Complex32::ZERO; (columns + 2 * MARGIN) * stride];
    for (column, out) in wide.chunks_exact_mut(stride).enumerate() {
        let frequency = (column + across - MARGIN) % across;
        // The other half of the grid is the conjugate of this one, mirrored.
        let mirrored = frequency >= columns;
        let source = if mirrored { across - frequency } else { frequency };
        let source = &points[source * down..][..down];
        for (row, out) in out.iter_mut().enumerate() {
            let row = (row + down - MARGIN) % down;
            *out = if mirrored { source[(down - row) % down].conj() } else { source[row] };
        }
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_the_transform_at_that_frequency() {
        let (width, height) = (150, 131);
        let values: Vec<f32> = (0..width * height)
            .map(|n| ((n as u32).wrapping_mul(2_654_435_761) >> 24) as f32 - 128.0)
            .collect();
        let residual = Plane { width, height, values };
        let grid = (padded(width), padded(height));
        let points = with_margins(&transform(&residual, grid), grid);
        let spectrum =
            Spectrum { width, height, grid, points, weights: weights(), power: 0.0, power_deviation: 1.0 };
        for (across, down) in [(0.1, 0.2), (-0.013, 0.4), (0.003, -0.3), (0.45, -0.001), (-0.2, -0.2)] {
            let mut exact = rustfft::num_complex::Complex64::ZERO;
            for (n, value) in residual.values.iter().enumerate() {
                let x = (n % width) as f64 + 0.5 - width as f64 / 2.0;
                let y = (n / width) as f64 + 0.5 - height as f64 / 2.0;
                let angle = -std::f64::consts::TAU * (across * x + down * y);
                exact += rustfft::num_complex::Complex64::cis(angle) * f64::from(*value);
            }
            let read = spectrum.at(across, down);
            let error = (f64::from(read.re) - exact.re).hypot(f64::from(read.im) - exact.im);
            // A sum of 19,650 values of deviation 74 has a deviation of 10,400.
            assert!(error < 60.0, "{across} {down}: {read} is not {exact}");
        }
        let (across, down) = ([0.0, 0.1, 0.45], [-0.4, -0.001, 0.2]);
        let powers = spectrum.powers(&across, &down);
        for (n, power) in powers.values.iter().enumerate() {
            let same = spectrum.power_at(across[n % 3], down[n / 3]);
            assert!((power / same - 1.0).abs() < 1e-3, "{power} {same}");
        }
        assert_eq!(spectrum.at(0.495, 0.0), Complex32::ZERO);
    }
}
