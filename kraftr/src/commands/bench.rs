//! `kraftr bench`: what this machine can do.

use anyhow::Result;

use crate::bench::{self, ControlPlane, Quantiles, Report};
use crate::cli::{BenchCommand, ControlPlaneArgs};
use crate::commands::Outcome;
use crate::output;

/// Runs the command.
pub async fn run(command: BenchCommand) -> Result<Outcome> {
    let BenchCommand::ControlPlane(args) = command;
    let report = bench::run(&plan(&args)).await?;
    if args.json {
        output::json(&report)?;
    } else {
        table(&report)?;
    }
    Ok(Outcome::Done)
}

fn plan(args: &ControlPlaneArgs) -> ControlPlane {
    ControlPlane {
        jobs: args.jobs as usize,
        orgs: args.orgs as usize,
        workers: args.workers as usize,
        slots: args.slots as usize,
        rate: args.rate.map(f64::from),
        backlog: args.backlog as usize,
        bare: args.bare,
    }
}

fn table(report: &Report) -> Result<()> {
    let mut rows = Vec::new();
    let mut row = |what: &str, figure: String| rows.push(vec![what.to_owned(), figure]);
    let per_s = |figure: f64| format!("{figure:.0}/s");
    if let Some(full) = &report.full {
        row("submitted to captured", per_s(full.renders_per_s));
        row("accepted, one by one", per_s(full.accepted_one_by_one_per_s));
        row("accepted, in batches", per_s(full.accepted_batch_per_s));
        row("burnt down", per_s(full.burn_down_per_s));
        if let Some(figure) = full.backlog_accepted_per_s {
            row("backlog accepted", per_s(figure));
        }
        if let Some(quantiles) = &full.submit_to_claimed {
            row("submitted to claimed", milliseconds(quantiles));
        }
    }
    if let Some(bare) = &report.bare {
        row("published", per_s(bare.publishes_per_s));
        row("burnt down", per_s(bare.burn_per_s));
        if let Some(quantiles) = &bare.open_loop {
            row("published to handled", milliseconds(quantiles));
        }
    }
    Ok(output::table(&rows)?)
}

fn milliseconds(quantiles: &Quantiles) -> String {
    let Quantiles { jobs, p50_ms, p90_ms, p99_ms, max_ms } = quantiles;
    format!(
        "p50 {p50_ms:.1} ms, p90 {p90_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms ({jobs} renders)"
    )
}
