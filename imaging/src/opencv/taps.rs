//! Which source positions make a target position along one axis, and with what weight.

/// Fixed-point bits of a weight.
pub(super) const COEFFICIENT_BITS: u32 = 11;

/// For each target position the source positions that it is made of, at least one.
pub(super) struct Taps<W>(Vec<Vec<(usize, W)>>);

impl<W> Taps<W> {
    /// Target positions.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[(usize, W)]> {
        self.0.iter().map(Vec::as_slice)
    }
}

impl Taps<f32> {
    /// Each target position covers `of / to` source positions, the outer ones in part.
    pub(super) fn area(of: usize, to: usize) -> Self {
        /// Parts of a source position below this are left out.
        const PART_MIN: f64 = 1e-3;
        let scale = of as f64 / to as f64;
        let taps = (0..to).map(|at| {
            let from = at as f64 * scale;
            let until = from + scale;
            let cell = scale.min(of as f64 - from);
            let last = (until.floor() as usize).min(of - 1);
            let first = (from.ceil() as usize).min(last);
            let mut tap = Vec::with_capacity(last - first + 2);
            if first as f64 - from > PART_MIN {
                tap.push((first - 1, ((first as f64 - from) / cell) as f32));
            }
            tap.extend((first..last).map(|whole| (whole, (1.0 / cell) as f32)));
            if until - last as f64 > PART_MIN {
                tap.push((last, ((until - last as f64).min(1.0).min(cell) / cell) as f32));
            }
            tap
        });
        Self(taps.collect())
    }
}

impl Taps<i32> {
    /// Eight taps of Lanczos with four lobes; positions beyond an edge are the edge's.
    pub(super) fn lanczos4(of: usize, to: usize) -> Self {
        let taps = (0..to).map(|at| {
            let (base, fraction) = centre(at, of, to);
            let weights = lanczos4_weights(fraction);
            let source = |n: usize| (base + n as i64 - 3).clamp(0, of as i64 - 1) as usize;
            (0..8).map(|n| (source(n), fixed(weights[n]))).collect()
        });
        Self(taps.collect())
    }

    /// Two taps, weighed by where the edge between them cuts the target position.
    pub(super) fn between_edges(of: usize, to: usize) -> Self {
        let scale = of as f64 / to as f64;
        let taps = (0..to).map(|at| {
            let first = ((at as f64 * scale) as usize).min(of - 1);
            let beyond = (at + 1) as f64 - (first + 1) as f64 / scale;
            let part = if first + 1 == of { 0.0 } else { beyond.max(0.0).fract() as f32 };
            vec![(first, fixed(1.0 - part)), ((first + 1).min(of - 1), fixed(part))]
        });
        Self(taps.collect())
    }

    /// Two taps.
    pub(super) fn linear(of: usize, to: usize) -> Self {
        let taps = (0..to).map(|at| {
            let (base, fraction) = centre(at, of, to);
            let last = of as i64 - 1;
            let fraction = if base < 0 || base >= last { 0.0 } else { fraction };
            let first = base.clamp(0, last) as usize;
            vec![(first, fixed(1.0 - fraction)), ((first + 1).min(of - 1), fixed(fraction))]
        });
        Self(taps.collect())
    }
}

/// The source position below the centre of target position `at`, and how far the centre lies beyond it.
fn centre(at: usize, of: usize, to: usize) -> (i64, f32) {
    let scale = of as f64 / to as f64;
    let centre = ((at as f64 + 0.5) * scale - 0.5) as f32;
    let base = centre.floor();
    (base as i64, centre - base)
}

/// `sinc(d) sinc(d / 4)` at the eight distances, made to sum to one.
fn lanczos4_weights(fraction: f32) -> [f32; 8] {
    let mut weights = [0f32; 8];
    // On a source position every other one weighs nothing.
    if fraction < f32::EPSILON {
        weights[3] = 1.0;
        return weights;
    }
    let sinc = |x: f64| (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x);
    for (n, weight) in weights.iter_mut().enumerate() {
        let distance = f64::from(fraction) + 3.0 - n as f64;
        *weight = if distance.abs() < 1e-6 { 1.0 } else { (sinc(distance) * sinc(distance / 4.0)) as f32 };
    }
    let sum: f32 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

fn fixed(weight: f32) -> i32 {
    (weight * (1 << COEFFICIENT_BITS) as f32).round_ties_even() as i32
}
