//! `kraftr render`: the model and the watermark, without a scheduler.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kraftr_imaging::RgbImage;
use kraftr_models::{
    Device, GrayImage, Inputs, Kept, Model, ModelError, Registry, Sample, Sampling, TextToImage, TryOn,
    bundled, device,
};
use kraftr_protocol::manifest::Task;
use kraftr_protocol::spec::Prompt;
use kraftr_protocol::{GarmentPhoto, Ids, Quality, ReleaseManifest, WatermarkRef};
use kraftr_provenance::{Key, Marked};
use kraftr_scheduler::clock::SystemIds;

use crate::cli::RenderArgs;
use crate::commands::{Outcome, decode, default_release, encoding, format_of, read_picture};
use crate::config::concerns::Models;
use crate::data_dir::write_atomically;
use crate::output::{self, Progress};

/// Runs the command.
pub fn run(args: &RenderArgs) -> Result<Outcome> {
    let encoding = encoding(format_of(&args.out)?);
    let registry = Models::load(&args.flags.sources())?.registry()?;
    let manifest = release(args, &registry)?;
    let sampling = sampling(args, manifest)?;
    let painter = match &args.scene {
        Some(_) => Some(registry.painter(manifest)?.with_context(|| {
            format!("{} takes no scenes: its manifest names no `scene` release", manifest.name)
        })?),
        None => None,
    };
    let inputs = read_inputs(args)?;
    if let Some(caution) = &manifest.caution {
        output::note(format_args!("note: {}: {caution}", manifest.name))?;
    }

    let device = device::choose(&args.device)?;
    let started = Instant::now();
    let model = registry.load(&manifest.name, &device)?;
    let painter = painter.map(|painter| registry.load(&painter.name, &device)).transpose()?;
    let loaded = started.elapsed().as_secs_f64();
    let mut progress = Progress::new("rendering");
    let mut pictures =
        render(&model, &inputs, sampling, args.samples, |step| progress.step(step, sampling.steps))?;
    let mut steps = sampling.steps;
    if let Some((painter, scene)) = painter.zip(args.scene.as_ref()) {
        progress.stage("the scene");
        let sampling = Sampling::of(painter.manifest(), args.quality, args.seed);
        pictures =
            place(&model, &painter, scene, sampling, pictures, |step| progress.step(step, sampling.steps))?;
        steps += sampling.steps;
    }
    progress.finish();
    let rendered = started.elapsed().as_secs_f64() - loaded;

    for (n, picture) in pictures.iter().enumerate() {
        let mut payload = WatermarkRef([0; 8]);
        SystemIds.fill(&mut payload.0);
        let marked = Marked::seal(picture, payload.0, &Key::development(), encoding)?;
        let path = if args.samples == 1 { args.out.clone() } else { numbered(&args.out, n + 1) };
        write_atomically(&path, marked.bytes())?;
        output::line(format_args!("{}  watermark {payload}", path.display()))?;
    }
    let all = started.elapsed().as_secs_f64();
    let seconds_per_step = rendered / f64::from(steps);
    output::line(format_args!(
        "{all:.1} s: {loaded:.1} s to load {}, {rendered:.1} s for {} steps ({seconds_per_step:.2} s each)",
        manifest.name, steps
    ))?;
    Ok(Outcome::Done)
}

fn sampling(args: &RenderArgs, manifest: &ReleaseManifest) -> Result<Sampling> {
    let limits = &manifest.limits;
    let sampling = Sampling::of(manifest, args.quality, args.seed);
    let steps = args.steps.unwrap_or(sampling.steps);
    if !(limits.steps_min..=limits.steps_max).contains(&steps) {
        bail!("--steps {steps}: {} takes {} to {} steps", manifest.name, limits.steps_min, limits.steps_max);
    }
    if args.samples > limits.samples_max {
        bail!("--samples {}: {} makes at most {}", args.samples, manifest.name, limits.samples_max);
    }
    Ok(Sampling { steps, ..sampling })
}

/// The release that is asked for, or the first that takes these inputs.
fn release<'a>(args: &RenderArgs, registry: &'a Registry) -> Result<&'a ReleaseManifest> {
    let (found, name) = match (&args.model, &args.prompt) {
        (Some(name), _) => (registry.manifests().find(|manifest| manifest.name == *name), name.as_str()),
        (None, None) => (default_release(registry), "the default"),
        (None, Some(_)) => {
            let painter = registry.present().find(|manifest| manifest.task == Task::TextToImage);
            (painter, "that paints after a description")
        }
    };
    let manifest =
        found.with_context(|| format!("there is no release {name}: `kraftr model list` shows them"))?;
    let (name, task) = (&manifest.name, manifest.task);
    match (task == Task::TextToImage, args.prompt.is_some()) {
        (true, false) => bail!("{name} paints after a description: say --prompt instead of pictures"),
        (false, true) => bail!("{name} is for {task}: say --person, --garment and --category, not --prompt"),
        _ => Ok(manifest),
    }
}

