//! One render in the engine.

use std::time::Duration;

use kraftr_models::{Model, Prepared, RgbImage, Sample, Sampling};
use kraftr_protocol::Class;

use super::command::{EngineLine, Outcome, Report};
use super::turn::{Fault, guarded};

/// An image of a render.
pub(super) enum Image {
    /// It has steps to do.
    Denoising(Sample),
    /// It is done.
    Finished(RgbImage),
}

/// A render in the engine.
pub(super) struct Slot {
    pub(super) release: String,
    pub(super) class: Class,
    pub(super) images: Vec<Image>,
    pub(super) steps: u32,
    /// This render's share of the passes it was in.
    pub(super) device_time: Duration,
    pub(super) line: EngineLine,
    shown: u32,
}

impl Slot {
    /// Draws the noise of every image.
    pub(super) fn new(
        model: &Model,
        release: String,
        class: Class,
        prepared: &Prepared,
        samplings: &[Sampling],
        line: EngineLine,
    ) -> Result<Self, (EngineLine, Fault)> {
        let begun = guarded(|| samplings.iter().map(|sampling| model.begin(prepared, sampling)).collect());
        let samples: Vec<Sample> = match begun {
            Ok(samples) => samples,
            Err(fault) => return Err((line, fault)),
        };
        let steps = samplings.iter().map(|sampling| sampling.steps).max().unwrap_or(0);
        let images = samples.into_iter().map(Image::Denoising).collect();
        Ok(Self { release, class, images, steps, device_time: Duration::ZERO, line, shown: 0 })
    }

    /// How many samples have steps to do.
    pub(super) fn undone(&self) -> usize {
        self.images.iter().filter(|image| matches!(image, Image::Denoising(_))).count()
    }

    /// Samples that have steps to do.
    pub(super) fn samples(&mut self) -> impl Iterator<Item = &mut Sample> {
        self.images.iter_mut().filter_map(|image| match image {
            Image::Denoising(sample) => Some(sample),
            Image::Finished(_) => None,
        })
    }

    /// Steps done of the image that has done the fewest.
    pub(super) fn step(&self) -> u32 {
        let steps = |image: &Image| match image {
            Image::Denoising(sample) => sample.step(),
            Image::Finished(_) => self.steps,
        };
        self.images.iter().map(steps).min().unwrap_or(self.steps)
    }

    /// Tells of a step that is new, with previews every `preview_every` steps (0: never).
    pub(super) fn show(&mut self, model: &Model, preview_every: u32) -> Result<(), Fault> {
        let step = self.step();
        if step <= self.shown {
            return Ok(());
        }
        self.shown = step;
        self.line.stepped(step);
        if preview_every > 0 && step.is_multiple_of(preview_every) && step < self.steps {
            self.show_previews(model, step)?;
        }
        Ok(())
    }

    fn show_previews(&self, model: &Model, step: u32) -> Result<(), Fault> {
        for (sample, image) in (0..).zip(&self.images) {
            if let Image::Denoising(denoising) = image {
                let picture = guarded(|| model.preview(denoising))?;
                self.line.show(Report::Preview { sample, step, picture });
            }
        }
        Ok(())
    }

    /// Turns samples whose steps are done into pictures.
    pub(super) fn finish(&mut self, model: &Model) -> Result<(), Fault> {
        let images = std::mem::take(&mut self.images);
        self.images = guarded(|| {
            let finish = |image| match image {
                Image::Denoising(sample) if sample.is_done() => model.finish(sample).map(Image::Finished),
                other => Ok(other),
            };
            images.into_iter().map(finish).collect()
        })?;
        Ok(())
    }

    /// True when a sample waits for [`Self::finish`].
    pub(super) fn has_done_samples(&self) -> bool {
        self.images.iter().any(|image| matches!(image, Image::Denoising(sample) if sample.is_done()))
    }

    /// True when every image is a picture.
    pub(super) fn is_finished(&self) -> bool {
        self.images.iter().all(|image| matches!(image, Image::Finished(_)))
    }

    /// Ends the render with what it has.
    pub(super) fn deliver(self) {
        let finished = |image| match image {
            Image::Finished(picture) => Some(picture),
            Image::Denoising(_) => None,
        };
        let pictures = self.images.into_iter().filter_map(finished).collect();
        self.line.end(Outcome::Done { pictures, device_time: self.device_time });
    }
}
