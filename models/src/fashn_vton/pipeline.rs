//! From pictures to a picture: conditions, noise, Euler steps with guidance.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use super::config::{Config, SamplerConfig};
use super::mmdit::{Mmdit, Rows};
use super::prepare::{self, Preparation, PrepareConfig, Reading};
use crate::ModelError;
use crate::device::Precision;
use crate::layers::patch;
use crate::model::{Architecture, Role, Sampling};
use crate::noise;
use crate::person::Readers;
use crate::picture::{self, Placement};
use crate::registry::Files;
use crate::sampler::{guidance, rectified_flow};
use crate::trace::Trace;
use crate::weights::Weights;

/// A network with its sampler.
pub(crate) struct FashnVton {
    config: Config,
    sampler: SamplerConfig,
    network: Mmdit,
    preparation: Preparation,
    blank: Conditions,
}

/// What the network is told beside noise and time, embedded: `[1, n, d]` each.
#[derive(Clone)]
pub(crate) struct Conditions {
    person: Tensor,
    garment: Tensor,
    category: u32,
}

/// Conditions of one render.
pub(crate) struct Prepared {
    conditions: Conditions,
    placement: Placement,
}

/// One image on its way from noise to picture, in patches.
pub(crate) struct Sample {
    prepared: Arc<Prepared>,
    path: Path,
}

/// A walk through the times.
pub(crate) struct Path {
    /// Where it is, `[1, n, patch]`.
    pub(crate) x: Tensor,
    /// Time and velocity of the last step.
    last: Option<(f32, Tensor)>,
    times: Vec<f32>,
    step: usize,
    guidance: f64,
}

impl FashnVton {
    /// The release's network, from its file in the role `weights`, and those that read photographs.
    pub(crate) fn release(
        files: &Files<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let (config, sampler, prepare) = Config::of(files.manifest)?;
        let preparation = Preparation::new(&config, prepare, Readers::load(files, device)?);
        let weights = files.weights("weights")?;
        Ok(Self { preparation, ..Self::load(config, sampler, &weights, device, precision)? })
    }

    /// A network of any configuration that reads no photographs of people.
    pub(crate) fn load(
        config: Config,
        sampler: SamplerConfig,
        weights: &Weights,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let network = Mmdit::load(&config, &weights.open(&config.contract(), device, precision)?)?;
        let pixels = config.patch_size * config.patch_size;
        let blank = |channels: usize| {
            Tensor::zeros((1, config.tokens(), channels * pixels), candle_core::DType::F32, device)
        };
        // The unconditional half sees zeros, not -1, for pictures and drawings alike.
        let blank = Conditions {
            person: network.embed_person(&blank(config.channels_in + 1)?)?,
            garment: network.embed_garment(&blank(config.channels_in + 1)?)?,
            category: 0,
        };
        let preparation =
            Preparation::new(&config, PrepareConfig::default(), Readers::none("without a name"));
        Ok(Self { config, sampler, network, preparation, blank })
    }

    /// Conditions from patches of (person ‖ pose) and (garment ‖ pose).
    pub(crate) fn conditions(
        &self,
        person: &Tensor,
        garment: &Tensor,
        category: u32,
    ) -> Result<Conditions, ModelError> {
        Ok(Conditions {
            person: self.network.embed_person(person)?,
            garment: self.network.embed_garment(garment)?,
            category,
        })
    }

    /// Starts a walk at `x`, `[1, n, patch]`.
    pub(crate) fn start(&self, x: Tensor, steps: u32, guidance: f64) -> Path {
        let times = rectified_flow::schedule(steps, self.sampler.time_shift_mu);
        Path { x, last: None, times, step: 0, guidance }
    }

    /// The conditions of the unconditional half.
    pub(crate) fn blank(&self) -> &Conditions {
        &self.blank
    }

    /// Velocities, `[b, n, patch]`, of rows that share nothing but the pass.
    pub(crate) fn velocity(
        &self,
        rows: &[(&Tensor, f32, &Conditions)],
        trace: &mut Trace,
    ) -> Result<Tensor, ModelError> {
        let cat =
            |pick: &dyn Fn(usize) -> Tensor| Tensor::cat(&(0..rows.len()).map(pick).collect::<Vec<_>>(), 0);
        let noise = self.network.embed_noise(&cat(&|row| rows[row].0.clone())?)?;
        let rows = Rows {
            person: (noise + cat(&|row| rows[row].2.person.clone())?)?,
            garment: cat(&|row| rows[row].2.garment.clone())?,
            times: rows.iter().map(|row| row.1).collect(),
            categories: rows.iter().map(|row| row.2.category).collect(),
        };
        Ok(self.network.forward(&rows, trace)?)
    }

