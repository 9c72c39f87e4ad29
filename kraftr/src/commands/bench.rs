//! `kraftr bench`: what this machine can do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::bench::anatomy::{Anatomy, Statement};
use crate::bench::{self, Books, ControlPlane, Ground, Quantiles, Report, Ways};
use crate::cli::{BenchCommand, ControlPlaneArgs};
use crate::commands::Outcome;
use crate::config::concerns::{Amqp, Database};
use crate::config::value::{DatabaseKind, Name, Setting as _};
use crate::config::{Role, Scope, Settings};
use crate::connect;
use crate::output;

/// Runs the command.
pub async fn run(command: BenchCommand) -> Result<Outcome> {
    let BenchCommand::ControlPlane(args) = command;
    let plan = plan(&args);
    let mut settings = Settings::load(&args.flags.sources(), Scope::Role(Role::Admin));
    let books = if settings.has("database.url") && !args.bare { settings.read::<Database>() } else { None };
    let broker = if settings.has("amqp.url") { settings.read::<Amqp>() } else { None };
    settings.finish(Some(()))?;
    let report = bench::run(&plan, ground(&plan, books, broker).await?).await?;
    if args.json {
        output::json(&report)?;
    } else {
        table(&report)?;
    }
    Ok(Outcome::Done)
}

/// The services that are configured; without them what is embedded.
async fn ground(plan: &ControlPlane, books: Option<Database>, broker: Option<Amqp>) -> Result<Ground> {
    let books = match books {
        Some(config) => {
            let name = match config.url.kind() {
                DatabaseKind::Postgres(_) => "postgres",
                DatabaseKind::Sqlite(_) => "sqlite",
            };
            Some(Books { store: connect::database(&config).await?, name })
        }
        None => None,
    };
    let ways = match broker {
        Some(config) => {
            // Queues of its own: those of a fleet are none of its business.
            let namespace = Name::parse(&format!("{}.bench", config.namespace.as_str()));
            let config = Amqp { namespace: namespace.unwrap_or_else(|| config.namespace.clone()), ..config };
            let patience = Duration::from_secs(10);
            let (scheduler, workers) =
                (connect::broker(&config, patience).await?, connect::broker(&config, patience).await?);
            let ends = [Arc::clone(&scheduler), Arc::clone(&workers)];
            let messages = move || {
                let counts = ends.each_ref().map(|end| end.messages());
                (
                    counts.map(|count| count.published).iter().sum(),
                    counts.map(|count| count.delivered).iter().sum(),
                )
            };
            Ways { scheduler, workers, name: "rabbitmq", messages: Some(Box::new(messages)) }
        }
        None => Ground::in_process(plan.jobs),
    };
    Ok(Ground::on(books, ways))
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
        if let Some(latency) = &full.latency {
            row("due to accepted", milliseconds(&latency.submit));
            row("due to claimed", milliseconds(&latency.submit_to_claimed));
            row("queued to dispatched", milliseconds(&latency.queued_to_dispatched));
            row("queued to claimed", milliseconds(&latency.dispatch));
            row("queued to captured", milliseconds(&latency.completion));
        }
        let Anatomy { sql_round_trips, commits, messages_published, messages_delivered, .. } = &full.anatomy;
        row("round trips to the database", format!("{sql_round_trips:.2} a render"));
        if let Some(commits) = commits {
            row("commits", format!("{commits:.3} a render"));
        }
        if let (Some(published), Some(delivered)) = (messages_published, messages_delivered) {
            row("messages", format!("{published:.2} published, {delivered:.2} delivered a render"));
        }
        for statement in &full.anatomy.statements {
            let Statement { statement, per_render, mean_ms, ms_per_render } = statement;
            row(
                &format!("  {statement}"),
                format!("{per_render:.3} a render, {mean_ms:.2} ms each, {ms_per_render:.3} ms a render"),
            );
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
    let Quantiles { jobs, p50_ms, p95_ms, p99_ms, max_ms } = quantiles;
    format!(
        "p50 {p50_ms:.1} ms, p95 {p95_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms ({jobs} renders)"
    )
}
