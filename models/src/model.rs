//! A loaded release, and how an architecture becomes one.
//!
//! An architecture implements [`Architecture`] with its own types for prepared inputs and samples;
//! [`Model`] erases them in one place, so no implementer ever downcasts.

use std::any::Any;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, GarmentPhoto, Quality, ReleaseManifest};

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

/// What a picture is in a render.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The person to dress.
    Person,
    /// The garment, photographed like that.
    Garment(GarmentPhoto),
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
    /// How each step is taken.
    pub method: Method,
}

impl Sampling {
    /// As a release samples at that quality.
    pub fn of(manifest: &ReleaseManifest, quality: Quality, seed: u64) -> Self {
        let settings = manifest.quality(quality);
        Self { steps: settings.steps, guidance: manifest.defaults.guidance, seed, method: settings.method() }
    }
}

/// Rows that an image has sent through the network; a guided step sends two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evaluations {
    /// Through all blocks.
    pub whole: u32,
    /// Through the first block, the others' result being used again.
    pub reused: u32,
}

impl Evaluations {
    /// Counts a row.
    pub(crate) fn count(&mut self, whole: bool) {
        *if whole { &mut self.whole } else { &mut self.reused } += 1;
    }
}

impl AddAssign for Evaluations {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.reused += other.reused;
    }
}

/// A network with its sampler: what an implementer of a new architecture writes.
pub(crate) trait Architecture: Send + Sync + 'static {
    /// What is read off one picture: whatever depends on nothing else of a render.
    type Reading: Send + Sync + 'static;
    /// Conditions of one render.
    type Prepared: Send + Sync + 'static;
    /// One image being denoised.
    type Sample: Send + 'static;

    /// Reads one picture. Runs off the engine thread.
    fn read(&self, picture: &RgbImage, role: Role) -> Result<Self::Reading, ModelError>;
    /// Bytes of memory that a reading takes.
    fn bytes(reading: &Self::Reading) -> usize;
    /// Turns what was read into conditions. Runs off the engine thread.
    fn prepare(
        &self,
        person: &Self::Reading,
        garment: &Self::Reading,
        category: Category,
    ) -> Result<Self::Prepared, ModelError>;
    /// Starts one image from noise. `sampling` is within the manifest's limits.
    fn begin(&self, prepared: &Arc<Self::Prepared>, sampling: &Sampling) -> Result<Self::Sample, ModelError>;
    /// Advances every sample by one denoise step in one pass. None of them is done.
    fn step(&self, batch: &mut [&mut Self::Sample]) -> Result<(), ModelError>;
    /// What the sample has cost so far.
    fn evaluations(&self, sample: &Self::Sample) -> Evaluations;
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

/// What a release reads off one picture in one [`Role`]: where it lies in the frame, how somebody stands. Depends on
/// nothing else of a render, so it may be kept for the next render of that picture. Cheap to clone.
#[derive(Clone)]
pub struct Reading {
    release: Arc<ReleaseManifest>,
    role: Role,
    bytes: usize,
    inner: Arc<dyn Any + Send + Sync>,
}

impl Reading {
    /// Bytes of memory that it takes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
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

impl Prepared {
    /// What the release that prepared it says of itself.
    pub fn manifest(&self) -> &ReleaseManifest {
        &self.release
    }
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

    /// Turns pictures into the conditions of a render: [reads](Self::read) and [joins](Self::join) them.
    pub fn prepare(&self, inputs: &Inputs) -> Result<Prepared, ModelError> {
        self.knows(inputs.category)?;
        let person = self.read(&inputs.person, Role::Person)?;
        let garment = self.read(&inputs.garment, Role::Garment(inputs.garment_photo))?;
        self.join(&person, &garment, inputs.category)
    }

    /// Reads one picture: finds who is on it and how they stand, as far as this release wants to know. By far the most
    /// of what [`prepare`](Self::prepare) does; call it off the engine thread.
    pub fn read(&self, picture: &RgbImage, role: Role) -> Result<Reading, ModelError> {
        if picture.as_raw().is_empty() {
            return Err(ModelError::Resize(
                "a picture has no pixels; send both with at least one".to_owned(),
            ));
        }
        let (inner, bytes) = self.inner.read(picture, role)?;
        Ok(Reading { release: self.manifest.clone(), role, bytes, inner })
    }

