//! `kraftr model compare`: two releases on the same inputs, side by side and in figures.

use anyhow::{Context, Result, bail};
use kraftr_imaging::{Encoding, Filter, RgbImage, contact_sheet, encode, resize, stack};
use kraftr_models::{Registry, Sampling, device};
use kraftr_protocol::Quality;
use serde::Serialize;

use super::cases::{self, Case, Distance, ROW, difference};
use crate::cli::CompareArgs;
use crate::commands::render;
use crate::data_dir::write_atomically;
use crate::output::{self, Progress};

/// How far apart two releases are.
#[derive(Serialize)]
struct Report {
    first: String,
    second: String,
    seed: u64,
    cases: Vec<Compared>,
    /// Over all cases.
    #[serde(flatten)]
    mean: Distance,
}

/// How far apart two pictures are.
#[derive(Serialize)]
struct Compared {
    name: String,
    #[serde(flatten)]
    distance: Distance,
}

/// Renders every case twice and writes the sheet and the figures.
pub(super) fn run(registry: &Registry, args: &CompareArgs) -> Result<()> {
    let task = registry.get(&args.first)?.task;
    let other = registry.get(&args.second)?.task;
    if task != other {
        bail!("{} is for {task} and {} for {other}: they take other inputs", args.first, args.second);
    }
    let cases = cases::read(args.set.as_deref(), task)?;
    let (first, second) =
        (render_all(registry, &args.first, &cases, args)?, render_all(registry, &args.second, &cases, args)?);
    let (mut rows, mut compared) = (Vec::new(), Vec::new());
    for ((case, first), second) in cases.iter().zip(&first).zip(second) {
        // Releases may paint in different sizes: the second is judged in the first one's.
        let second = resize(&second, first.width(), first.height(), Filter::Lanczos3)?;
        let difference = difference(first, &second);
        let mut pictures = case.pictures();
        pictures.extend([first, &second, &difference]);
        rows.push(contact_sheet(&pictures, ROW)?);
        compared.push(Compared { name: case.name.clone(), distance: Distance::between(first, &second)? });
    }
    let distances: Vec<_> = compared.iter().map(|case| case.distance).collect();
    let report = Report {
        first: args.first.clone(),
        second: args.second.clone(),
        seed: args.seed,
        mean: Distance::mean(&distances),
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
    let mut row = |name: &str, Distance { psnr_db, ssim }| {
        rows.push(vec![name.to_owned(), format!("{psnr_db:.2}"), format!("{ssim:.4}")]);
    };
    for case in &report.cases {
        row(&case.name, case.distance);
    }
    row("mean", report.mean);
    Ok(output::table(&rows)?)
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
