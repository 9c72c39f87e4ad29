//! What an implementer of a new architecture writes.

use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use super::{Evaluations, Sampling};
use crate::ModelError;
use crate::inputs::{Kept, Role};
use crate::scene::Subject;

/// A network with its sampler: what an implementer of a new architecture writes, with the trait of its task,
/// [`DressesPeople`] or [`PaintsWords`].
pub(crate) trait Architecture: Send + Sync + 'static {
    /// Conditions of one render.
    type Prepared: Send + Sync + 'static;
    /// One image being denoised.
    type Sample: Send + 'static;

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

/// An architecture for try-on: pictures are read one by one, so that a reading can be kept for the next render.
pub(crate) trait DressesPeople: Architecture {
    /// What is read off one picture: whatever depends on nothing else of a render.
    type Reading: Send + Sync + 'static;

    /// Reads one picture. Runs off the engine thread.
    fn read(&self, picture: &RgbImage, role: Role) -> Result<Self::Reading, ModelError>;
    /// Bytes of memory that a reading takes.
    fn bytes(reading: &Self::Reading) -> usize;
    /// Whether it can find [subjects](Self::subject): why not otherwise.
    fn finds_subjects(&self) -> Result<(), ModelError>;
    /// What of a picture is the person in it.
    fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError>;
    /// Turns what was read into conditions. Runs off the engine thread.
    fn prepare(
        &self,
        person: &Self::Reading,
        garment: &Self::Reading,
        category: Category,
    ) -> Result<Self::Prepared, ModelError>;
}

/// An architecture that paints after a description.
pub(crate) trait PaintsWords: Architecture {
    /// What the networks are told of a description: the same for every picture that is painted after it.
    type Description: Send + Sync + 'static;

    /// Reads a description. Runs off the engine thread.
    fn describe(&self, prompt: &str) -> Result<Self::Description, ModelError>;
    /// Turns a description, and what is there already, into conditions.
    fn prepare(
        &self,
        description: &Self::Description,
        kept: Option<&Kept>,
    ) -> Result<Self::Prepared, ModelError>;
}
