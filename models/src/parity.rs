//! Proof that a network computes what its reference computes: recorded tensors against ours.
//!
//! A fixture is a JSON file with `architecture` and what that architecture needs. For `fashn-vton` that is `config`,
//! `sampler` (steps, guidance, `time_shift_mu`, `skip_guidance_last`, schedule) and the name of a safetensors file
//! beside it under `tensors`. That file holds `input.*`, `inner.*`, `output.*` and, unless the JSON names another file under `weights`,
//! the parameters as `model.*`.

pub mod preparation;
mod stable_diffusion;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kraftr_protocol::manifest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::device::{self, Precision};
use crate::fashn_vton::FashnVton;
use crate::fashn_vton::config::{Config, SamplerConfig};
use crate::fashn_vton::pipeline::Conditions;
use crate::layers::patch;
use crate::picture;
use crate::trace::Trace;
use crate::weights::Weights;

/// Unit roundoff of f16 and of bf16: the largest relative error of rounding once.
const ROUNDOFF_F16: f64 = 1.0 / 2048.0;
const ROUNDOFF_BF16: f64 = 1.0 / 256.0;

/// One recorded tensor against ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The recorded tensor's name.
    pub name: String,
    /// `‖ours - recorded‖ / ‖recorded‖`, Euclidean.
    pub rel_err: f64,
}

/// Largest relative errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tolerance {
    /// Of a tensor of one forward pass.
    pub forward: f64,
    /// Of a tensor of the sampler, where errors of many passes add up.
    pub sampler: f64,
}

impl Tolerance {
    /// In f32 an error is a mistake in the formulas or an order of summation, and sums of this length differ by
    /// 1e-6. In halves every stored number is rounded, independently, so a pass is off by a few roundoffs: 2.5
    /// in the fixtures, on a CPU that rounds where a GPU does. Eight leave room for other orders of summation
    /// and stay below what a wrong formula does, which f32 on the same device finds first.
    pub const fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self { forward: 1e-4, sampler: 1e-3 },
            Precision::F16 => Self { forward: 8.0 * ROUNDOFF_F16, sampler: 8.0 * ROUNDOFF_F16 },
            Precision::Bf16 => Self { forward: 8.0 * ROUNDOFF_BF16, sampler: 8.0 * ROUNDOFF_BF16 },
        }
    }

    fn admits(&self, check: &Check) -> bool {
        let sampler = check.name.starts_with("output.sampler.");
        check.rel_err < if sampler { self.sampler } else { self.forward }
    }
}

/// Every recorded tensor of a fixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where it was computed.
    pub device: String,
    /// In what.
    pub dtype: String,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// In the order of the computation.
    pub checks: Vec<Check>,
    /// Whether all are within tolerance.
    pub ok: bool,
}

#[derive(Deserialize)]
struct Head {
    architecture: String,
    weights: Option<String>,
}

#[derive(Deserialize)]
struct Fixture {
    tensors: String,
    weights: Option<String>,
    config: Config,
    sampler: Sampling,
}

#[derive(Deserialize)]
struct Sampling {
    steps: u32,
    guidance: f64,
    time_shift_mu: f64,
    skip_guidance_last: u32,
    schedule: Vec<f64>,
}

/// Runs the fixture's inputs through its network and compares with what it recorded. Without a precision
/// that is what suits the device.
pub fn check(fixture: &Path, device: &Device, precision: Option<Precision>) -> Result<Report, ModelError> {
    let precision = precision.unwrap_or_else(|| Precision::of(device));
    let checks = match read::<Head>(fixture)?.architecture.as_str() {
        "fashn-vton" => fashn_vton(fixture, device, precision)?,
        "stable-diffusion" => stable_diffusion::check(fixture, device, precision)?,
        other => {
            let reason =
                format!("architecture {other} has no parity check; use fashn-vton or stable-diffusion");
            return Err(ModelError::Fixture { path: fixture.to_owned(), reason });
        }
    };
    let tolerance = Tolerance::of(precision);
    let ok = checks.iter().all(|check| tolerance.admits(check));
    Ok(Report { device: device::display(device), dtype: precision.to_string(), tolerance, checks, ok })
}

/// The file beside the fixture that holds its parameters; none when it carries its own.
pub(crate) fn weights_of(fixture: &Path) -> Result<Option<String>, ModelError> {
    read::<Head>(fixture).map(|head| head.weights)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text =
        fs::read_to_string(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| ModelError::Fixture { path: path.to_owned(), reason: error.to_string() })
}