fn read_inputs(args: &RenderArgs) -> Result<Inputs> {
    if let Some(prompt) = args.prompt.clone() {
        let kept = match (&args.keep, &args.matte) {
            (Some(picture), Some(matte)) => Some(read_kept(picture, matte)?),
            _ => None,
        };
        return Ok(Inputs::TextToImage(TextToImage { prompt, kept }));
    }
    let (Some(person), Some(garment), Some(category)) = (&args.person, &args.garment, args.category) else {
        bail!("say --person, --garment and --category, or --prompt");
    };
    Ok(Inputs::TryOn(TryOn {
        person: read_picture(person)?,
        garment: read_picture(garment)?,
        category,
        garment_photo: args.garment_photo,
    }))
}

/// The matte may be a picture of any kind: the mean of its colours counts.
fn read_kept(picture: &Path, matte: &Path) -> Result<Kept> {
    let (picture, matte) = (read_picture(picture)?, read_picture(matte)?);
    let mean = |pixel: [u8; 3]| (pixel.into_iter().map(u16::from).sum::<u16>() / 3) as u8;
    let matte =
        GrayImage::from_fn(matte.width(), matte.height(), |x, y| [mean(matte.get_pixel(x, y).0)].into());
    Ok(Kept { picture, matte })
}

/// The render of `kraftr demo`, ready to run: what benches measure.
pub struct Bundled {
    /// The demo model.
    pub model: Model,
    /// The sample pictures.
    pub inputs: Inputs,
    /// As a client gets it that names nothing.
    pub sampling: Sampling,
}

impl Bundled {
    /// Loads the model and decodes the pictures.
    pub fn load() -> Result<Self> {
        let registry = Registry::bundled();
        let manifest = default_release(&registry).context("no release puts clothes on people")?;
        Ok(Self {
            model: registry.load(&manifest.name, &Device::Cpu)?,
            inputs: Inputs::TryOn(TryOn {
                person: decode(bundled::SAMPLE_PERSON)?,
                garment: decode(bundled::SAMPLE_GARMENT)?,
                category: bundled::SAMPLE_CATEGORY,
                garment_photo: GarmentPhoto::FlatLay,
            }),
            sampling: Sampling::of(manifest, Quality::Balanced, 0),
        })
    }
}

/// Renders `samples` images together, each with its own stream of noise; tells `on_step` how many steps
/// are done.
pub fn render(
    model: &Model,
    inputs: &Inputs,
    sampling: Sampling,
    samples: u32,
    mut on_step: impl FnMut(u32),
) -> Result<Vec<RgbImage>, ModelError> {
    let prepared = model.prepare(inputs)?;
    let mut batch = (0..u64::from(samples))
        .map(|n| model.begin(&prepared, &Sampling { seed: sampling.seed + n, ..sampling }))
        .collect::<Result<Vec<Sample>, _>>()?;
    for step in 1..=sampling.steps {
        let mut all: Vec<&mut Sample> = batch.iter_mut().collect();
        model.step(&mut all)?;
        on_step(step);
    }
    batch.into_iter().map(|sample| model.finish(sample)).collect()
}

/// Puts the people of `pictures` in front of a scene, painted for all of them together.
fn place(
    dresser: &Model,
    painter: &Model,
    scene: &Prompt,
    sampling: Sampling,
    pictures: Vec<RgbImage>,
    mut on_step: impl FnMut(u32),
) -> Result<Vec<RgbImage>, ModelError> {
    let description = painter.describe(scene.as_str())?;
    let mut begun = Vec::new();
    for (n, picture) in (0..).zip(pictures) {
        let subject = dresser.subject(picture)?;
        let kept = subject.framed(painter.manifest().size)?;
        let prepared = painter.paint(&description, Some(&kept))?;
        let sample = painter.begin(&prepared, &Sampling { seed: sampling.seed + n, ..sampling })?;
        begun.push((subject, sample));
    }
    for step in 1..=sampling.steps {
        let mut all: Vec<&mut Sample> = begun.iter_mut().map(|(_, sample)| sample).collect();
        painter.step(&mut all)?;
        on_step(step);
    }
    begun.into_iter().map(|(subject, sample)| subject.compose(&painter.finish(sample)?)).collect()
}

/// `out.png` as `out-2.png`.
fn numbered(path: &Path, n: usize) -> PathBuf {
    let mut name: OsString = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{n}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_numbered_before_the_ending() {
        assert_eq!(numbered(Path::new("a.b/out.v1.png"), 2), Path::new("a.b/out.v1-2.png"));
    }
}
