//! The curved path from noise to picture of variance-preserving diffusion, and the solvers that walk it.
//!
//! At a node the latent is `alpha * clean + sigma * noise` with `alpha^2 + sigma^2 = 1`. A step reads the clean
//! latent off the network's answer and moves to the next node by a weighted sum, so that every sample of a batch
//! can stand at another node. Source: the schedulers of diffusers 0.42 (`DDIMScheduler`,
//! `DPMSolverMultistepScheduler`); papers arXiv 2010.02502 and 2211.01095.

use serde::{Deserialize, Serialize};

/// Steps of the noise schedule that networks are trained with.
const TRAINED: u32 = 1_000;

/// How a step goes from one node to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Solver {
    /// DDIM without noise, which is Euler's method in `sigma / alpha`: first order.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++(2M): second order over two steps, for few of them.
    #[serde(rename = "dpm++2m")]
    DpmPlusPlus2M,
}

/// How the nodes are spread over the trained steps, as in table 2 of arXiv 2305.08891.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spacing {
    /// Both ends included.
    Linspace,
    /// From the clean end.
    Leading,
    /// From the noisy end: for networks distilled to very few steps.
    Trailing,
}

/// What the network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Prediction {
    /// The noise.
    #[serde(rename = "epsilon")]
    Epsilon,
    /// `alpha * noise - sigma * clean`.
    #[serde(rename = "v_prediction")]
    V,
}

/// How a network is sampled, under the reference's names; the defaults are those of Stable Diffusion 1.5.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SamplerConfig {
    /// How steps are taken.
    pub(crate) solver: Solver,
    /// What the network answers.
    pub(crate) prediction_type: Prediction,
    /// How nodes are spread.
    pub(crate) timestep_spacing: Spacing,
    /// Added to every node with leading spacing.
    pub(crate) steps_offset: u32,
    /// Whether DDIM ends without noise rather than at the first trained step; DPM-Solver++ always does.
    pub(crate) set_alpha_to_one: bool,
    /// Variance added at the first trained step.
    pub(crate) beta_start: f64,
    /// Variance added at the last one; square roots are linear between.
    pub(crate) beta_end: f64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            solver: Solver::DpmPlusPlus2M,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: Spacing::Leading,
            steps_offset: 1,
            set_alpha_to_one: false,
            beta_start: 0.000_85,
            beta_end: 0.012,
        }
    }
}

impl SamplerConfig {
    /// The most steps that have a node each.
    pub(crate) const STEPS_MAX: u32 = TRAINED / 2;

    /// Everything that keeps a schedule from being made of it.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let betas = 0.0 < self.beta_start && self.beta_start <= self.beta_end && self.beta_end < 1.0;
        let linear_ddim = self.solver == Solver::Ddim && self.timestep_spacing == Spacing::Linspace;
        [
            (!betas, "beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1"),
            (self.steps_offset > 1, "steps_offset must be 0 or 1"),
            (linear_ddim, "timestep_spacing linspace needs the solver dpm++2m; use leading or trailing"),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, sentence)| format!("sampler: {sentence}"))
        .collect()
    }
}

/// A point of the path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Node {
    /// The trained step that the network is told.
    pub(crate) time: f64,
    /// Share of the clean latent.
    pub(crate) alpha: f64,
    /// Share of the noise.
    pub(crate) sigma: f64,
}

impl Node {
    /// `(of the latent, of the network's answer)`: the clean latent is their sum.
    pub(crate) fn clean(&self, prediction: Prediction) -> (f64, f64) {
        match prediction {
            Prediction::Epsilon => (1.0 / self.alpha, -self.sigma / self.alpha),
            Prediction::V => (self.alpha, -self.sigma),
        }
    }

    /// Its time from 0 (noise) to 1 (picture), by trained steps.
    pub(crate) fn progress(&self) -> f64 {
        1.0 - self.time / f64::from(TRAINED)
    }

    /// Logarithm of signal over noise; infinite where there is no noise.
    fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

/// What a step adds up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    /// Of the latent.
    pub(crate) latent: f64,
    /// Of the clean latent read off now.
    pub(crate) clean: f64,
    /// Of the one read off a step before; 0 at the first step.
    pub(crate) before: f64,
}

/// The nodes of a walk: `steps + 1` of them, the last one clean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    nodes: Vec<Node>,
    solver: Solver,
}

impl Schedule {
    /// A walk of `steps` steps, 1 to [`SamplerConfig::STEPS_MAX`].
    pub(crate) fn new(config: &SamplerConfig, steps: u32) -> Self {
        let kept = kept_signal(config);
        let node = |time: f64| {
            let signal = kept[time as usize];
            Node { time, alpha: signal.sqrt(), sigma: (1.0 - signal).sqrt() }
        };
        let mut nodes: Vec<Node> = times(config, steps).into_iter().map(node).collect();
        let to_the_end = config.solver == Solver::DpmPlusPlus2M || config.set_alpha_to_one;
        nodes.push(if to_the_end { Node { time: 0.0, alpha: 1.0, sigma: 0.0 } } else { node(0.0) });
        Self { nodes, solver: config.solver }
    }

