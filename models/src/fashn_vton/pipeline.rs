//! From pictures to a picture: conditions, noise, steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{Device, Tensor};
use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use super::config::{Config, SamplerConfig};
use super::mmdit::Mmdit;
use super::prepare::{self, Preparation, PrepareConfig, Reading};
use super::walk::{self, Path, Row};
use crate::ModelError;
use crate::device::Precision;
use crate::inputs::Role;
use crate::layers::patch;
use crate::model::{Architecture, DressesPeople, Evaluations, Sampling};
use crate::noise;
use crate::person::Readers;
use crate::picture::{self, Placement};
use crate::registry::Files;
use crate::sampler::guidance::Guidance;
use crate::sampler::rectified_flow;
use crate::scene::Subject;
use crate::trace::Trace;
use crate::weights::Weights;

/// A network with its sampler.
pub(crate) struct FashnVton {
    config: Config,
    sampler: SamplerConfig,
    network: Mmdit,
    preparation: Preparation,
    blank: Conditions,
    tables: Tables,
}

/// Modulations of whole schedules by steps and category, as long as a sample needs them.
type Tables = Mutex<HashMap<(u32, u32), Weak<Tensor>>>;

/// What the network is told beside noise and time, embedded: `[1, n, d]` each.
#[derive(Clone)]
pub(crate) struct Conditions {
    pub(super) person: Tensor,
    pub(super) garment: Tensor,
    pub(crate) category: u32,
}

/// Conditions of one render.
pub(crate) struct Prepared {
    conditions: Conditions,
    placement: Placement,
}

/// One image on its way from noise to picture.
pub(crate) struct Sample {
    prepared: Arc<Prepared>,
    path: Path,
}

impl FashnVton {
    /// The release's network, from its file in the role `weights`, and those that read photographs.
    pub(crate) fn release(
        files: &Files<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let (config, sampler, prepare) = Config::of(files.manifest)?;
        let readers = Readers::load(files, &prepare.parser, device)?;
        let preparation = Preparation::new(&config, prepare, readers);
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
        Ok(Self { config, sampler, network, preparation, blank, tables: Mutex::default() })
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
    pub(crate) fn start(&self, x: Tensor, category: u32, sampling: &Sampling) -> Result<Path, ModelError> {
        let Sampling { steps, guidance, method, .. } = *sampling;
        let times = rectified_flow::schedule(steps, self.sampler.time_shift_mu);
        let skip_last = self.sampler.skip_guidance_last;
        let guidance = Guidance { scale: guidance, interval: method.guidance_interval, skip_last };
        let guided = (0..steps).zip(&times).any(|(step, time)| guidance.applies(*time, step, steps));
        let unconditional = if guided { Some(self.table(&times, 0)?) } else { None };
        Ok(Path {
            x,
            step: 0,
            guidance,
            method,
            modulations: [Some(self.table(&times, category)?), unconditional],
            times: times.into(),
            velocity: None,
            kept: [None, None],
            evaluations: Evaluations::default(),
        })
    }

    /// Modulations of every step, shared with the other samples that walk the same way.
    fn table(&self, times: &[f32], category: u32) -> Result<Arc<Tensor>, ModelError> {
        let steps = &times[..times.len() - 1];
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&(steps.len() as u32, category)).and_then(Weak::upgrade) {
            return Ok(table);
        }
        let at: Vec<_> = steps.iter().map(|time| (*time, category)).collect();
        let table = Arc::new(self.network.modulations(&at, &mut Trace::default())?);
        tables.retain(|_, table| table.strong_count() > 0);
        tables.insert((steps.len() as u32, category), Arc::downgrade(&table));
        Ok(table)
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
        let at: Vec<_> = rows.iter().map(|(_, time, conditions)| (*time, conditions.category)).collect();
        let modulations = self.network.modulations(&at, trace)?;
        let rows = rows.iter().enumerate().map(|(n, (x, _, conditions))| {
            Ok(Row { x, conditions, modulations: modulations.narrow(0, n, 1)?, kept: None, threshold: 0.0 })
        });
        let rows = rows.collect::<Result<Vec<_>, ModelError>>()?;
        let outcomes = walk::pass(&self.network, &rows, trace)?;
        Ok(Tensor::cat(&outcomes.iter().map(|outcome| &outcome.velocity).collect::<Vec<_>>(), 0)?)
    }

    /// One step of every walk, in one pass.
    pub(crate) fn advance(&self, walks: &mut [(&mut Path, &Conditions)]) -> Result<(), ModelError> {
        Ok(walk::advance(&self.network, &self.blank, walks)?)
    }

    fn paint(&self, patches: &Tensor, placement: Placement) -> Result<RgbImage, ModelError> {
        let [height, width] = self.config.input_shape;
        let planes = patch::paste(patches, self.config.patch_size, self.config.input_shape)?;
        let planes = planes.flatten_all()?.to_vec1::<f32>()?;
        Ok(picture::unpad(&picture::from_planes(&planes, width as u32, height as u32), placement))
    }
}

impl DressesPeople for FashnVton {
    type Reading = Reading;

    fn finds_subjects(&self) -> Result<(), ModelError> {
        self.preparation.finds_subjects()
    }

    fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError> {
        self.preparation.subject(picture)
    }

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
}

impl Architecture for FashnVton {
    type Prepared = Prepared;
    type Sample = Sample;

    fn begin(&self, prepared: &Arc<Prepared>, sampling: &Sampling) -> Result<Sample, ModelError> {
        let shape = (1, self.config.tokens(), self.config.patch());
        let noise = noise::normals(sampling.seed, shape.1 * shape.2);
        let x = Tensor::from_vec(noise, shape, self.network.device())?;
        let path = self.start(x, prepared.conditions.category, sampling)?;
        Ok(Sample { prepared: Arc::clone(prepared), path })
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

    fn evaluations(&self, sample: &Sample) -> Evaluations {
        sample.path.evaluations
    }

    fn preview(&self, sample: &Sample) -> Result<RgbImage, ModelError> {
        self.paint(&sample.path.expected()?, sample.prepared.placement)
    }

    fn finish(&self, sample: Sample) -> Result<RgbImage, ModelError> {
        self.paint(&sample.path.x, sample.prepared.placement)
    }
}
