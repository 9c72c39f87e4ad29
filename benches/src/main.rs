//! Seconds of the demo render, ours beside PyTorch's, measured in turn on the same cores.
//!
//! `cargo run --release -p kraftr-benches [-- PYTHON]`, where PYTHON has torch, numpy, pillow and
//! safetensors. Prints one line of JSON. Exit code 2 when the baseline cannot run: a figure of ours
//! alone says nothing about this machine.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kraftr::commands::render::{Bundled, render};
use kraftr::output;

/// Ours and theirs alternate this often, so that what else the machine does hits both.
const TURNS: usize = 3;
/// Renders of each side in a turn, beside one to warm up; the best counts.
const RUNS: usize = 3;

fn main() -> ExitCode {
    let python = std::env::args().nth(1).unwrap_or_else(|| "python3".to_owned());
    if !Command::new(&python)
        .args(["-c", "import torch"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        say(format_args!(
            "skipped: {python} cannot import torch; name a Python that can as the only argument"
        ));
        return ExitCode::from(2);
    }
    match compare(&python) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: impl Display) {
    // Nobody is left to be told when standard error is closed.
    writeln!(std::io::stderr(), "{text}").ok();
}

fn compare(python: &str) -> Result<()> {
    let demo = Bundled::load()?;
    let threads = available_parallelism()?.get();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        theirs.push(torch(python, threads, &demo)?);
        ours.push(rust(&demo)?);
    }
    let ratio = median(&mut ours) / median(&mut theirs);
    output::json(&serde_json::json!({
        "bench": "demo_render",
        "threads": threads,
        "steps": demo.sampling.steps,
        "seconds": ours,
        "seconds_torch": theirs,
        "ratio": ratio,
    }))?;
    Ok(())
}

/// Seconds of our best run. They include preparing the pictures and enlarging the result, which the
/// baseline's do not.
fn rust(demo: &Bundled) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..=RUNS {
        let started = Instant::now();
        render(&demo.model, &demo.inputs, demo.sampling, 1, |_| ())?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Seconds of the baseline's best run, in a process of its own.
fn torch(python: &str, threads: usize, demo: &Bundled) -> Result<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines/torch_demo.py");
    let output = Command::new(python)
        .arg(script)
        .args(["--threads", &threads.to_string(), "--runs", &(RUNS + 1).to_string()])
        .args([
            "--steps",
            &demo.sampling.steps.to_string(),
            "--guidance",
            &demo.sampling.guidance.to_string(),
        ])
        .output()
        .with_context(|| format!("cannot run {python}"))?;
    ensure!(output.status.success(), "the baseline failed: {}", String::from_utf8_lossy(&output.stderr));
    let seconds = String::from_utf8_lossy(&output.stdout);
    seconds.trim().parse().with_context(|| format!("the baseline printed {seconds:?} instead of seconds"))
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
