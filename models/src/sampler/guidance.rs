//! Classifier-free guidance: when a step needs the unconditional half, and how the halves are mixed.

use candle_core::{Result, Tensor};

/// When guidance is applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guidance {
    /// 1 is the conditional half alone.
    pub(crate) scale: f64,
    /// Times, both included, outside of which the conditional half goes alone. Source: Kynkäänniemi et al. 2024,
    /// Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models.
    pub(crate) interval: [f64; 2],
    /// Last steps that go without it.
    pub(crate) skip_last: u32,
}

impl Guidance {
    /// Whether step `step` of `steps` (from 0), which starts at `time`, runs the unconditional half too.
    pub(crate) fn applies(&self, time: f32, step: u32, steps: u32) -> bool {
        // In the precision of the times: 0.2 in f32 lies beyond the 0.2 that a manifest says.
        let [from, to] = self.interval.map(|end| end as f32);
        let inside = (from..=to).contains(&time);
        (self.scale - 1.0).abs() > f64::EPSILON && inside && step + self.skip_last < steps
    }
}

/// `unconditional + guidance * (conditional - unconditional)`.
pub(crate) fn mix(conditional: &Tensor, unconditional: &Tensor, guidance: f64) -> Result<Tensor> {
    unconditional + ((conditional - unconditional)? * guidance)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Guidance = Guidance { scale: 1.5, interval: [0.0, 1.0], skip_last: 0 };

    fn applied(guidance: Guidance) -> Vec<bool> {
        let times = [0.0, 0.2, 0.5, 0.9];
        (0..4).zip(times).map(|(step, time)| guidance.applies(time, step, 4)).collect()
    }

    #[test]
    fn last_steps_and_guidance_one_go_without() {
        assert_eq!(applied(ALWAYS), [true; 4]);
        assert_eq!(applied(Guidance { skip_last: 1, ..ALWAYS }), [true, true, true, false]);
        assert_eq!(applied(Guidance { skip_last: 9, ..ALWAYS }), [false; 4]);
        assert_eq!(applied(Guidance { scale: 1.0, ..ALWAYS }), [false; 4]);
    }

    #[test]
    fn an_interval_includes_its_ends() {
        assert_eq!(applied(Guidance { interval: [0.1, 0.5], ..ALWAYS }), [false, true, true, false]);
        assert_eq!(applied(Guidance { interval: [0.0, 0.2], ..ALWAYS }), [true, true, false, false]);
    }
}
