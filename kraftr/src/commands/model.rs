//! `kraftr model`: what can be rendered with, where it comes from, and proof that it is what it claims to be.

mod bench;
mod cases;
mod compare;
pub(crate) mod pull;
mod qualities;
mod show;

use std::fs;

use anyhow::{Context, Result};
use kraftr_models::{CheckReport, Golden, Inputs, Registry, TextToImage, TryOn, bundled, device, parity};
use kraftr_protocol::GarmentPhoto;
use kraftr_protocol::manifest::Task;

use crate::cli::{ModelArgs, ModelCommand, ParityArgs};
use crate::commands::{Outcome, decode};
use crate::config::concerns::Models;
use crate::data_dir::write_atomically;
use crate::output::{self, Bytes};

/// Runs the command.
pub async fn run(args: ModelArgs) -> Result<Outcome> {
    let sources = args.flags.sources();
    if let ModelCommand::Parity(ParityArgs { fixture, device, precision }) = &args.command {
        let device = device::choose(device)?;
        let report = parity::check(fixture, &device, *precision)?;
        output::json(&report)?;
        return Ok(if report.ok { Outcome::Done } else { Outcome::FoundFault });
    }
    let models = Models::load(&sources)?;
    let registry = models.registry()?;
    match args.command {
        ModelCommand::List { json } => show::list(&registry, json)?,
        ModelCommand::Show { release, json } => show::show(&registry, &release, json)?,
        ModelCommand::Pull { releases, all, from } => {
            pull::run(&registry, &releases, all, from, &sources.environment).await?;
        }
        ModelCommand::Check { release, json } => return check(&registry, &release, json),
        ModelCommand::Bench(args) => bench::run(&registry.in_precision(args.precision), &args)?,
        ModelCommand::Compare(args) => compare::run(&registry, &args)?,
        ModelCommand::Qualities(args) => qualities::run(&registry, &args)?,
        ModelCommand::Init { release, seed } => init(&models, &registry, &release, seed)?,
        ModelCommand::Parity(_) => {}
    }
    Ok(Outcome::Done)
}

fn check(registry: &Registry, release: &str, json: bool) -> Result<Outcome> {
    let manifest = registry.get(release)?;
    let mut bar = Bytes::new("hashing", manifest.files.iter().map(|file| file.bytes).sum());
    let report = registry.check(release, |bytes| bar.add(bytes))?;
    bar.finish();
    if json {
        output::json(&report)?;
    } else {
        print_check(&report)?;
    }
    Ok(if report.ok { Outcome::Done } else { Outcome::FoundFault })
}

fn print_check(report: &CheckReport) -> Result<()> {
    for file in &report.files {
        let verdict = file.problem.as_deref().unwrap_or("has its length and SHA-256");
        output::line(format_args!("{:<15} {} {verdict}", file.role, file.name))?;
    }
    for contract in &report.contracts {
        let verdict = match &contract.mismatch {
            None => format!("holds its {} tensors, {} numbers", contract.tensors, contract.parameters),
            Some(mismatch) => format!("does not fit the configuration: {mismatch}"),
        };
        output::line(format_args!("{:<15} {verdict}", contract.role))?;
    }
    let golden = match &report.golden {
        Golden::NotNamed => "the manifest names no golden file: outputs are not proven".to_owned(),
        Golden::NotCompared { why } => format!("outputs are not compared: {why}"),
        Golden::Compared(parity) => {
            let worst = parity.checks.iter().map(|check| check.rel_err).fold(0.0, f64::max);
            let verdict = if parity.ok { "as recorded" } else { "NOT as recorded" };
            format!("{} outputs are {verdict}; the worst relative error is {worst:.1e}", parity.checks.len())
        }
    };
    output::line(format_args!("{:<15} {golden}", "golden"))?;
    output::line(format_args!("{} is {}", report.release, if report.ok { "right" } else { "WRONG" }))?;
    Ok(())
}

fn init(models: &Models, registry: &Registry, release: &str, seed: u64) -> Result<()> {
    let weights = models.weights.as_ref().context("name a folder for them with --weights")?.path();
    let manifests =
        models.manifests.as_ref().context("name a folder for the manifest with --manifests")?.path();
    let mut bar = None;
    let random = registry.init(release, weights, seed, |bytes, all| {
        bar.get_or_insert_with(|| Bytes::new("writing", all)).add(bytes);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    fs::create_dir_all(manifests).with_context(|| manifests.display().to_string())?;
    let path = manifests.join(format!("{}.toml", random.name));
    let text = format!("# Written by `kraftr model init {release} --seed {seed}`.\n{}", random.to_toml());
    write_atomically(&path, text.as_bytes())?;
    for file in &random.files {
        output::line(format_args!(
            "{}  {} bytes  sha256 {}",
            weights.join(&file.name).display(),
            file.bytes,
            file.sha256
        ))?;
    }
    output::line(path.display())?;
    Ok(())
}

/// What a release is measured with unless inputs are named: the bundled sample of its task.
fn sample_inputs(task: Task) -> Result<Inputs> {
    if task == Task::TextToImage {
        return Ok(Inputs::TextToImage(TextToImage {
            prompt: bundled::SAMPLE_PROMPT.to_owned(),
            kept: None,
        }));
    }
    Ok(Inputs::TryOn(TryOn {
        person: decode(bundled::SAMPLE_PERSON)?,
        garment: decode(bundled::SAMPLE_GARMENT)?,
        category: bundled::SAMPLE_CATEGORY,
        garment_photo: GarmentPhoto::FlatLay,
    }))
}
