//! What a quality means for a release: how many steps, and how each is taken.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use super::one_of;
use super::read::{Table, readable_words};
use crate::spec::{Quality, words};

words!(
    /// How velocities become steps.
    Solver {
        /// First order, one evaluation a step: what references do.
        Euler = "euler",
        /// Adams-Bashforth, second order, one evaluation a step.
        Ab2 = "ab2",
        /// Heun, second order, two evaluations a step.
        Heun = "heun",
    }
);

readable_words!(Solver = one_of(Solver::ALL.iter().copied().map(Solver::as_str)));

const ALWAYS: [f64; 2] = [0.0, 1.0];
const INTERVAL: &str = "must be two times from 0 (noise) to 1 (picture), the earlier first";
const CACHE: &str = "must be 0 (never) to 1";

fn is_interval([from, to]: &[f64; 2]) -> bool {
    (0.0..=*to).contains(from) && *to <= 1.0
}

fn is_cache(cache: f64) -> bool {
    (0.0..=1.0).contains(&cache)
}

/// How a step is taken; the default is the reference's way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Method {
    /// How velocities become steps.
    pub solver: Solver,
    /// Times, from 0 (noise) to 1 (picture), between which guidance is applied.
    pub guidance_interval: [f64; 2],
    /// Change of the first block's result, relative, below which the other blocks' result is used again; 0 never.
    pub cache: f64,
}

impl Default for Method {
    fn default() -> Self {
        Self { solver: Solver::Euler, guidance_interval: ALWAYS, cache: 0.0 }
    }
}

impl Method {
    /// What is wrong with it: fields, and what they must be.
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut mistakes = Vec::new();
        if !is_interval(&self.guidance_interval) {
            mistakes.push(("guidance_interval", INTERVAL));
        }
        if !is_cache(self.cache) {
            mistakes.push(("cache", CACHE));
        }
        mistakes
    }
}

/// What a quality means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QualitySettings {
    /// Denoise steps.
    pub steps: u32,
    /// How velocities become steps.
    pub solver: Solver,
    /// Times, from 0 (noise) to 1 (picture), between which guidance is applied.
    pub guidance_interval: [f64; 2],
    /// Change of the first block's result, relative, below which the other blocks' result is used again; 0 never.
    pub cache: f64,
    /// Passes through the whole network that one image costs, as measured; a guided step is two, and one that uses
    /// something again counts by the time it takes. Without it, as if every step were guided and none used anything
    /// again. Times are estimated with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<f64>,
}

impl QualitySettings {
    /// How each step is taken.
    pub const fn method(&self) -> Method {
        Method { solver: self.solver, guidance_interval: self.guidance_interval, cache: self.cache }
    }

    /// Passes of one image through the network.
    pub(super) fn evaluations(&self, guidance: f64) -> f64 {
        self.evaluations.unwrap_or_else(|| {
            let halves = if guidance > 1.0 { 2.0 } else { 1.0 };
            let stages = if self.solver == Solver::Heun { 2.0 } else { 1.0 };
            f64::from(self.steps) * halves * stages
        })
    }

    /// `allowed` is none where the limits are wrong themselves.
    fn read(mut table: Table<'_>, allowed: Option<&RangeInclusive<u32>>) -> Option<Self> {
        let within = |steps: &u32| allowed.is_none_or(|allowed| allowed.contains(steps));
        let steps = table.checked("steps", within, "must be within limits.steps_min and steps_max");
        let solver = table.optional("solver", |_: &Solver| true, "");
        let guidance_interval = table.optional("guidance_interval", is_interval, INTERVAL);
        let cache = table.optional("cache", |cache: &f64| is_cache(*cache), CACHE);
        let passes = |number: &f64| (0.1..=1e4).contains(number);
        let evaluations =
            table.optional("evaluations", passes, "must be 0.1 to 10000, the passes of one image");
        table.finish();
        Some(Self {
            steps: steps?,
            solver: solver.ok()?.unwrap_or(Solver::Euler),
            guidance_interval: guidance_interval.ok()?.unwrap_or(ALWAYS),
            cache: cache.ok()?.unwrap_or(0.0),
            evaluations: evaluations.ok()?,
        })
    }
}

