//! `kraftr model qualities`: what a release's qualities cost, and how far their pictures are from the full result.

use std::time::Instant;

use anyhow::{Result, bail};
use kraftr_imaging::{Encoding, RgbImage, contact_sheet, encode, stack};
use kraftr_models::{Model, Registry, Sampling, device};
use kraftr_protocol::Quality;
use kraftr_protocol::manifest::Method;
use serde::Serialize;

use super::cases::{self, Case, Distance, ROW, difference};
use crate::cli::{QualitiesArgs, Way};
use crate::data_dir::write_atomically;
use crate::output::{self, Progress};

/// What every way costs and how far it leads from the first, which is the full result.
#[derive(Serialize)]
struct Report {
    release: String,
    device: String,
    precision: String,
    seed: u64,
    cases: usize,
    ways: Vec<Measured>,
}

/// One way to sample, over all cases.
#[derive(Serialize)]
struct Measured {
    name: String,
    way: String,
    /// The mean of all images.
    s_per_image: f64,
    /// Passes of an image through the whole network, likewise.
    evaluations: f64,
    /// Passes through the first block alone, likewise.
    reused: f64,
    /// From the full result.
    #[serde(flatten)]
    distance: Distance,
    /// The case that is farthest from it.
    worst_psnr_db: f64,
}

/// A way and the pictures it made.
struct Rendered {
    pictures: Vec<RgbImage>,
    seconds: f64,
    whole: u32,
    reused: u32,
}

/// Renders every case in every quality and writes the sheet and the figures.
pub(super) fn run(registry: &Registry, args: &QualitiesArgs) -> Result<()> {
    let manifest = registry.get(&args.release)?;
    let cases = cases::read(args.set.as_deref(), manifest.task)?;
    let limits = &manifest.limits;
    let of = |quality| Sampling::of(manifest, quality, args.seed);
    let best = of(Quality::Best);
    let mut ways = vec![("full".to_owned(), Sampling { method: Method::default(), ..best })];
    ways.extend(Quality::ALL.iter().rev().map(|quality| (quality.to_string(), of(*quality))));
    for Way { steps, method } in &args.also {
        if !(limits.steps_min..=limits.steps_max).contains(steps) {
            bail!(
                "--also steps={steps}: {} takes {} to {}",
                manifest.name,
                limits.steps_min,
                limits.steps_max
            );
        }
        ways.push(("also".to_owned(), Sampling { steps: *steps, method: *method, ..best }));
    }
    let device = device::choose(&args.device)?;
    let model = registry.load(&manifest.name, &device)?;
    let mut all = Vec::new();
    for (name, sampling) in &ways {
        all.push(render_all(&model, &cases, *sampling, name)?);
    }
    let measured = ways
        .iter()
        .zip(&all)
        .map(|((name, sampling), rendered)| measure(name, sampling, rendered, &all[0]))
        .collect::<Result<Vec<_>>>()?;
    let report = Report {
        release: manifest.name.clone(),
        device: device::display(&device),
        precision: registry.precision(&device).to_string(),
        seed: args.seed,
        cases: cases.len(),
        ways: measured,
    };
    write_atomically(&args.out, &encode(&sheet(&cases, &all)?, Encoding::Png)?)?;
    let figures = args.out.with_extension("json");
    write_atomically(&figures, &serde_json::to_vec_pretty(&report)?)?;
    print(&report)?;
    output::line(format_args!("{}  {}", args.out.display(), figures.display()))?;
    Ok(())
}

fn render_all(model: &Model, cases: &[Case], sampling: Sampling, name: &str) -> Result<Rendered> {
    let mut progress = Progress::new(name);
    let mut rendered = Rendered { pictures: Vec::new(), seconds: 0.0, whole: 0, reused: 0 };
    for (n, case) in cases.iter().enumerate() {
        let prepared = model.prepare(&case.inputs)?;
        let started = Instant::now();
        let mut sample = model.begin(&prepared, &sampling)?;
        while !sample.is_done() {
            model.step(&mut [&mut sample])?;
            let done = sampling.steps * n as u32 + sample.step();
            progress.step(done, sampling.steps * cases.len() as u32);
        }
        let evaluations = model.evaluations(&sample)?;
        rendered.pictures.push(model.finish(sample)?);
        rendered.seconds += started.elapsed().as_secs_f64();
        rendered.whole += evaluations.whole;
        rendered.reused += evaluations.reused;
    }
    progress.finish();
    Ok(rendered)
}

fn measure(name: &str, sampling: &Sampling, rendered: &Rendered, full: &Rendered) -> Result<Measured> {
    let pairs = full.pictures.iter().zip(&rendered.pictures);
    let distances = pairs.map(|(full, other)| Distance::between(full, other)).collect::<Result<Vec<_>>>()?;
    let images = rendered.pictures.len() as f64;
    Ok(Measured {
        name: name.to_owned(),
        way: Way { steps: sampling.steps, method: sampling.method }.to_string(),
        s_per_image: rendered.seconds / images,
        evaluations: f64::from(rendered.whole) / images,
        reused: f64::from(rendered.reused) / images,
        distance: Distance::mean(&distances),
        worst_psnr_db: distances.iter().map(|distance| distance.psnr_db).fold(f64::INFINITY, f64::min),
    })
}

/// A row for each case: person, garment, the full result, then each way's picture and what differs in it.
fn sheet(cases: &[Case], all: &[Rendered]) -> Result<RgbImage> {
    let row = |(n, case): (usize, &Case)| {
        let full = &all[0].pictures[n];
        let others: Vec<_> = all[1..].iter().map(|rendered| &rendered.pictures[n]).collect();
        let differences: Vec<_> = others.iter().map(|other| difference(full, other)).collect();
        let mut pictures = case.pictures();
        pictures.push(full);
        for (other, difference) in others.into_iter().zip(&differences) {
            pictures.extend([other, difference]);
        }
        Ok(contact_sheet(&pictures, ROW)?)
    };
    Ok(stack(&cases.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?)?)
}

fn print(report: &Report) -> Result<()> {
    let header = ["QUALITY", "HOW", "s/IMAGE", "PASSES", "REUSED", "PSNR dB", "WORST", "SSIM"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for way in &report.ways {
        rows.push(vec![
            way.name.clone(),
            way.way.clone(),
            format!("{:.3}", way.s_per_image),
            format!("{:.1}", way.evaluations),
            format!("{:.1}", way.reused),
            format!("{:.2}", way.distance.psnr_db),
            format!("{:.2}", way.worst_psnr_db),
            format!("{:.4}", way.distance.ssim),
        ]);
    }
    Ok(output::table(&rows)?)
}