    /// The node before step `step`, or after the last one.
    pub(crate) fn node(&self, step: usize) -> Node {
        self.nodes[step]
    }

    /// How many steps there are.
    pub(crate) fn steps(&self) -> usize {
        self.nodes.len() - 1
    }

    /// How step `step` gets to the next node.
    pub(crate) fn step(&self, step: usize) -> Step {
        let (here, next) = (self.nodes[step], self.nodes[step + 1]);
        let h = next.lambda() - here.lambda();
        let clean = next.alpha * (1.0 - (-h).exp());
        let second_order = self.solver == Solver::DpmPlusPlus2M && step > 0 && step + 1 < self.steps();
        let bend = if second_order {
            0.5 * clean * h / (here.lambda() - self.nodes[step - 1].lambda())
        } else {
            0.0
        };
        Step { latent: next.sigma / here.sigma, clean: clean + bend, before: -bend }
    }
}

/// The share of the signal's variance that is left after each trained step.
fn kept_signal(config: &SamplerConfig) -> Vec<f64> {
    let (start, end) = (config.beta_start.sqrt(), config.beta_end.sqrt());
    let beta = |n: u32| (start + (end - start) * f64::from(n) / f64::from(TRAINED - 1)).powi(2);
    let product = |kept: &mut f64, n| {
        *kept *= 1.0 - beta(n);
        Some(*kept)
    };
    (0..TRAINED).scan(1.0, product).collect()
}

/// The trained steps of a walk, from noise on.
fn times(config: &SamplerConfig, steps: u32) -> Vec<f64> {
    let last = f64::from(TRAINED - 1);
    match config.timestep_spacing {
        Spacing::Linspace => {
            let at = |n: u32| (last * f64::from(n) / f64::from(steps)).round_ties_even();
            (1..=steps).rev().map(at).collect()
        }
        Spacing::Leading => {
            // The reference leaves the clean end to DDIM's nodes and not to those of DPM-Solver++.
            let (stride, first) = match config.solver {
                Solver::Ddim => (TRAINED / steps, 0),
                Solver::DpmPlusPlus2M => (TRAINED / (steps + 1), 1),
            };
            (first..first + steps).rev().map(|n| f64::from(n * stride + config.steps_offset)).collect()
        }
        Spacing::Trailing => {
            let stride = f64::from(TRAINED) / f64::from(steps);
            let at = |n: u32| (f64::from(TRAINED) - f64::from(n) * stride).round_ties_even() - 1.0;
            (0..steps).map(at).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_walk_goes_from_noise_to_picture() {
        for solver in [Solver::Ddim, Solver::DpmPlusPlus2M] {
            for timestep_spacing in [Spacing::Linspace, Spacing::Leading, Spacing::Trailing] {
                let config = SamplerConfig { solver, timestep_spacing, ..SamplerConfig::default() };
                if !config.mistakes().is_empty() {
                    continue;
                }
                for steps in [1, 2, 3, 25, 333, SamplerConfig::STEPS_MAX] {
                    let schedule = Schedule::new(&config, steps);
                    assert_eq!(schedule.steps(), steps as usize);
                    let sigmas: Vec<f64> = schedule.nodes.iter().map(|node| node.sigma).collect();
                    assert!(
                        sigmas.windows(2).all(|pair| pair[0] > pair[1]),
                        "{config:?} {steps}: {sigmas:?}"
                    );
                    let sums = (0..schedule.steps()).map(|n| schedule.step(n));
                    assert!(sums.into_iter().all(|s| s.latent.is_finite() && s.clean.is_finite()));
                }
            }
        }
    }

    /// Whatever the solver, a network that knows the clean latent leads to it.
    #[test]
    fn a_perfect_network_is_followed() {
        for solver in [Solver::Ddim, Solver::DpmPlusPlus2M] {
            let config = SamplerConfig { solver, set_alpha_to_one: true, ..SamplerConfig::default() };
            let schedule = Schedule::new(&config, 9);
            let (clean, noise) = (0.7, -1.3);
            let first = schedule.node(0);
            let mut latent = first.alpha * clean + first.sigma * noise;
            for n in 0..schedule.steps() {
                let step = schedule.step(n);
                latent = step.latent * latent + (step.clean + step.before) * clean;
                let node = schedule.node(n + 1);
                assert!((latent - (node.alpha * clean + node.sigma * noise)).abs() < 1e-9, "{n}");
            }
            assert!((latent - clean).abs() < 1e-9);
        }
    }

    #[test]
    fn mistakes_are_sentences() {
        let broken = SamplerConfig {
            solver: Solver::Ddim,
            timestep_spacing: Spacing::Linspace,
            steps_offset: 7,
            beta_start: 0.0,
            ..SamplerConfig::default()
        };
        assert_eq!(broken.mistakes().len(), 3);
        assert!(SamplerConfig::default().mistakes().is_empty());
    }
}
