//! What a render is made of between two calls, its types erased.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use kraftr_protocol::ReleaseManifest;

use super::erased::State;
use crate::inputs::Role;

/// What a release reads off one picture in one [`Role`]: where it lies in the frame, how somebody stands. Depends on
/// nothing else of a render, so it may be kept for the next render of that picture. Cheap to clone.
#[derive(Clone)]
pub struct Reading {
    pub(super) release: Arc<ReleaseManifest>,
    pub(super) role: Role,
    pub(super) bytes: usize,
    pub(super) inner: State,
}

impl Reading {
    /// Bytes of memory that it takes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a release was told in words, for any number of pictures painted after them. Cheap to clone.
#[derive(Clone)]
pub struct Description {
    pub(super) release: Arc<ReleaseManifest>,
    pub(super) inner: State,
}

/// Conditions of one render, shared by its samples. Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    pub(super) release: Arc<ReleaseManifest>,
    pub(super) inner: State,
}

/// One image being denoised.
pub struct Sample {
    pub(super) release: Arc<ReleaseManifest>,
    pub(super) step: u32,
    pub(super) steps: u32,
    pub(super) inner: Box<dyn Any + Send>,
}

impl Prepared {
    /// What the release that prepared it says of itself.
    pub fn manifest(&self) -> &ReleaseManifest {
        &self.release
    }
}

impl Description {
    /// What the release that read it says of itself.
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

    /// Whether nothing is left but [`Model::finish`](super::Model::finish).
    pub const fn is_done(&self) -> bool {
        self.step == self.steps
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

/// Shows nothing of the words: they are content.
impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description").field("release", &self.release.name).finish_non_exhaustive()
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
