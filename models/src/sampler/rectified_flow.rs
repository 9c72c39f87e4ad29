//! The straight path from noise (time 0) to picture (time 1), and the times at which it is walked.

/// The `steps + 1` times from 0 to 1: evenly spaced ones through `e^-mu / (e^-mu + 1/t - 1)`, which for
/// `mu > 0` makes them dense near the noise. Source: the reference's sampler, `time_shift`.
pub(crate) fn schedule(steps: u32, mu: f64) -> Vec<f32> {
    let shift = (-mu).exp();
    let even = |n: u32| 1.0 - f64::from(n) / f64::from(steps);
    (0..=steps).rev().map(|n| (shift / (shift + (1.0 / even(n) - 1.0))) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_schedule_of_six_steps() {
        let recorded = [0.0, 0.042_719_63, 0.100_367_56, 0.182_425_51, 0.308_561_5, 0.527_332_2, 1.0];
        for (ours, theirs) in schedule(6, 1.5).into_iter().zip(recorded) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
    }

    #[test]
    fn it_runs_from_noise_to_picture_without_going_back() {
        for steps in [1, 2, 7, 100] {
            for mu in [-1.0, 0.0, 1.5] {
                let times = schedule(steps, mu);
                assert_eq!(times.len(), steps as usize + 1);
                assert!(times[0].abs() < 1e-9 && (times[steps as usize] - 1.0).abs() < 1e-9, "{times:?}");
                assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
            }
        }
    }
}