fn fashn_vton(path: &Path, device: &Device, precision: Precision) -> Result<Vec<Check>, ModelError> {
    let run = Run::open(path, device, precision)?;
    let mut checks = vec![run.schedule()];
    run.forward(&mut checks)?;
    run.halves(&mut checks)?;
    run.sampler(&mut checks)?;
    run.nothing_left_out(&checks)?;
    Ok(checks)
}

/// A fixture, its network and its inputs.
struct Run<'a> {
    path: &'a Path,
    fixture: Fixture,
    recorded: HashMap<String, Tensor>,
    network: FashnVton,
    noise: Tensor,
    times: Vec<f32>,
    conditions: Vec<Conditions>,
}

impl<'a> Run<'a> {
    fn open(path: &'a Path, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let bad = |reason: String| ModelError::Fixture { path: path.to_owned(), reason };
        let fixture: Fixture = read(path)?;
        let beside = |name: &str| path.with_file_name(name);
        let weights = match &fixture.weights {
            Some(name) => Weights::read(&beside(name), "")?,
            None => Weights::read(&beside(&fixture.tensors), "model.")?,
        };
        let sampler = SamplerConfig {
            time_shift_mu: fixture.sampler.time_shift_mu,
            skip_guidance_last: fixture.sampler.skip_guidance_last,
        };
        let network = FashnVton::load(fixture.config.clone(), sampler, &weights, device, precision)?;
        let mut recorded = candle_core::safetensors::load(beside(&fixture.tensors), device)?;
        recorded.retain(|name, _| !name.starts_with("model."));
        let input = |name: &str| recorded.get(name).ok_or_else(|| bad(format!("{name} is missing")));
        let p = fixture.config.patch_size;
        let patches = |picture: &str, pose: &str| -> Result<Tensor, ModelError> {
            Ok(patch::cut(&Tensor::cat(&[input(picture)?, input(pose)?], 1)?, p)?)
        };
        let person = patches("input.ca_images", "input.person_poses")?;
        let garment = patches("input.garment_images", "input.garment_poses")?;
        let categories = match recorded.get("input.garment_categories") {
            Some(categories) => categories.to_dtype(DType::U32)?.to_vec1()?,
            None => vec![0; person.dim(0)?],
        };
        let conditions = categories.into_iter().enumerate().map(|(row, category)| {
            network.conditions(&person.narrow(0, row, 1)?, &garment.narrow(0, row, 1)?, category)
        });
        let conditions = conditions.collect::<Result<_, _>>()?;
        let noise = patch::cut(input("input.x")?, p)?;
        let times = input("input.times")?.to_vec1()?;
        Ok(Self { path, fixture, recorded, network, noise, times, conditions })
    }

    fn schedule(&self) -> Check {
        let Sampling { steps, time_shift_mu, schedule, .. } = &self.fixture.sampler;
        let ours = crate::sampler::rectified_flow::schedule(*steps, *time_shift_mu);
        let ours: Vec<f64> = ours.into_iter().map(f64::from).collect();
        Check { name: "schedule".to_owned(), rel_err: relative_error(&ours, schedule) }
    }

    fn forward(&self, checks: &mut Vec<Check>) -> Result<(), ModelError> {
        let mut trace = Trace::recording();
        let rows = self.rows(self.conditions.iter())?;
        let velocity = self.velocity(&rows, &mut trace)?;
        for (name, value) in trace.into_values() {
            self.compare(&format!("inner.{name}"), &value, checks)?;
        }
        self.compare("output.forward", &velocity, checks)
    }

    fn halves(&self, checks: &mut Vec<Check>) -> Result<(), ModelError> {
        let blank = self.conditions.iter().map(|_| self.network.blank());
        let rows = self.rows(self.conditions.iter().chain(blank))?;
        let velocities = self.velocity(&rows, &mut Trace::default())?;
        let b = self.conditions.len();
        self.compare("output.cfg.conditional", &velocities.narrow(0, 0, b)?, checks)?;
        self.compare("output.cfg.unconditional", &velocities.narrow(0, b, b)?, checks)
    }

