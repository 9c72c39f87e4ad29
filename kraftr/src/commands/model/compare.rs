//! `kraftr model compare`: two releases on the same inputs, side by side and in figures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kraftr_imaging::{Encoding, Filter, RgbImage, contact_sheet, encode, psnr, resize, ssim, stack};
use kraftr_models::{Inputs, Registry, Sampling, device};
use kraftr_protocol::{Category, GarmentPhoto, Quality};
use serde::{Deserialize, Serialize};

use super::sample_inputs;
use crate::cli::CompareArgs;
use crate::commands::{read_picture, render};
use crate::data_dir::write_atomically;
use crate::output::{self, Progress};

/// Height of a row of the sheet.
const ROW: u32 = 384;
/// How much a difference is enlarged, so that the eye sees it.
const ENLARGED: u8 = 4;

/// One entry of a set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    person: PathBuf,
    garment: PathBuf,
    category: Category,
    #[serde(default = "flat_lay")]
    garment_photo: GarmentPhoto,
}

fn flat_lay() -> GarmentPhoto {
    GarmentPhoto::FlatLay
}

/// Inputs, and what to call them.
struct Case {
    name: String,
    inputs: Inputs,
}

/// How far apart two releases are.
#[derive(Serialize)]
struct Report {
    first: String,
    second: String,
    seed: u64,
    cases: Vec<Compared>,
    /// The mean over all cases.
    psnr_db: f64,
    /// Likewise.
    ssim: f64,
}

/// How far apart two pictures are.
#[derive(Serialize)]
struct Compared {
    name: String,
    /// Peak signal-to-noise ratio; 100 for equal pictures.
    psnr_db: f64,
    /// Structural similarity of the luma; 1 for equal pictures.
    ssim: f64,
}

/// Renders every case twice and writes the sheet and the figures.
pub(super) fn run(registry: &Registry, args: &CompareArgs) -> Result<()> {
    let cases = match &args.set {
        Some(path) => read_set(path)?,
        None => vec![Case { name: "sample".to_owned(), inputs: sample_inputs()? }],
    };
    let (first, second) =
        (render_all(registry, &args.first, &cases, args)?, render_all(registry, &args.second, &cases, args)?);
    let (mut rows, mut compared) = (Vec::new(), Vec::new());
    for ((case, first), second) in cases.iter().zip(&first).zip(second) {
        // Releases may paint in different sizes: the second is judged in the first one's.
        let second = resize(&second, first.width(), first.height(), Filter::Lanczos3)?;
        let difference = difference(first, &second);
        let pictures = [&case.inputs.person, &case.inputs.garment, first, &second, &difference];
        rows.push(contact_sheet(&pictures, ROW)?);
        let (psnr_db, ssim) = (psnr(first, &second)?, ssim(first, &second)?);
        compared.push(Compared { name: case.name.clone(), psnr_db, ssim });
    }
    let mean = |of: fn(&Compared) -> f64| compared.iter().map(of).sum::<f64>() / compared.len() as f64;
    let report = Report {
        first: args.first.clone(),
        second: args.second.clone(),
        seed: args.seed,
        psnr_db: mean(|case| case.psnr_db),
        ssim: mean(|case| case.ssim),
        cases: compared,
    };
    write_atomically(&args.out, &encode(&stack(&rows)?, Encoding::Png)?)?;
    let figures = args.json.clone().unwrap_or_else(|| args.out.with_extension("json"));
    write_atomically(&figures, &serde_json::to_vec_pretty(&report)?)?;
    print(&report)?;
    output::line(format_args!("{}  {}", args.out.display(), figures.display()))?;
    Ok(())
}

fn print(report: &Report) -> Result<()> {
    let mut rows = vec![["CASE", "PSNR dB", "SSIM"].map(str::to_owned).to_vec()];
    for Compared { name, psnr_db, ssim } in &report.cases {
        rows.push(vec![name.clone(), format!("{psnr_db:.2}"), format!("{ssim:.4}")]);
    }
    rows.push(vec!["mean".to_owned(), format!("{:.2}", report.psnr_db), format!("{:.4}", report.ssim)]);
    Ok(output::table(&rows)?)
}

fn read_set(path: &Path) -> Result<Vec<Case>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries: Vec<Entry> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    if entries.is_empty() {
        bail!("{} names no inputs", path.display());
    }
    let beside = |other: &Path| path.parent().unwrap_or(Path::new("")).join(other);
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let read = |entry: Entry| {
        let inputs = Inputs {
            person: read_picture(&beside(&entry.person))?,
            garment: read_picture(&beside(&entry.garment))?,
            category: entry.category,
            garment_photo: entry.garment_photo,
        };
        Ok(Case { name: format!("{} + {}", stem(&entry.person), stem(&entry.garment)), inputs })
    };
    entries.into_iter().map(read).collect()
}

fn render_all(
    registry: &Registry,
    release: &str,
    cases: &[Case],
    args: &CompareArgs,
) -> Result<Vec<RgbImage>> {
    let manifest = registry.get(release)?;
    let sampling = Sampling::of(manifest, Quality::Balanced, args.seed);
    let steps = args.steps.unwrap_or(sampling.steps);
    let sampling = Sampling { steps, ..sampling };
    let model = registry.load(release, &device::choose(&args.device)?)?;
    let mut progress = Progress::new(release);
    let all = steps * cases.len() as u32;
    let render = |(n, case): (usize, &Case)| {
        let done = steps * n as u32;
        let picture =
            render::render(&model, &case.inputs, sampling, 1, |step| progress.step(done + step, all))?;
        picture.into_iter().next().context("a render of one sample makes one picture")
    };
    let pictures = cases.iter().enumerate().map(render).collect::<Result<Vec<_>>>()?;
    progress.finish();
    Ok(pictures)
}

fn difference(one: &RgbImage, other: &RgbImage) -> RgbImage {
    let apart = |at: usize| one.as_raw()[at].abs_diff(other.as_raw()[at]).saturating_mul(ENLARGED);
    RgbImage::from_fn(one.width(), one.height(), |x, y| {
        let at = 3 * (y * one.width() + x) as usize;
        [apart(at), apart(at + 1), apart(at + 2)].into()
    })
}
