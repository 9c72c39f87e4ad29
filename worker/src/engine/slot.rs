//! One render in the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kraftr_models::{Model, ModelError, Prepared, RgbImage, Sample, Sampling, Subject};
use kraftr_protocol::Class;

use super::command::{EngineLine, Outcome, Report, Scene};
use super::fault::{Fault, guarded};
use super::residency::Residency;

/// An image of a render.
pub(super) enum Image {
    /// It has steps to do.
    Denoising(Sample),
    /// The person is dressed, and a scene is painted behind them.
    Painting {
        /// The scene.
        sample: Sample,
        /// Who stands in front of it.
        subject: Box<Subject>,
    },
    /// It is done.
    Finished(RgbImage),
}

impl Image {
    /// What has steps to do, or only waits to be finished.
    fn sample(&self) -> Option<&Sample> {
        match self {
            Self::Denoising(sample) | Self::Painting { sample, .. } => Some(sample),
            Self::Finished(_) => None,
        }
    }
}

/// The models of one render, held while they work.
pub(super) struct Models {
    /// Dresses the person.
    dresser: Arc<Model>,
    /// Paints the scene, where there is one.
    painter: Option<Arc<Model>>,
}

impl Models {
    /// `None` when one of them is not there any more.
    pub(super) fn of(slot: &Slot, residency: &Residency) -> Option<Self> {
        let dresser = residency.get(&slot.release)?;
        let painter = match slot.painter() {
            Some(painter) => Some(residency.get(painter)?),
            None => None,
        };
        Some(Self { dresser, painter })
    }
}

