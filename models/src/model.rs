//! A loaded release, and how an architecture becomes one.
//!
//! An architecture implements [`Architecture`] with its own types for prepared inputs and samples;
//! [`Model`] erases them in one place, so no implementer ever downcasts.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::{Category, GarmentPhoto, ReleaseManifest};

use crate::{ModelError, picture};

/// The pictures of one render.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The person to dress, any size.
    pub person: RgbImage,
    /// The garment, any size.
    pub garment: RgbImage,
    /// Where the garment is worn.
    pub category: Category,
    /// How the garment was photographed.
    pub garment_photo: GarmentPhoto,
}

/// How one image is sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Denoise steps, within the manifest's limits.
    pub steps: u32,
    /// Classifier-free guidance, 1 to 20; 1 means none and halves the work.
    pub guidance: f64,
    /// Seed of the sample's random stream.
    pub seed: u64,
}

/// A network with its sampler: what an implementer of a new architecture writes.
pub(crate) trait Architecture: Send + Sync + 'static {
    /// Conditions of one render.
    type Prepared: Send + Sync + 'static;
    /// One image being denoised.
    type Sample: Send + 'static;

    /// Turns pictures into conditions. Runs off the engine thread, on the CPU only.
    fn prepare(&self, inputs: &Inputs) -> Result<Self::Prepared, ModelError>;
    /// Starts one image from noise. `sampling` is within the manifest's limits.
    fn begin(&self, prepared: &Arc<Self::Prepared>, sampling: &Sampling) -> Result<Self::Sample, ModelError>;
    /// Advances every sample by one denoise step in one pass. None of them is done.
    fn step(&self, batch: &mut [&mut Self::Sample]) -> Result<(), ModelError>;
    /// What the model expects to come out, in the size the network paints.
    fn preview(&self, sample: &Self::Sample) -> Result<RgbImage, ModelError>;
    /// The picture, in the size the network paints.
    fn finish(&self, sample: Self::Sample) -> Result<RgbImage, ModelError>;
}

/// A loaded release. Cheap to clone.
#[derive(Clone)]
pub struct Model {
    manifest: Arc<ReleaseManifest>,
    inner: Arc<dyn Erased>,
}

/// Conditions of one render, shared by its samples. Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    release: Arc<ReleaseManifest>,
    inner: Arc<dyn Any + Send + Sync>,
}

/// One image being denoised.
pub struct Sample {
    release: Arc<ReleaseManifest>,
    step: u32,
    steps: u32,
    inner: Box<dyn Any + Send>,
}

impl Sample {
    /// Denoise steps taken.
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// Denoise steps in all.
    pub const fn steps(&self) -> u32 {
        self.steps
    }

    /// Whether nothing is left but [`Model::finish`].
    pub const fn is_done(&self) -> bool {
        self.step == self.steps
    }
}

impl Model {
    pub(crate) fn new<A: Architecture>(manifest: Arc<ReleaseManifest>, architecture: A) -> Self {
        Self { manifest, inner: Arc::new(architecture) }
    }

    /// What the release says of itself.
    pub fn manifest(&self) -> &ReleaseManifest {
        &self.manifest
    }

    /// Turns pictures into the conditions of a render. CPU work that needs no device: call it off
    /// the engine thread.
    pub fn prepare(&self, inputs: &Inputs) -> Result<Prepared, ModelError> {
        if !self.manifest.categories.contains(&inputs.category) {
            return Err(ModelError::Sampling {
                field: "category",
                message: format!("{} does not know {}", self.manifest.name, inputs.category),
            });
        }
        if [&inputs.person, &inputs.garment].iter().any(|picture| picture.as_raw().is_empty()) {
            return Err(ModelError::Resize(
                "a picture has no pixels; send both with at least one".to_owned(),
            ));
        }
        Ok(Prepared { release: self.manifest.clone(), inner: self.inner.prepare(inputs)? })
    }

    /// Starts one image from the noise of its seed.
    pub fn begin(&self, prepared: &Prepared, sampling: &Sampling) -> Result<Sample, ModelError> {
        self.owns(&prepared.release)?;
        self.accepts(sampling)?;
        let inner = self
            .inner
            .begin(prepared.inner.clone(), sampling)
            .ok_or_else(|| self.foreign(&prepared.release))??;
        Ok(Sample { release: self.manifest.clone(), step: 0, steps: sampling.steps, inner })
    }

