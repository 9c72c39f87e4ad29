//! `kraftr config`: what the configuration says, and what is wrong with it.

use anyhow::Result;

use crate::cli::{ConfigArgs, ConfigCommand};
use crate::commands::Outcome;
use crate::config::{
    Mistakes, Role, SchedulerConfig, Scope, Settings, Shown, Sources, WorkerConfig, reference,
};
use crate::output;
use crate::provenance::DEVELOPMENT_AUTHORITY;

/// What a worker without a key ring is told.
pub(crate) const DEVELOPMENT_KEY: &str =
    "watermark.keys is not set: pictures are marked with the development key, whose marks anybody can forge";

/// Runs the command.
pub fn run(args: ConfigArgs) -> Result<Outcome> {
    let sources = Sources::of_this_process(args.config, Vec::new());
    match args.command {
        ConfigCommand::Check { role } => check(&sources, role),
        ConfigCommand::Show { role, json } => show(&sources, role, json),
        ConfigCommand::Reference => {
            output::text(&reference::markdown())?;
            Ok(Outcome::Done)
        }
    }
}

/// The merged configuration with everything noted that a start would refuse.
fn examine(sources: &Sources, role: Option<Role>) -> (Settings, Vec<Shown>) {
    let mut settings = Settings::load(sources, role.map_or(Scope::Everybody, Scope::Role));
    let shown = settings.show();
    match role {
        Some(Role::Scheduler) => drop(SchedulerConfig::read(&mut settings)),
        Some(Role::Worker) => drop(WorkerConfig::read(&mut settings)),
        Some(Role::Admin | Role::Model | Role::Verify | Role::Watermark) | None => {}
    }
    (settings, shown)
}

fn check(sources: &Sources, role: Option<Role>) -> Result<Outcome> {
    let (settings, _) = examine(sources, role);
    remark(&settings, role)?;
    match (settings.finish(Some(())), role) {
        (Err(mistakes), _) => refuse(&mistakes),
        (Ok(()), Some(role)) => {
            output::line(format_args!("the configuration is right for kraftr {role}"))?;
            Ok(Outcome::Done)
        }
        (Ok(()), None) => {
            output::line("what is configured is right; --role tells whether anything is missing")?;
            Ok(Outcome::Done)
        }
    }
}

fn show(sources: &Sources, role: Option<Role>, json: bool) -> Result<Outcome> {
    let (settings, shown) = examine(sources, role);
    if json {
        output::json(&shown)?;
    } else {
        let mut rows = vec![["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
        rows.extend(shown.into_iter().map(|Shown { key, value, origin }| {
            let [value, origin] = [value, origin].map(|text| text.unwrap_or_else(|| "-".to_owned()));
            vec![key, value, origin]
        }));
        output::table(&rows)?;
    }
    remark(&settings, role)?;
    match settings.finish(Some(())) {
        Ok(()) => Ok(Outcome::Done),
        Err(mistakes) => refuse(&mistakes),
    }
}

fn refuse(mistakes: &Mistakes) -> Result<Outcome> {
    output::note(format_args!("error: {mistakes}"))?;
    Ok(Outcome::FoundFault)
}

/// What is no mistake, and what an operator wants to know all the same.
fn remark(settings: &Settings, role: Option<Role>) -> Result<()> {
    for warning in settings.warnings() {
        output::note(format_args!("warning: {warning}"))?;
    }
    let Some(role) = role else { return Ok(()) };
    for (field, origin) in settings.unread() {
        let key = field.key();
        output::note(format_args!("note: {origin}: {key} is set, and a {role} does not read it"))?;
    }
    if role == Role::Scheduler && !settings.has("credentials.chain") {
        output::note(format_args!("warning: {DEVELOPMENT_AUTHORITY}"))?;
    }
    if role == Role::Worker && !settings.has("watermark.keys") {
        output::note(format_args!("warning: {DEVELOPMENT_KEY}"))?;
    }
    Ok(())
}
