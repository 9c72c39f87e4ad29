//! `kraftr model`: what can be rendered with, and proof that it is what it claims to be.

use anyhow::Result;
use kraftr_models::{Registry, parity};
use kraftr_protocol::Quality;

use crate::cli::ModelCommand;
use crate::commands::Outcome;
use crate::output;

/// Runs the command.
pub fn run(command: ModelCommand) -> Result<Outcome> {
    match command {
        ModelCommand::Parity { fixture } => {
            let report = parity::check(&fixture)?;
            output::json(&report)?;
            Ok(if report.ok { Outcome::Done } else { Outcome::FoundFault })
        }
        ModelCommand::List => {
            list()?;
            Ok(Outcome::Done)
        }
    }
}

fn list() -> Result<()> {
    let mut rows = vec![["RELEASE", "PIXELS", "STEPS", "CREDITS", "TITLE"].map(str::to_owned).to_vec()];
    let registry = Registry::bundled();
    for manifest in registry.manifests() {
        let [width, height] = manifest.output_size();
        rows.push(vec![
            manifest.name.clone(),
            format!("{width}x{height}"),
            manifest.defaults.steps[&Quality::Balanced].to_string(),
            manifest.price.to_string(),
            manifest.title.clone(),
        ]);
    }
    output::table(&rows)?;
    for manifest in registry.manifests() {
        if let Some(caution) = &manifest.caution {
            output::line(format_args!("{}: {caution}", manifest.name))?;
        }
    }
    Ok(())
}