    fn sampler(&self, checks: &mut Vec<Check>) -> Result<(), ModelError> {
        let Sampling { steps, guidance, .. } = self.fixture.sampler;
        let sampling = crate::Sampling { steps, guidance, seed: 0, method: Method::default() };
        let start = |row: usize| {
            self.network.start(self.noise.narrow(0, row, 1)?, self.conditions[row].category, &sampling)
        };
        let mut paths = (0..self.conditions.len()).map(start).collect::<Result<Vec<_>, ModelError>>()?;
        let mut trajectory = Vec::new();
        for _ in 0..steps {
            let mut walks: Vec<_> = paths.iter_mut().zip(&self.conditions).collect();
            self.network.advance(&mut walks)?;
            let now: Vec<_> = paths.iter().map(|path| &path.x).collect();
            trajectory.push(self.pictures(&Tensor::cat(&now, 0)?)?);
        }
        let last = trajectory.last().map(|last| last.clamp(-1f32, 1f32)).transpose()?;
        self.compare("output.sampler.trajectory", &Tensor::stack(&trajectory, 0)?, checks)?;
        if let Some(last) = last {
            let bytes: Vec<u8> = last.flatten_all()?.to_vec1()?.into_iter().map(picture::to_byte).collect();
            let bytes = Tensor::from_vec(bytes, last.shape(), last.device())?;
            self.compare("output.sampler.final", &last, checks)?;
            self.compare("output.sampler.u8", &bytes, checks)?;
        }
        Ok(())
    }

    /// The fixture's noise and times, once for each pass over its batch.
    fn rows<'b>(
        &self,
        conditions: impl Iterator<Item = &'b Conditions>,
    ) -> Result<Vec<(Tensor, f32, &'b Conditions)>, ModelError> {
        let b = self.conditions.len();
        conditions
            .enumerate()
            .map(|(n, conditions)| Ok((self.noise.narrow(0, n % b, 1)?, self.times[n % b], conditions)))
            .collect()
    }

    fn velocity(&self, rows: &[(Tensor, f32, &Conditions)], trace: &mut Trace) -> Result<Tensor, ModelError> {
        let rows: Vec<_> = rows.iter().map(|(x, time, conditions)| (x, *time, *conditions)).collect();
        self.pictures(&self.network.velocity(&rows, trace)?)
    }

    fn pictures(&self, patches: &Tensor) -> Result<Tensor, ModelError> {
        Ok(patch::paste(patches, self.fixture.config.patch_size, self.fixture.config.input_shape)?)
    }

    /// Adds a check if the fixture recorded a tensor of that name.
    fn compare(&self, name: &str, ours: &Tensor, checks: &mut Vec<Check>) -> Result<(), ModelError> {
        let Some(recorded) = self.recorded.get(name) else { return Ok(()) };
        let recorded = &of_person(recorded, name, ours)?;
        if recorded.dims() != ours.dims() {
            return Err(self.bad(format!("{name} is {:?}, ours is {:?}", recorded.dims(), ours.dims())));
        }
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let rel_err = relative_error(&values(ours)?, &values(recorded)?);
        checks.push(Check { name: name.to_owned(), rel_err });
        Ok(())
    }

    fn nothing_left_out(&self, checks: &[Check]) -> Result<(), ModelError> {
        let mut left: Vec<_> = self
            .recorded
            .keys()
            .filter(|name| !name.starts_with("input.") && checks.iter().all(|check| check.name != **name))
            .cloned()
            .collect();
        left.sort();
        if left.is_empty() {
            return Ok(());
        }
        Err(self.bad(format!("nothing of ours compares with {}", left.join(", "))))
    }

    fn bad(&self, reason: String) -> ModelError {
        ModelError::Fixture { path: self.path.to_owned(), reason }
    }
}

/// Where garment tokens are not computed since nobody reads them (behind the last single block), those that were
/// recorded are left out; they come first.
fn of_person(recorded: &Tensor, name: &str, ours: &Tensor) -> candle_core::Result<Tensor> {
    match (recorded.dims(), ours.dims()) {
        ([_, all, _], [_, person, _]) if name.starts_with("inner.single_blocks.") && *all == 2 * person => {
            recorded.narrow(1, *person, *person)
        }
        _ => Ok(recorded.clone()),
    }
}

/// Not a number or another length counts as infinitely wrong.
pub(crate) fn relative_error(ours: &[f64], recorded: &[f64]) -> f64 {
    if ours.len() != recorded.len() {
        return f64::INFINITY;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(recorded).map(|(a, b)| a - b));
    let error = difference / norm(&mut recorded.iter().copied()).max(f64::MIN_POSITIVE);
    if error.is_nan() { f64::INFINITY } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_never_hide() {
        assert!((relative_error(&[3.0, 4.0], &[0.0, 4.0]) - 0.75).abs() < 1e-12);
        assert!(relative_error(&[f64::NAN], &[1.0]).is_infinite());
        assert!(relative_error(&[1.0], &[1.0, 2.0]).is_infinite());
    }
}
