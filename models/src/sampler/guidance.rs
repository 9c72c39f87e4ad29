//! Classifier-free guidance: when a step needs the unconditional half, and how the halves are mixed.

use candle_core::{Result, Tensor};

/// Whether step `step` of `steps` (from 0) runs the unconditional half too. The last `skip_last` steps
/// go without it, and guidance 1 is the conditional half alone.
pub(crate) fn is_guided(guidance: f64, step: u32, steps: u32, skip_last: u32) -> bool {
    (guidance - 1.0).abs() > f64::EPSILON && step + skip_last < steps
}

/// `unconditional + guidance * (conditional - unconditional)`.
pub(crate) fn mix(conditional: &Tensor, unconditional: &Tensor, guidance: f64) -> Result<Tensor> {
    unconditional + ((conditional - unconditional)? * guidance)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_steps_and_guidance_one_go_without() {
        let guided = |skip| (0..4).map(|step| is_guided(1.5, step, 4, skip)).collect::<Vec<_>>();
        assert_eq!(guided(0), [true; 4]);
        assert_eq!(guided(1), [true, true, true, false]);
        assert_eq!(guided(9), [false; 4]);
        assert!(!is_guided(1.0, 0, 4, 0));
    }
}
