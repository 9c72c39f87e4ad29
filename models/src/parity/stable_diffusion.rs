//! The parts of Stable Diffusion against the reference, then whole walks.
//!
//! Beside `config` the fixture holds `size`, `merges`, `prompts` with their `tokens`, `sampling` (steps, guidance)
//! and `walks` of one number under known answers. Its tensors are the files' under `text_encoder.`, `unet.` and
//! `vae.`, and `input.*` and `output.*`. Source: `models/tests/fixtures/stable_diffusion.py`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{Check, relative_error};
use crate::ModelError;
use crate::device::Precision;
use crate::sampler::diffusion::{SamplerConfig, Schedule};
use crate::sampler::guidance::Guidance;
use crate::stable_diffusion::config::Config;
use crate::stable_diffusion::pipeline::{Conditions, Held, Parts, StableDiffusion};
use crate::weights::Weights;

#[derive(Deserialize)]
struct Fixture {
    tensors: String,
    size: [u32; 2],
    config: Config,
    sampling: Sampling,
    merges: String,
    prompts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    walks: Vec<Walk>,
}

#[derive(Deserialize)]
struct Sampling {
    steps: u32,
    guidance: f64,
}

/// One number on its way, where the network's answer to `x` at step `n` is `sin(2 x + n)`.
#[derive(Deserialize)]
struct Walk {
    sampler: SamplerConfig,
    steps: u32,
    times: Vec<f64>,
    path: Vec<f64>,
}

/// Compares everything that was recorded.
pub(super) fn check(path: &Path, device: &Device, precision: Precision) -> Result<Vec<Check>, ModelError> {
    let fixture: Fixture = super::read(path)?;
    let mistakes = fixture.config.mistakes();
    if !mistakes.is_empty() {
        return Err(ModelError::Config { mistakes });
    }
    let beside = path.with_file_name(&fixture.tensors);
    let parts = Parts {
        merges: &fixture.merges,
        text_encoder: &Weights::read(&beside, "text_encoder.")?,
        unet: &Weights::read(&beside, "unet.")?,
        vae: &Weights::read(&beside, "vae.")?,
    };
    let network = StableDiffusion::load(fixture.config.clone(), fixture.size, &parts, device, precision)?;
    let mut recorded = candle_core::safetensors::load(&beside, device)?;
    for (_, input) in recorded.iter_mut().filter(|(name, _)| name.starts_with("input.")) {
        *input = input.to_dtype(DType::F32)?;
    }
    let mut run = Run { path, fixture, network, recorded, checks: Vec::new() };
    run.walks();
    run.text()?;
    run.parts()?;
    run.whole()?;
    run.nothing_left_out()?;
    Ok(run.checks)
}

struct Run<'a> {
    path: &'a Path,
    fixture: Fixture,
    network: StableDiffusion,
    recorded: HashMap<String, Tensor>,
    checks: Vec<Check>,
}

impl Run<'_> {
    fn walks(&mut self) {
        for (at, walk) in self.fixture.walks.iter().enumerate() {
            let schedule = Schedule::new(&walk.sampler, walk.steps);
            let (mut x, mut before, mut path, mut times) = (0.3, 0.0, Vec::new(), Vec::new());
            for n in 0..schedule.steps() {
                let (of_x, of_answer) = schedule.node(n).clean(walk.sampler.prediction_type);
                let clean = of_x * x + of_answer * (2.0 * x + n as f64).sin();
                let sum = schedule.step(n);
                x = sum.latent * x + sum.clean * clean + sum.before * before;
                before = clean;
                path.push(x);
                times.push(schedule.node(n).time);
            }
            let mut check = |what: &str, ours: &[f64], theirs: &[f64]| {
                let name = format!("walks.{at}.{what}");
                self.checks.push(Check { name, rel_err: relative_error(ours, theirs) });
            };
            check("times", &times, &walk.times);
            check("path", &path, &walk.path);
        }
    }

    fn text(&mut self) -> Result<(), ModelError> {
        let mut described = Vec::new();
        for (at, (prompt, recorded)) in self.fixture.prompts.iter().zip(&self.fixture.tokens).enumerate() {
            let tokens = self.network.tokens(prompt)?;
            let rel_err = if tokens == *recorded { 0.0 } else { f64::INFINITY };
            self.checks.push(Check { name: format!("tokens.{at}"), rel_err });
            described.push(self.network.encode_text(recorded)?);
        }
        self.compare("output.text", &Tensor::cat(&described, 0)?)
    }

    fn parts(&mut self) -> Result<(), ModelError> {
        let times: Vec<f64> = self.input("times")?.to_dtype(DType::F64)?.to_vec1()?;
        let context = self.recorded("output.text")?.clone();
        let answer = self.network.answer(self.input("latent")?, &times, &context)?;
        self.compare("output.unet", &answer)?;
        let encoded = self.network.encode(self.input("picture")?)?;
        self.compare("output.encoded", &encoded)?;
        let decoded = self.network.decode(self.recorded("output.encoded")?)?;
        self.compare("output.decoded", &decoded)
    }

    /// The first prompt to the end, painting everything, then around what stays of the picture.
    fn whole(&mut self) -> Result<(), ModelError> {
        let path = self.walk(None)?;
        self.compare("output.sampler.path", &Tensor::stack(&path, 0)?)?;
        if let Some(last) = path.last() {
            let picture = self.network.decode(last)?.clamp(-1f32, 1f32)?;
            self.compare("output.sampler.picture", &picture)?;
        }
        let held = self.network.hold(self.input("picture")?, self.input("matte")?)?;
        let path = self.walk(Some(held))?;
        self.compare("output.sampler.kept", &Tensor::stack(&path, 0)?)
    }

    /// The latent after each step.
    fn walk(&self, held: Option<Held>) -> Result<Vec<Tensor>, ModelError> {
        let tokens = self.fixture.tokens.first().ok_or_else(|| self.bad("there are no tokens".to_owned()))?;
        let conditions = Conditions { context: self.network.encode_text(tokens)?, held };
        let Sampling { steps, guidance: scale } = self.fixture.sampling;
        let guidance = Guidance { scale, interval: [0.0, 1.0], skip_last: 0 };
        let mut walk = self.network.start(self.input("noise")?.clone(), steps, guidance, &conditions)?;
        let step = |_| {
            self.network.advance(&mut [(&mut walk, &conditions)])?;
            Ok(walk.x.clone())
        };
        (0..steps).map(step).collect()
    }

    fn input(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.recorded(&format!("input.{name}"))
    }

    fn recorded(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.recorded.get(name).ok_or_else(|| self.bad(format!("{name} is missing")))
    }

    fn compare(&mut self, name: &str, ours: &Tensor) -> Result<(), ModelError> {
        let recorded = self.recorded(name)?;
        if recorded.dims() != ours.dims() {
            return Err(self.bad(format!("{name} is {:?}, ours is {:?}", recorded.dims(), ours.dims())));
        }
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let rel_err = relative_error(&values(ours)?, &values(recorded)?);
        self.checks.push(Check { name: name.to_owned(), rel_err });
        Ok(())
    }

    fn nothing_left_out(&self) -> Result<(), ModelError> {
        let unchecked = |name: &&String| {
            name.starts_with("output.") && self.checks.iter().all(|check| check.name != **name)
        };
        match self.recorded.keys().find(unchecked) {
            Some(name) => Err(self.bad(format!("nothing of ours compares with {name}"))),
            None => Ok(()),
        }
    }

    fn bad(&self, reason: String) -> ModelError {
        ModelError::Fixture { path: self.path.to_owned(), reason }
    }
}
