//! Seconds of the demo render, ours beside PyTorch's, measured in turn on the same cores.
//!
//! `cargo run --release -p kraftr-benches [-- PYTHON]`, where PYTHON has torch, numpy, pillow and
//! safetensors. Prints one line of JSON. Exit code 2 when the baseline cannot run: a figure of ours
//! alone says nothing about this machine.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kraftr::commands::render::{Bundled, render};
use serde::Deserialize;
use serde_json::json;

/// Ours and theirs alternate this often, so that what else the machine does hits both.
const TURNS: usize = 3;
/// Renders of each side in a turn; the best counts.
const ROUNDS: usize = 3;

/// What the baseline prints.
#[derive(Deserialize)]
struct Baseline {
    what: String,
    steps: u32,
    guidance: f64,
    seconds_best: f64,
}

fn main() -> Result<ExitCode> {
    let python = std::env::args().nth(1).unwrap_or_else(|| "python3".to_owned());
    let mut err = std::io::stderr();
    if !Command::new(&python)
        .args(["-c", "import torch"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        writeln!(
            err,
            "skipped: {python} cannot import torch; give a Python that can: … -p kraftr-benches -- PYTHON"
        )?;
        return Ok(ExitCode::from(2));
    }
    let demo = Bundled::load()?;
    let threads = std::thread::available_parallelism()?.get();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut what = String::new();
    for _ in 0..TURNS {
        let baseline = torch(&python, threads)?;
        ensure!(baseline.steps == demo.sampling.steps, "the baseline takes {} steps", baseline.steps);
        ensure!((baseline.guidance - demo.sampling.guidance).abs() < 1e-9, "guidance differs");
        theirs.push(baseline.seconds_best);
        what = baseline.what;
        ours.push(best_of(ROUNDS, || render(&demo.model, &demo.inputs, demo.sampling, 1, |_| ()).map(drop))?);
    }
    let ratio = median(&mut ours) / median(&mut theirs);
    let line = json!({
        "bench": "demo_render", "threads": threads, "steps": demo.sampling.steps,
        "seconds_ours": ours, "seconds_baseline": theirs, "baseline": what, "ratio": ratio,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the baseline: its own process, weights loaded and warm before it measures.
fn torch(python: &str, threads: usize) -> Result<Baseline> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines/torch_demo.py");
    let output = Command::new(python)
        .arg(script)
        .args(["--rounds", &ROUNDS.to_string(), "--threads", &threads.to_string()])
        .output()
        .with_context(|| format!("cannot run {python}"))?;
    ensure!(output.status.success(), "the baseline failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the baseline printed something else than its figures")
}

/// Seconds of the quickest of `rounds` runs, after one to warm up. Ours includes preparing the
/// pictures and enlarging the result, theirs only the sampling.
fn best_of<E>(rounds: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
