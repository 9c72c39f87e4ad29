//! A loaded release, and how an architecture becomes one.
//!
//! An architecture implements [`Architecture`] with its own types for prepared inputs and samples;
//! [`Model`] erases them in one place, so no implementer ever downcasts.

mod architecture;
mod erased;
mod state;

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, Quality, ReleaseManifest};

pub(crate) use self::architecture::{Architecture, DressesPeople, PaintsWords};
use self::erased::{Erased, ErasedTextToImage, ErasedTryOn};
pub use self::state::{Description, Prepared, Reading, Sample};
use crate::inputs::{Inputs, Kept, Role, TryOn};
use crate::scene::Subject;
use crate::{ModelError, picture};

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

/// A loaded release. Cheap to clone.
#[derive(Clone)]
pub struct Model {
    manifest: Arc<ReleaseManifest>,
    inner: Arc<dyn Erased>,
    front: Front,
}

/// The side of an architecture that takes the inputs of its task.
#[derive(Clone)]
enum Front {
    TryOn(Arc<dyn ErasedTryOn>),
    TextToImage(Arc<dyn ErasedTextToImage>),
}

impl Model {
    /// A release for try-on.
    pub(crate) fn try_on<A: DressesPeople>(manifest: Arc<ReleaseManifest>, architecture: A) -> Self {
        let architecture = Arc::new(architecture);
        Self { manifest, front: Front::TryOn(architecture.clone()), inner: architecture }
    }

    /// A release that paints after descriptions.
    pub(crate) fn text_to_image<A: PaintsWords>(manifest: Arc<ReleaseManifest>, architecture: A) -> Self {
        let architecture = Arc::new(architecture);
        Self { manifest, front: Front::TextToImage(architecture.clone()), inner: architecture }
    }

    /// What the release says of itself.
    pub fn manifest(&self) -> &ReleaseManifest {
        &self.manifest
    }

    /// Turns inputs into the conditions of a render, all at once; call it off the engine thread.
    ///
    /// # Errors
    /// [`ModelError::WrongInputs`] for those of another task, [`ModelError::Picture`] for pictures that cannot be used.
    pub fn prepare(&self, inputs: &Inputs) -> Result<Prepared, ModelError> {
        match (inputs, &self.front) {
            (Inputs::TryOn(inputs), Front::TryOn(_)) => self.dress(inputs),
            (Inputs::TextToImage(inputs), Front::TextToImage(_)) => {
                self.paint(&self.describe(&inputs.prompt)?, inputs.kept.as_ref())
            }
            _ => Err(self.wrong_inputs()),
        }
    }

    fn dress(&self, inputs: &TryOn) -> Result<Prepared, ModelError> {
        self.knows(inputs.category)?;
        let person = self.read(&inputs.person, Role::Person)?;
        let garment = self.read(&inputs.garment, Role::Garment(inputs.garment_photo))?;
        self.join(&person, &garment, inputs.category)
    }

    /// Reads one picture of a try-on: finds who is on it and how they stand, as far as this release wants to know. By
    /// far the most of what [`prepare`](Self::prepare) does; call it off the engine thread.
    pub fn read(&self, picture: &RgbImage, role: Role) -> Result<Reading, ModelError> {
        let front = self.try_on_front()?;
        if picture.as_raw().is_empty() {
            return Err(ModelError::Picture(
                "a picture has no pixels; send both with at least one".to_owned(),
            ));
        }
        let (inner, bytes) = front.read(picture, role)?;
        Ok(Reading { release: self.manifest.clone(), role, bytes, inner })
    }

    /// Turns what was read off two pictures into the conditions of a render; call it off the engine thread.
    pub fn join(
        &self,
        person: &Reading,
        garment: &Reading,
        category: Category,
    ) -> Result<Prepared, ModelError> {
        let front = self.try_on_front()?;
        self.knows(category)?;
        self.owns(&person.release)?;
        self.owns(&garment.release)?;
        if !matches!((person.role, garment.role), (Role::Person, Role::Garment(_))) {
            return Err(ModelError::Sampling {
                field: "pictures",
                message: format!("a {:?} and a {:?} make no render", person.role, garment.role),
            });
        }
        let prepared = front.prepare(&*person.inner, &*garment.inner, category);
        let inner = prepared.ok_or_else(|| self.foreign(&person.release))??;
        Ok(Prepared { release: self.manifest.clone(), inner })
    }

    /// Reads a description, once for all pictures that are painted after it; call it off the engine thread.
    pub fn describe(&self, prompt: &str) -> Result<Description, ModelError> {
        Ok(Description { release: self.manifest.clone(), inner: self.painting_front()?.describe(prompt)? })
    }

    /// Turns a description, and what is there already, into the conditions of a picture.
    pub fn paint(&self, description: &Description, kept: Option<&Kept>) -> Result<Prepared, ModelError> {
        let front = self.painting_front()?;
        self.owns(&description.release)?;
        if let Some(kept) = kept {
            self.fits("picture", kept.picture.dimensions())?;
            self.fits("matte", kept.matte.dimensions())?;
        }
        let prepared = front.prepare(&*description.inner, kept);
        let inner = prepared.ok_or_else(|| self.foreign(&description.release))??;
        Ok(Prepared { release: self.manifest.clone(), inner })
    }

    /// Whether [`subject`](Self::subject) has the network that it takes.
    ///
    /// # Errors
    /// [`ModelError::Stage`] says which file is missing, and how to get it.
    pub fn finds_subjects(&self) -> Result<(), ModelError> {
        self.try_on_front()?.finds_subjects()
    }

    /// Cuts the person out of a picture that [`finish`](Self::finish) gave, to be put in front of a scene. Runs a network
    /// on the device.
    pub fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError> {
        self.try_on_front()?.subject(picture)
    }

    fn try_on_front(&self) -> Result<&dyn ErasedTryOn, ModelError> {
        match &self.front {
            Front::TryOn(front) => Ok(&**front),
            Front::TextToImage(_) => Err(self.wrong_inputs()),
        }
    }

    fn painting_front(&self) -> Result<&dyn ErasedTextToImage, ModelError> {
        match &self.front {
            Front::TextToImage(front) => Ok(&**front),
            Front::TryOn(_) => Err(self.wrong_inputs()),
        }
    }

    fn wrong_inputs(&self) -> ModelError {
        ModelError::WrongInputs { release: self.manifest.name.clone(), task: self.manifest.task }
    }

    fn knows(&self, category: Category) -> Result<(), ModelError> {
        if self.manifest.categories.contains(&category) {
            return Ok(());
        }
        let message = format!("{} does not know {category}", self.manifest.name);
        Err(ModelError::Sampling { field: "category", message })
    }

    /// What is kept of a picture has the size that the release paints.
    fn fits(&self, what: &str, (width, height): (u32, u32)) -> Result<(), ModelError> {
        let [w, h] = self.manifest.size;
        if (width, height) == (w, h) {
            return Ok(());
        }
        let name = &self.manifest.name;
        Err(ModelError::Picture(format!(
            "the {what} to keep has {width} x {height} pixels, {name} paints {w} x {h}; place it in a frame of that size"
        )))
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
