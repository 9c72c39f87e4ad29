//! A real, empty model: it paints a gradient with seeded grain and computes nothing, so that a bench
//! of the control plane measures the control plane.

use std::sync::Arc;

use kraftr_imaging::RgbImage;
use kraftr_protocol::{Category, ReleaseManifest};

use crate::error::ModelError;
use crate::inputs::Role;
use crate::model::{Architecture, DressesPeople, Evaluations, Sampling};
use crate::noise;
use crate::person::stage::{Missing, Stage};
use crate::picture;
use crate::scene::Subject;

pub(crate) struct Noop {
    name: String,
    size: [u32; 2],
}

/// A sample is its seed.
pub(crate) struct Grain {
    seed: u64,
}

impl Noop {
    pub(crate) fn new(manifest: &ReleaseManifest) -> Self {
        Self { name: manifest.name.clone(), size: manifest.size }
    }

    /// A smooth gradient under grain strong enough that a watermark finds texture.
    fn paint(&self, seed: u64) -> RgbImage {
        let [width, height] = self.size;
        let pixels = (width * height) as usize;
        let grain = noise::normals(seed, pixels);
        let mut planes = Vec::with_capacity(3 * pixels);
        for plane in 0..3u8 {
            for (at, grain) in grain.iter().enumerate() {
                let (x, y) = (at as u32 % width, at as u32 / width);
                let (across, down) = (x as f32 / width as f32, y as f32 / height as f32);
                let slope = [across, down, 1.0 - across * down][usize::from(plane)];
                planes.push(slope - 0.5 + 0.06 * grain);
            }
        }
        picture::from_planes(&planes, width, height)
    }
}

impl DressesPeople for Noop {
    type Reading = ();

    fn finds_subjects(&self) -> Result<(), ModelError> {
        let release = self.name.clone();
        Err(ModelError::Stage(Missing::Unnamed { stage: Stage::Parser, release }))
    }

    fn subject(&self, _: RgbImage) -> Result<Subject, ModelError> {
        self.finds_subjects()?;
        Err(ModelError::Picture("an empty model finds nobody".to_owned()))
    }

    fn read(&self, _: &RgbImage, _: Role) -> Result<(), ModelError> {
        Ok(())
    }

    fn bytes((): &()) -> usize {
        0
    }

    fn prepare(&self, (): &(), (): &(), _: Category) -> Result<(), ModelError> {
        Ok(())
    }
}

impl Architecture for Noop {
    type Prepared = ();
    type Sample = Grain;

    fn begin(&self, _: &Arc<()>, sampling: &Sampling) -> Result<Grain, ModelError> {
        Ok(Grain { seed: sampling.seed })
    }

    fn step(&self, _: &mut [&mut Grain]) -> Result<(), ModelError> {
        Ok(())
    }

    fn evaluations(&self, _: &Grain) -> Evaluations {
        Evaluations::default()
    }

    fn preview(&self, sample: &Grain) -> Result<RgbImage, ModelError> {
        Ok(self.paint(sample.seed))
    }

    fn finish(&self, sample: Grain) -> Result<RgbImage, ModelError> {
        Ok(self.paint(sample.seed))
    }
}