/// Reads the table of all qualities.
pub(super) fn read(
    mut table: Table<'_>,
    allowed: Option<&RangeInclusive<u32>>,
) -> Option<BTreeMap<Quality, QualitySettings>> {
    let of = |quality: &Quality| {
        let settings = table.table(quality.as_str())?;
        Some((*quality, QualitySettings::read(settings, allowed)?))
    };
    let all: Vec<Option<(Quality, QualitySettings)>> = Quality::ALL.iter().map(of).collect();
    table.finish();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Quality, ReleaseManifest};

    fn manifest(fast: &str) -> Result<ReleaseManifest, crate::manifest::ManifestError> {
        let text = format!(
            "name = 'm'\ntitle = 'T'\ntask = 'try-on'\narchitecture = 'a'\nsize = [96, 144]\n\
             categories = ['tops']\nprice = 1\ndevice_time_ms = 1000\nlicence = 'MIT'\n\
             [defaults]\nguidance = 1.5\n[quality.fast]\n{fast}\n[quality.balanced]\nsteps = 20\n\
             [quality.best]\nsteps = 30\n[limits]\nsteps_min = 1\nsteps_max = 50\nsamples_max = 4\n"
        );
        ReleaseManifest::parse("m", &text)
    }

    #[test]
    fn what_is_not_said_is_the_references_way() {
        let parsed =
            manifest("steps = 8\nsolver = 'ab2'\nguidance_interval = [0.1, 0.8]\ncache = 0.1").unwrap();
        let fast = parsed.quality(Quality::Fast).method();
        assert_eq!(fast, Method { solver: Solver::Ab2, guidance_interval: [0.1, 0.8], cache: 0.1 });
        assert_eq!(parsed.quality(Quality::Best).method(), Method::default());
    }

    #[test]
    fn every_mistake_is_listed() {
        let error =
            manifest("steps = 60\nguidance_interval = [0.8, 0.1]\ncache = -1\nevaluations = 0").unwrap_err();
        let fields: Vec<_> =
            error.mistakes.iter().map(|mistake| mistake.split(": ").nth(1).unwrap()).collect();
        let expect = ["steps", "guidance_interval", "cache", "evaluations"]
            .map(|field| format!("quality.fast.{field}"));
        assert_eq!(fields, expect);
        let error = manifest("steps = 8\nguidance_interval = [nan, 1]\ncache = nan").unwrap_err();
        assert_eq!(error.mistakes.len(), 2, "{error}");
        for (said, about) in [
            ("steps = 8\nsolver = 'rk4'", "quality.fast.solver: must be one of euler, ab2, heun"),
            ("steps = 8\nsolvr = 'ab2'", "quality.fast.solvr: there is no such key; did you mean solver?"),
            ("cache = 0.1", "quality.fast.steps: is missing"),
        ] {
            let error = manifest(said).unwrap_err().to_string();
            assert!(error.contains(about), "{error}");
        }
    }

    #[test]
    fn a_missing_quality_is_told() {
        let text = manifest("steps = 8").unwrap().to_toml().replace("[quality.best]", "[quality.bst]");
        let error = ReleaseManifest::parse("m", &text).unwrap_err();
        assert_eq!(error.mistakes.len(), 2, "{error}");
        for about in ["quality.best: is missing", "quality.bst: there is no such key; did you mean best?"] {
            assert!(error.to_string().contains(about), "{error}");
        }
    }

    #[test]
    fn evaluations_are_measured_or_follow_from_the_steps() {
        let parsed = manifest("steps = 8\nsolver = 'heun'").unwrap();
        assert!((parsed.evaluations(Quality::Fast, 4) - 16.0).abs() < 1e-9);
        assert!((parsed.evaluations(Quality::Best, 30) - 60.0).abs() < 1e-9);
        let parsed = manifest("steps = 8\nevaluations = 10.5").unwrap();
        assert!((parsed.evaluations(Quality::Fast, 16) - 21.0).abs() < 1e-9);
    }
}