    /// One Euler step of every walk: all conditional halves, then the unconditional ones of those that
    /// are guided, in one pass.
    pub(crate) fn advance(&self, walks: &mut [(&mut Path, &Conditions)]) -> Result<(), ModelError> {
        let guided: Vec<usize> = (0..walks.len()).filter(|n| self.is_guided(walks[*n].0)).collect();
        let mut rows: Vec<_> =
            walks.iter().map(|(path, conditions)| (&path.x, path.time(), *conditions)).collect();
        rows.extend(guided.iter().map(|n| (&walks[*n].0.x, walks[*n].0.time(), &self.blank)));
        let velocities = self.velocity(&rows, &mut Trace::default())?;
        let mut moved = Vec::with_capacity(walks.len());
        for (n, (path, _)) in walks.iter().enumerate() {
            let mut velocity = velocities.narrow(0, n, 1)?;
            if let Some(at) = guided.iter().position(|guided| *guided == n) {
                let unconditional = velocities.narrow(0, walks.len() + at, 1)?;
                velocity = guidance::mix(&velocity, &unconditional, path.guidance)?;
            }
            let stride = f64::from(path.times[path.step + 1] - path.time());
            moved.push(((&path.x + (&velocity * stride)?)?, velocity));
        }
        for ((path, _), (x, velocity)) in walks.iter_mut().zip(moved) {
            // Kept in its own memory: a view would hold the whole batch's velocities.
            path.last = Some((path.times[path.step + 1], velocity.copy()?));
            path.x = x;
            path.step += 1;
        }
        Ok(())
    }

    fn is_guided(&self, path: &Path) -> bool {
        let steps = path.times.len() as u32 - 1;
        guidance::is_guided(path.guidance, path.step as u32, steps, self.sampler.skip_guidance_last)
    }

    fn paint(&self, patches: &Tensor, placement: Placement) -> Result<RgbImage, ModelError> {
        let [height, width] = self.config.input_shape;
        let planes = patch::paste(patches, self.config.patch_size, self.config.input_shape)?;
        let planes = planes.flatten_all()?.to_vec1::<f32>()?;
        Ok(picture::unpad(&picture::from_planes(&planes, width as u32, height as u32), placement))
    }
}

impl Path {
    fn time(&self) -> f32 {
        self.times[self.step]
    }

    /// The picture that the last velocity leads to from here.
    fn expected(&self) -> Result<Tensor, ModelError> {
        Ok(match &self.last {
            Some((time, velocity)) => (&self.x + (velocity * f64::from(1.0 - time))?)?,
            None => self.x.clone(),
        })
    }
}

impl Architecture for FashnVton {
    type Reading = Reading;
    type Prepared = Prepared;
    type Sample = Sample;

    fn read(&self, photograph: &RgbImage, role: Role) -> Result<Reading, ModelError> {
        self.preparation.read(photograph, role)
    }

    fn bytes(reading: &Reading) -> usize {
        reading.bytes()
    }

    fn prepare(
        &self,
        person: &Reading,
        garment: &Reading,
        category: Category,
    ) -> Result<Prepared, ModelError> {
        let device = self.network.device();
        let conditions = self.conditions(
            &person.person(category, &self.config, device)?,
            &garment.garment(category, &self.config, device)?,
            prepare::category_number(category),
        )?;
        Ok(Prepared { conditions, placement: person.placement() })
    }

    fn begin(&self, prepared: &Arc<Prepared>, sampling: &Sampling) -> Result<Sample, ModelError> {
        let shape = (1, self.config.tokens(), self.config.patch());
        let noise = noise::normals(sampling.seed, shape.1 * shape.2);
        let x = Tensor::from_vec(noise, shape, self.network.device())?;
        Ok(Sample { prepared: Arc::clone(prepared), path: self.start(x, sampling.steps, sampling.guidance) })
    }

    fn step(&self, batch: &mut [&mut Sample]) -> Result<(), ModelError> {
        let mut walks: Vec<_> = batch
            .iter_mut()
            .map(|sample| {
                let Sample { prepared, path } = &mut **sample;
                (path, &prepared.conditions)
            })
            .collect();
        self.advance(&mut walks)?;
        // A GPU has only been told what to do so far: its failures and the time it takes belong to this step.
        Ok(self.network.device().synchronize()?)
    }

    fn preview(&self, sample: &Sample) -> Result<RgbImage, ModelError> {
        self.paint(&sample.path.expected()?, sample.prepared.placement)
    }

    fn finish(&self, sample: Sample) -> Result<RgbImage, ModelError> {
        self.paint(&sample.path.x, sample.prepared.placement)
    }
}