    /// Takes ONE denoise step of each sample, each at its own timestep, with or without guidance,
    /// in one forward pass over the whole batch. Samples that are done already are left alone.
    /// On an error no sample has moved.
    pub fn step(&self, batch: &mut [&mut Sample]) -> Result<(), ModelError> {
        let mut states = Vec::with_capacity(batch.len());
        let mut steps = Vec::with_capacity(batch.len());
        for sample in batch.iter_mut().filter(|sample| !sample.is_done()) {
            let Sample { release, step, inner, .. } = &mut **sample;
            self.owns(release)?;
            states.push(&mut **inner);
            steps.push(step);
        }
        if states.is_empty() {
            return Ok(());
        }
        self.inner.step(states).ok_or_else(|| self.foreign(&self.manifest))??;
        for step in steps {
            *step += 1;
        }
        Ok(())
    }

    /// What the model expects to come out of a sample, in the size it paints: not enlarged.
    /// Before the first step that is the noise.
    pub fn preview(&self, sample: &Sample) -> Result<RgbImage, ModelError> {
        self.owns(&sample.release)?;
        self.inner.preview(&*sample.inner).ok_or_else(|| self.foreign(&sample.release))?
    }

    /// The picture: freed of the padding that preparation added to the person, enlarged by the
    /// manifest's `output_scale`.
    pub fn finish(&self, sample: Sample) -> Result<RgbImage, ModelError> {
        self.owns(&sample.release)?;
        if !sample.is_done() {
            return Err(ModelError::Sampling {
                field: "steps",
                message: format!("{} of {} steps are taken", sample.step, sample.steps),
            });
        }
        let painted = self.inner.finish(sample.inner).ok_or_else(|| self.foreign(&sample.release))??;
        picture::enlarge(painted, self.manifest.output_scale)
    }

    fn accepts(&self, sampling: &Sampling) -> Result<(), ModelError> {
        let limits = &self.manifest.limits;
        if !(limits.steps_min..=limits.steps_max).contains(&sampling.steps) {
            return Err(ModelError::Sampling {
                field: "steps",
                message: format!("must be {} to {}", limits.steps_min, limits.steps_max),
            });
        }
        if !(1.0..=20.0).contains(&sampling.guidance) {
            return Err(ModelError::Sampling { field: "guidance", message: "must be 1 to 20".to_owned() });
        }
        Ok(())
    }

    /// State may outlive a model that was unloaded and loaded again, so the release decides.
    fn owns(&self, release: &Arc<ReleaseManifest>) -> Result<(), ModelError> {
        if Arc::ptr_eq(release, &self.manifest) || **release == *self.manifest {
            Ok(())
        } else {
            Err(self.foreign(release))
        }
    }

    fn foreign(&self, owner: &ReleaseManifest) -> ModelError {
        ModelError::ForeignState { owner: owner.name.clone(), release: self.manifest.name.clone() }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("release", &self.manifest.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("release", &self.release.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("release", &self.release.name)
            .field("step", &self.step)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// [`Architecture`] without its associated types. `None` means that a state has another type.
trait Erased: Send + Sync {
    fn prepare(&self, inputs: &Inputs) -> Result<Arc<dyn Any + Send + Sync>, ModelError>;
    fn begin(
        &self,
        prepared: Arc<dyn Any + Send + Sync>,
        sampling: &Sampling,
    ) -> Outcome<Box<dyn Any + Send>>;
    fn step(&self, batch: Vec<&mut (dyn Any + Send)>) -> Outcome<()>;
    fn preview(&self, sample: &(dyn Any + Send)) -> Outcome<RgbImage>;
    fn finish(&self, sample: Box<dyn Any + Send>) -> Outcome<RgbImage>;
}

type Outcome<T> = Option<Result<T, ModelError>>;

impl<A: Architecture> Erased for A {
    fn prepare(&self, inputs: &Inputs) -> Result<Arc<dyn Any + Send + Sync>, ModelError> {
        Ok(Arc::new(Architecture::prepare(self, inputs)?))
    }

    fn begin(
        &self,
        prepared: Arc<dyn Any + Send + Sync>,
        sampling: &Sampling,
    ) -> Outcome<Box<dyn Any + Send>> {
        let prepared = prepared.downcast::<A::Prepared>().ok()?;
        Some(Architecture::begin(self, &prepared, sampling).map(|sample| Box::new(sample) as _))
    }

    fn step(&self, batch: Vec<&mut (dyn Any + Send)>) -> Outcome<()> {
        let mut batch: Vec<_> =
            batch.into_iter().map(|state| state.downcast_mut::<A::Sample>()).collect::<Option<_>>()?;
        Some(Architecture::step(self, &mut batch))
    }

    fn preview(&self, sample: &(dyn Any + Send)) -> Outcome<RgbImage> {
        Some(Architecture::preview(self, sample.downcast_ref()?))
    }

    fn finish(&self, sample: Box<dyn Any + Send>) -> Outcome<RgbImage> {
        Some(Architecture::finish(self, *sample.downcast().ok()?))
    }
}
