//! `kraftr admin dead-letters`: renders that took workers down, and what is decided about them.

use anyhow::{Result, bail};
use kraftr_protocol::{FailureCode, OrgId, RenderId, Timestamp};
use kraftr_scheduler::store::{
    DeadLetter, DiscardOutcome, Page, Render, ReplayOutcome, Resolution, Store, TransitionRow,
};
use serde::Serialize;

use crate::cli::DeadLetterCommand;
use crate::output;

/// One dead letter, as `--json` shows it.
#[derive(Serialize)]
struct View<'a> {
    render: RenderId,
    org: OrgId,
    model: &'a str,
    release: &'a str,
    attempts: u32,
    code: Option<FailureCode>,
    message: Option<&'a str>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_as: Option<RenderId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    status: &'static str,
    reason: &'a str,
}

impl<'a> View<'a> {
    fn new(render: &'a Render) -> Self {
        let failure = render.failure.as_ref();
        Self {
            render: render.id,
            org: render.org,
            model: &render.model,
            release: &render.spec.release,
            attempts: render.attempts,
            code: failure.map(|failure| failure.code),
            message: failure.map(|failure| failure.message.as_str()),
            created_at: render.created_at,
            finished_at: render.finished_at,
            resolved_at: None,
            replayed_as: None,
            history: Vec::new(),
        }
    }

    fn with(letter: &'a DeadLetter, history: &'a [TransitionRow]) -> Self {
        let line =
            |row: &'a TransitionRow| Line { at: row.at, status: row.status.as_str(), reason: &row.reason };
        Self {
            resolved_at: letter.resolution.map(|resolution| resolution.at),
            replayed_as: letter.resolution.and_then(|resolution| resolution.replay),
            history: history.iter().map(line).collect(),
            ..Self::new(&letter.render)
        }
    }
}

pub(super) async fn run(store: &dyn Store, command: DeadLetterCommand) -> Result<()> {
    match command {
        DeadLetterCommand::List { limit, json } => list(store, limit, json).await,
        DeadLetterCommand::Show { render, json } => show(store, render, json).await,
        DeadLetterCommand::Replay { render } => match store.replay_dead_letter(render).await? {
            ReplayOutcome::Replayed(again) => Ok(output::line(again.id)?),
            ReplayOutcome::NotFound => unknown(render),
            ReplayOutcome::AlreadyResolved(resolution) => resolved(render, resolution),
            ReplayOutcome::Refused(why) => bail!("{render} cannot be rendered again now: {why}"),
        },
        DeadLetterCommand::Discard { render } => match store.discard_dead_letter(render).await? {
            DiscardOutcome::Discarded => Ok(output::line(format_args!("{render} is discarded"))?),
            DiscardOutcome::NotFound => unknown(render),
            DiscardOutcome::AlreadyResolved(resolution) => resolved(render, resolution),
        },
    }
}

/// The code as the API says it.
fn code_word(code: FailureCode) -> String {
    serde_json::to_value(code).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn unknown(render: RenderId) -> Result<()> {
    bail!("{render} is no dead letter: `kraftr admin dead-letters list` shows them")
}

fn resolved(render: RenderId, Resolution { at, replay }: Resolution) -> Result<()> {
    match replay {
        Some(replay) => bail!("{render} was replayed as {replay} at {at}"),
        None => bail!("{render} was discarded at {at}"),
    }
}

async fn list(store: &dyn Store, limit: u32, json: bool) -> Result<()> {
    let renders = store.dead_letters(&Page { limit, before: None }).await?;
    if json {
        return Ok(output::json(&renders.iter().map(View::new).collect::<Vec<_>>())?);
    }
    let mut rows = vec![["RENDER", "ORG", "CODE", "ENDED", "MESSAGE"].map(str::to_owned).to_vec()];
    for render in &renders {
        let view = View::new(render);
        rows.push(vec![
            view.render.to_string(),
            view.org.to_string(),
            view.code.map_or_else(String::new, code_word),
            view.finished_at.map_or_else(String::new, |at| at.to_string()),
            view.message.unwrap_or_default().to_owned(),
        ]);
    }
    output::table(&rows)?;
    Ok(())
}

async fn show(store: &dyn Store, render: RenderId, json: bool) -> Result<()> {
    let Some(letter) = store.dead_letter(render).await? else { return unknown(render) };
    let history = store.transitions(render, 0).await?;
    let view = View::with(&letter, &history);
    if json {
        return Ok(output::json(&view)?);
    }
    output::line(format_args!("{render} of {}: {} ({})", view.org, view.model, view.release))?;
    output::line(format_args!(
        "{}: {}",
        view.code.map_or_else(String::new, code_word),
        view.message.unwrap_or_default()
    ))?;
    for line in &view.history {
        output::line(format_args!("{}  {:<10} {}", line.at, line.status, line.reason))?;
    }
    match (view.resolved_at, view.replayed_as) {
        (Some(at), Some(replay)) => output::line(format_args!("replayed as {replay} at {at}"))?,
        (Some(at), None) => output::line(format_args!("discarded at {at}"))?,
        (None, _) => output::line("nobody has decided about it")?,
    }
    Ok(())
}
