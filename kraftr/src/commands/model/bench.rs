//! `kraftr model bench`: how fast a release is here, and how much of the machine it uses.

use std::fs;
use std::time::Instant;

use anyhow::{Result, bail};
use kraftr_models::arithmetic::Arithmetic;
use kraftr_models::{Registry, Sample, Sampling, device};
use kraftr_protocol::Quality;
use serde::Serialize;

use super::sample_inputs;
use crate::cli::BenchArgs;
use crate::output::{self, Progress};

/// What was measured.
#[derive(Serialize)]
struct Report {
    release: String,
    device: String,
    precision: String,
    samples: u32,
    quality: Quality,
    steps: u32,
    guidance: f64,
    /// From the manifest to a network on the device.
    load_s: f64,
    /// The first step, which may compile and allocate.
    first_step_ms: f64,
    /// The median of the other steps.
    ms_per_step: f64,
    /// All steps of all `samples`.
    steps_s: f64,
    /// From inputs to a picture, for each of `samples`, which ran together.
    s_per_image: f64,
    /// The work of one image as the reference algorithm does it; a mode that leaves steps or halves out does less.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_flops_per_image: Option<f64>,
    /// The work of the passes that were really made, by the time that all steps took.
    #[serde(skip_serializing_if = "Option::is_none")]
    achieved_flops_per_s: Option<f64>,
    /// The same, part by part.
    #[serde(skip_serializing_if = "Option::is_none")]
    arithmetic: Option<Arithmetic>,
    /// Most memory that the process had (`VmHWM`; pages of mapped weights count), where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
}

/// Measures a release with the bundled sample.
pub(super) fn run(registry: &Registry, args: &BenchArgs) -> Result<()> {
    let manifest = registry.get(&args.release)?;
    let sampling = Sampling::of(manifest, args.quality, 0);
    let steps = args.steps.unwrap_or(sampling.steps);
    let limits = &manifest.limits;
    if !(limits.steps_min..=limits.steps_max).contains(&steps) {
        bail!("--steps {steps}: {} takes {} to {} steps", manifest.name, limits.steps_min, limits.steps_max);
    }
    let sampling = Sampling { steps, guidance: args.guidance.unwrap_or(sampling.guidance), ..sampling };
    let device = device::choose(&args.device)?;
    let inputs = sample_inputs(manifest.task)?;
    let mut progress = Progress::new("measuring");
    progress.stage("loading");
    let started = Instant::now();
    let model = registry.load(&manifest.name, &device)?;
    let load_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let prepared = model.prepare(&inputs)?;
    let mut batch = (0..u64::from(args.samples))
        .map(|seed| model.begin(&prepared, &Sampling { seed, ..sampling }))
        .collect::<Result<Vec<Sample>, _>>()?;
    let mut step_s = Vec::new();
    for step in 1..=steps {
        let step_started = Instant::now();
        let mut all: Vec<&mut Sample> = batch.iter_mut().collect();
        model.step(&mut all)?;
        step_s.push(step_started.elapsed().as_secs_f64());
        progress.step(step, steps);
    }
    let mut passes = 0;
    for sample in batch {
        passes += model.evaluations(&sample)?.whole;
        model.finish(sample)?;
    }
    let all_s = started.elapsed().as_secs_f64();
    progress.finish();

    let arithmetic = registry.arithmetic(&manifest.name, &sampling)?;
    let work = arithmetic.as_ref().map(Arithmetic::image_flops);
    let done = arithmetic.as_ref().map(|arithmetic| arithmetic.pass_flops() * f64::from(passes));
    let steps_s: f64 = step_s.iter().sum();
    let report = Report {
        release: manifest.name.clone(),
        device: device::display(&device),
        precision: registry.precision(&device).to_string(),
        samples: args.samples,
        quality: args.quality,
        steps,
        guidance: sampling.guidance,
        load_s,
        first_step_ms: step_s[0] * 1e3,
        ms_per_step: median(&step_s) * 1e3,
        steps_s,
        s_per_image: all_s / f64::from(args.samples),
        model_flops_per_image: work,
        achieved_flops_per_s: done.map(|done| done / steps_s),
        arithmetic,
        peak_memory_bytes: peak_memory(),
    };
    if args.json { Ok(output::json(&report)?) } else { print(&report) }
}

fn print(report: &Report) -> Result<()> {
    let Report { release, device, precision, steps, samples, .. } = report;
    output::line(format_args!("{release} on {device} in {precision}, {steps} steps, {samples} at once"))?;
    output::line(format_args!("load         {:.2} s", report.load_s))?;
    let first = report.first_step_ms;
    output::line(format_args!("step         {:.1} ms; the first {first:.1} ms", report.ms_per_step))?;
    output::line(format_args!("image        {:.2} s", report.s_per_image))?;
    if let Some(work) = report.model_flops_per_image {
        output::line(format_args!("work         {:.4} TFLOP an image", work / 1e12))?;
    }
    if let Some(rate) = report.achieved_flops_per_s {
        output::line(format_args!("achieved     {:.1} GFLOP/s", rate / 1e9))?;
    }
    if let Some(bytes) = report.peak_memory_bytes {
        output::line(format_args!("peak memory  {:.0} MiB", bytes as f64 / f64::from(1 << 20)))?;
    }
    Ok(())
}

/// Of all steps but the first, or of the only one.
fn median(steps: &[f64]) -> f64 {
    let mut rest = steps.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(steps).to_vec();
    rest.sort_by(f64::total_cmp);
    rest[rest.len() / 2]
}

fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_does_not_count_unless_it_is_the_only_one() {
        assert!((median(&[9.0, 1.0, 3.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[9.0]) - 9.0).abs() < 1e-9);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told() {
        assert!(peak_memory().unwrap() > 1 << 20);
    }
}