/// A render in the engine.
pub(super) struct Slot {
    pub(super) release: String,
    pub(super) class: Class,
    pub(super) images: Vec<Image>,
    /// Steps of an image's try-on, and of its scene.
    steps: [u32; 2],
    scene: Option<Scene>,
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
        scene: Option<Scene>,
        line: EngineLine,
    ) -> Result<Self, (EngineLine, Fault)> {
        let begun = guarded(|| samplings.iter().map(|sampling| model.begin(prepared, sampling)).collect());
        let samples: Vec<Sample> = match begun {
            Ok(samples) => samples,
            Err(fault) => return Err((line, fault)),
        };
        let most =
            |samplings: &[Sampling]| samplings.iter().map(|sampling| sampling.steps).max().unwrap_or(0);
        let steps = [most(samplings), scene.as_ref().map_or(0, |scene| most(&scene.samplings))];
        let images = samples.into_iter().map(Image::Denoising).collect();
        Ok(Self { release, class, images, steps, scene, device_time: Duration::ZERO, line, shown: 0 })
    }

    /// The release that paints its scenes.
    pub(super) fn painter(&self) -> Option<&str> {
        self.scene.as_ref().map(|scene| scene.release.as_str())
    }

    /// Whether that release runs it, now or later.
    pub(super) fn uses(&self, release: &str) -> bool {
        self.release == release || self.painter() == Some(release)
    }

    /// The release of every sample that has steps to do, in the order of [`samples`](Self::samples).
    pub(super) fn undone(&self) -> impl Iterator<Item = &str> {
        self.images.iter().filter_map(|image| match image {
            Image::Denoising(_) => Some(self.release.as_str()),
            Image::Painting { .. } => self.painter(),
            Image::Finished(_) => None,
        })
    }

    /// Samples that have steps to do.
    pub(super) fn samples(&mut self) -> impl Iterator<Item = &mut Sample> {
        self.images.iter_mut().filter_map(|image| match image {
            Image::Denoising(sample) | Image::Painting { sample, .. } => Some(sample),
            Image::Finished(_) => None,
        })
    }

    /// Steps in all.
    fn steps(&self) -> u32 {
        self.steps.iter().sum()
    }

    /// Steps done of the image that has done the fewest.
    pub(super) fn step(&self) -> u32 {
        let steps = |image: &Image| match image {
            Image::Denoising(sample) => sample.step(),
            Image::Painting { sample, .. } => self.steps[0] + sample.step(),
            Image::Finished(_) => self.steps(),
        };
        self.images.iter().map(steps).min().unwrap_or(self.steps())
    }

    /// Tells of a step that is new, with previews every `preview_every` steps (0: never).
    pub(super) fn show(&mut self, models: &Models, preview_every: u32) -> Result<(), Fault> {
        let step = self.step();
        if step <= self.shown {
            return Ok(());
        }
        self.shown = step;
        self.line.stepped(step);
        if preview_every > 0 && step.is_multiple_of(preview_every) && step < self.steps() {
            self.show_previews(models, step)?;
        }
        Ok(())
    }

    fn show_previews(&self, models: &Models, step: u32) -> Result<(), Fault> {
        for (sample, image) in (0..).zip(&self.images) {
            let picture = match (image, &models.painter) {
                (Image::Denoising(denoising), _) => guarded(|| models.dresser.preview(denoising))?,
                (Image::Painting { sample, subject }, Some(painter)) => {
                    guarded(|| subject.compose(&painter.preview(sample)?))?
                }
                _ => continue,
            };
            self.line.show(Report::Preview { sample, step, picture });
        }
        Ok(())
    }

    /// Turns samples whose steps are done into pictures, and dressed people into subjects of their scene.
    pub(super) fn finish(&mut self, models: &Models) -> Result<(), Fault> {
        let started = Instant::now();
        let images = std::mem::take(&mut self.images);
        let scene = self.scene.as_ref().zip(models.painter.as_deref());
        let finish = |(n, image): (usize, Image)| match image {
            Image::Denoising(sample) if sample.is_done() => {
                let picture = models.dresser.finish(sample)?;
                match scene {
                    Some((scene, painter)) => scene.begin(n, &models.dresser, painter, picture),
                    None => Ok(Image::Finished(picture)),
                }
            }
            Image::Painting { sample, subject } if sample.is_done() => {
                let Some((_, painter)) = scene else { return Ok(Image::Painting { sample, subject }) };
                subject.compose(&painter.finish(sample)?).map(Image::Finished)
            }
            other => Ok(other),
        };
        self.images = guarded(|| images.into_iter().enumerate().map(finish).collect())?;
        if scene.is_some() {
            // Finding the subject, encoding and decoding it cost as much as steps do.
            self.device_time += started.elapsed();
        }
        Ok(())
    }

    /// True when a sample waits for [`Self::finish`].
    pub(super) fn has_done_samples(&self) -> bool {
        self.images.iter().filter_map(Image::sample).any(Sample::is_done)
    }

    /// True when every image is a picture.
    pub(super) fn is_finished(&self) -> bool {
        self.images.iter().all(|image| matches!(image, Image::Finished(_)))
    }

    /// The releases whose samples wait for [`Self::finish`]: a crash may have been any of theirs.
    pub(super) fn releases(&self) -> BTreeSet<String> {
        [Some(self.release.as_str()), self.painter()].into_iter().flatten().map(str::to_owned).collect()
    }

    /// Ends the render with what it has.
    pub(super) fn deliver(self) {
        let finished = |image| match image {
            Image::Finished(picture) => Some(picture),
            Image::Denoising(_) | Image::Painting { .. } => None,
        };
        let pictures = self.images.into_iter().filter_map(finished).collect();
        self.line.end(Outcome::Done { pictures, device_time: self.device_time });
    }
}

impl Scene {
    /// Puts the subject of the `n`th image in front of the noise that its scene is painted from.
    fn begin(
        &self,
        n: usize,
        dresser: &Model,
        painter: &Model,
        picture: RgbImage,
    ) -> Result<Image, ModelError> {
        let subject = Box::new(dresser.subject(picture)?);
        let kept = subject.framed(painter.manifest().size)?;
        let prepared = painter.paint(&self.description, Some(&kept))?;
        let sample = painter.begin(&prepared, &self.samplings[n])?;
        Ok(Image::Painting { sample, subject })
    }
}
