//! Solvers of `dx/dt = v(x, t)` over times that need not be evenly spaced.
//!
//! A step adds a weighted sum of velocities, so a solver is the weights; whoever holds the tensors multiplies.

use kraftr_protocol::manifest::Solver;

/// Weights of the velocities now and at `before`, in a step from `now` to `then`. Without a velocity before, the
/// step is Euler's. [`Solver::Heun`] takes this step too, and then corrects it by [`correction`].
///
/// The two-step rule is Adams and Bashforth's: a straight line through both velocities is integrated. Source: Hairer,
/// Nørsett, Wanner, Solving Ordinary Differential Equations I, section III.5 on variable step sizes.
pub(crate) fn weights(solver: Solver, before: Option<f64>, now: f64, then: f64) -> [f64; 2] {
    let stride = then - now;
    match (solver, before) {
        (Solver::Ab2, Some(before)) => {
            let half_ratio = stride / (now - before) / 2.0;
            [stride * (1.0 + half_ratio), -stride * half_ratio]
        }
        _ => [stride, 0.0],
    }
}

/// Weights of the velocities now and at `then` in the step that replaces Euler's from `now`, if the solver measures
/// there too. The picture itself, time 1, is never a starting point: networks have not learned what to say of it.
pub(crate) fn correction(solver: Solver, now: f64, then: f64) -> Option<[f64; 2]> {
    (solver == Solver::Heun && then < 1.0).then_some([(then - now) / 2.0; 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::rectified_flow::schedule;

    /// `dx/dt = x cos t` from 1: `x = e^(sin t)`.
    fn velocity(x: f64, t: f64) -> f64 {
        x * t.cos()
    }

    /// Error at time 0.9, over the reference's uneven times drawn together: Heun does not correct a step to time 1.
    fn error(solver: Solver, steps: u32) -> f64 {
        let times: Vec<f64> = schedule(steps, 1.5).into_iter().map(|time| 0.9 * f64::from(time)).collect();
        let (mut x, mut past): (f64, Option<(f64, f64)>) = (1.0, None);
        for pair in times.windows(2) {
            let (now, then) = (pair[0], pair[1]);
            let v = velocity(x, now);
            let [of_now, of_before] = weights(solver, past.map(|past| past.0), now, then);
            let mut next = x + of_now * v + of_before * past.map_or(0.0, |past| past.1);
            if let Some([of_now, of_then]) = correction(solver, now, then) {
                next = x + of_now * v + of_then * velocity(next, then);
            }
            past = Some((now, v));
            x = next;
        }
        (x - times[times.len() - 1].sin().exp()).abs()
    }

    /// Twice the steps divide the error by 2 to the order.
    #[test]
    fn orders_of_convergence() {
        for (solver, order) in [(Solver::Euler, 1.0), (Solver::Ab2, 2.0), (Solver::Heun, 2.0)] {
            let measured = (error(solver, 400) / error(solver, 800)).log2();
            assert!((measured - order).abs() < 0.1, "{solver:?}: order {measured}");
        }
    }

    /// Both rules integrate a velocity that is linear in time without error, whatever the strides.
    #[test]
    fn linear_velocities_are_exact() {
        let line = |t: f64| 3.0 - 2.0 * t;
        let exact = |from: f64, to: f64| 3.0 * (to - from) - (to * to - from * from);
        for (before, now, then) in [(0.0, 0.1, 0.5), (0.2, 0.5, 0.55)] {
            let [of_now, of_before] = weights(Solver::Ab2, Some(before), now, then);
            assert!((of_now * line(now) + of_before * line(before) - exact(now, then)).abs() < 1e-12);
            let [of_now, of_then] = correction(Solver::Heun, now, then).unwrap();
            assert!((of_now * line(now) + of_then * line(then) - exact(now, then)).abs() < 1e-12);
        }
        let [of_now, of_before] = weights(Solver::Ab2, None, 0.25, 0.5);
        assert!((of_now - 0.25).abs() < 1e-12 && of_before.abs() < 1e-12, "the first step is Euler's");
        assert_eq!(correction(Solver::Heun, 0.5, 1.0), None);
    }
}
