//! Architectures without their types, so that a registry can hold any of them.

use std::any::Any;
use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::Category;

use super::architecture::{Architecture, DressesPeople, PaintsWords};
use super::{Evaluations, Sampling};
use crate::ModelError;
use crate::inputs::{Kept, Role};
use crate::scene::Subject;

/// [`Architecture`] without its associated types. `None` means that a state has another type.
pub(super) trait Erased: Send + Sync {
    fn begin(&self, prepared: State, sampling: &Sampling) -> Outcome<Box<dyn Any + Send>>;
    fn step(&self, batch: Vec<&mut (dyn Any + Send)>) -> Outcome<()>;
    fn evaluations(&self, sample: &(dyn Any + Send)) -> Option<Evaluations>;
    fn preview(&self, sample: &(dyn Any + Send)) -> Outcome<RgbImage>;
    fn finish(&self, sample: Box<dyn Any + Send>) -> Outcome<RgbImage>;
}

/// [`DressesPeople`] likewise.
pub(super) trait ErasedTryOn: Send + Sync {
    fn read(&self, picture: &RgbImage, role: Role) -> Result<(State, usize), ModelError>;
    fn prepare(&self, person: &Anything, garment: &Anything, category: Category) -> Outcome<State>;
    fn finds_subjects(&self) -> Result<(), ModelError>;
    fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError>;
}

/// [`PaintsWords`] likewise.
pub(super) trait ErasedTextToImage: Send + Sync {
    fn describe(&self, prompt: &str) -> Result<State, ModelError>;
    fn prepare(&self, description: &Anything, kept: Option<&Kept>) -> Outcome<State>;
}

pub(super) type Outcome<T> = Option<Result<T, ModelError>>;
pub(super) type Anything = dyn Any + Send + Sync;
pub(super) type State = Arc<Anything>;

impl<A: DressesPeople> ErasedTryOn for A {
    fn read(&self, picture: &RgbImage, role: Role) -> Result<(State, usize), ModelError> {
        let reading = DressesPeople::read(self, picture, role)?;
        let bytes = A::bytes(&reading);
        Ok((Arc::new(reading), bytes))
    }

    fn prepare(&self, person: &Anything, garment: &Anything, category: Category) -> Outcome<State> {
        let (person, garment) = (person.downcast_ref()?, garment.downcast_ref()?);
        Some(DressesPeople::prepare(self, person, garment, category).map(|prepared| Arc::new(prepared) as _))
    }

    fn finds_subjects(&self) -> Result<(), ModelError> {
        DressesPeople::finds_subjects(self)
    }

    fn subject(&self, picture: RgbImage) -> Result<Subject, ModelError> {
        DressesPeople::subject(self, picture)
    }
}

impl<A: PaintsWords> ErasedTextToImage for A {
    fn describe(&self, prompt: &str) -> Result<State, ModelError> {
        Ok(Arc::new(PaintsWords::describe(self, prompt)?))
    }

    fn prepare(&self, description: &Anything, kept: Option<&Kept>) -> Outcome<State> {
        let description = description.downcast_ref()?;
        Some(PaintsWords::prepare(self, description, kept).map(|prepared| Arc::new(prepared) as _))
    }
}

impl<A: Architecture> Erased for A {
    fn begin(&self, prepared: State, sampling: &Sampling) -> Outcome<Box<dyn Any + Send>> {
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