    /// Turns what was read off two pictures into the conditions of a render; call it off the engine thread.
    pub fn join(
        &self,
        person: &Reading,
        garment: &Reading,
        category: Category,
    ) -> Result<Prepared, ModelError> {
        self.knows(category)?;
        self.owns(&person.release)?;
        self.owns(&garment.release)?;
        if !matches!((person.role, garment.role), (Role::Person, Role::Garment(_))) {
            return Err(ModelError::Sampling {
                field: "pictures",
                message: format!("a {:?} and a {:?} make no render", person.role, garment.role),
            });
        }
        let prepared = self.inner.prepare(&*person.inner, &*garment.inner, category);
        let inner = prepared.ok_or_else(|| self.foreign(&person.release))??;
        Ok(Prepared { release: self.manifest.clone(), inner })
    }

    fn knows(&self, category: Category) -> Result<(), ModelError> {
        if self.manifest.categories.contains(&category) {
            return Ok(());
        }
        let message = format!("{} does not know {category}", self.manifest.name);
        Err(ModelError::Sampling { field: "category", message })
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

    /// What a sample has cost so far.
    pub fn evaluations(&self, sample: &Sample) -> Result<Evaluations, ModelError> {
        self.owns(&sample.release)?;
        self.inner.evaluations(&*sample.inner).ok_or_else(|| self.foreign(&sample.release))
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
        if let Some(&(field, must)) = sampling.method.mistakes().first() {
            return Err(ModelError::Sampling { field, message: must.to_owned() });
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

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("release", &self.release.name)
            .field("role", &self.role)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
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
    fn read(&self, picture: &RgbImage, role: Role) -> Result<(State, usize), ModelError>;
    fn prepare(
        &self,
        person: &(dyn Any + Send + Sync),
        garment: &(dyn Any + Send + Sync),
        category: Category,
    ) -> Outcome<State>;
    fn begin(
        &self,
        prepared: Arc<dyn Any + Send + Sync>,
        sampling: &Sampling,
    ) -> Outcome<Box<dyn Any + Send>>;
    fn step(&self, batch: Vec<&mut (dyn Any + Send)>) -> Outcome<()>;
    fn evaluations(&self, sample: &(dyn Any + Send)) -> Option<Evaluations>;
    fn preview(&self, sample: &(dyn Any + Send)) -> Outcome<RgbImage>;
    fn finish(&self, sample: Box<dyn Any + Send>) -> Outcome<RgbImage>;
}

type Outcome<T> = Option<Result<T, ModelError>>;
type State = Arc<dyn Any + Send + Sync>;

impl<A: Architecture> Erased for A {
    fn read(&self, picture: &RgbImage, role: Role) -> Result<(State, usize), ModelError> {
        let reading = Architecture::read(self, picture, role)?;
        let bytes = A::bytes(&reading);
        Ok((Arc::new(reading), bytes))
    }

    fn prepare(
        &self,
        person: &(dyn Any + Send + Sync),
        garment: &(dyn Any + Send + Sync),
        category: Category,
    ) -> Outcome<State> {
        let (person, garment) = (person.downcast_ref()?, garment.downcast_ref()?);
        Some(Architecture::prepare(self, person, garment, category).map(|prepared| Arc::new(prepared) as _))
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

    fn evaluations(&self, sample: &(dyn Any + Send)) -> Option<Evaluations> {
        Some(Architecture::evaluations(self, sample.downcast_ref()?))
    }

    fn preview(&self, sample: &(dyn Any + Send)) -> Outcome<RgbImage> {
        Some(Architecture::preview(self, sample.downcast_ref()?))
    }

    fn finish(&self, sample: Box<dyn Any + Send>) -> Outcome<RgbImage> {
        Some(Architecture::finish(self, *sample.downcast().ok()?))
    }
}
