//! Elementary functions that compilers turn into vector code: no branches, no calls.

/// `e^x`; exact to 2e-7 relative, 0 below -87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the product with n is exact in the first.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series = 1.0 / 5_040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    series * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// GELU in its tanh form: `x / (1 + e^(-2 sqrt(2/pi) (x + 0.044715 x^3)))`, the same function.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    x / (1.0 + exp(-TWICE_ROOT * (x + 0.044_715 * x * x * x)))
}

/// Sum in sixteen lanes, which a compiler may keep in vectors.
#[inline(always)]
pub(crate) fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        for n in -8_700..=8_800 {
            let x = n as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}: {} {exact}", exp(x));
        }
        assert!(exp(-1e9) < 2e-38 && exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn gelu_is_the_tanh_form() {
        for n in -2_000..=2_000 {
            let x = f64::from(n) / 100.0;
            let exact =
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
            assert!((f64::from(gelu(x as f32)) - exact).abs() < 1e-6 * (1.0 + x.abs()), "{x}");
        }
    }

    #[test]
    fn sums_include_what_does_not_fill_the_lanes() {
        let values: Vec<f32> = (1..=37).map(|n| n as f32).collect();
        assert!((sum(&values, |x| x) - 703.0).abs() < 1e-3);
        assert!((sum(&values, |x| x * x) - 17_575.0).abs() < 1e-1);
    }
}
