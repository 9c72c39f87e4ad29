//! `kraftr dev`: the fleet as a server over data that outlive it.

use std::path::Display;

use anyhow::{Context, Result};
use kraftr_models::{Registry, bundled};
use kraftr_protocol::{Credits, OrgId};
use serde::Serialize;

use crate::cli::DevArgs;
use crate::commands::{Outcome, ReadyFile, default_release, stop_signal};
use crate::config::concerns::Models;
use crate::data_dir::{DataDir, write_atomically};
use crate::fleet::{Fleet, FleetConfig};
use crate::output;

/// The org that the first start makes.
const ORG_NAME: &str = "dev";
/// What it gets.
const WELCOME: Credits = Credits(1_000);
/// Its presence says that a key has been shown, so that no later start makes another.
const KEY_SHOWN: &str = "first-key-shown";

#[derive(Serialize)]
struct Ready<'a> {
    url: &'a str,
    api_key: Option<&'a str>,
}

/// Runs the server until it is asked to stop.
pub async fn run(args: DevArgs) -> Result<Outcome> {
    let ready_file = ReadyFile::at(args.ready_file.as_deref())?;
    let stop = stop_signal()?;
    let data_dir = DataDir::create(&args.data_dir)?;
    let models = Models::load(&args.flags.sources())?;
    let config =
        FleetConfig { listen: args.listen, allow_private_webhooks: args.allow_private_webhooks, models };
    let mut fleet = Fleet::start(data_dir.clone(), config).await?;
    let key = first_key(&fleet, &data_dir).await?;
    write_samples(&data_dir)?;

    print_welcome(&fleet, &data_dir, key.as_deref())?;
    ready_file.write(&Ready { url: fleet.url(), api_key: key.as_deref() })?;
    if key.is_some() {
        write_atomically(&data_dir.path().join(KEY_SHOWN), b"")?;
    }

    tokio::select! {
        ended = fleet.ended() => ended.context("the fleet ended by itself")?,
        () = stop.cancelled() => {}
    }
    tracing::info!("stopping: running renders finish or go back to the queue");
    fleet.stop().await?;
    Ok(Outcome::Done)
}

/// The secret of a new key, unless one has been shown before. Killed at any point before the key
/// was shown, the next start does what is missing: grants are idempotent by their reference, and a key
/// that nobody saw is replaced by another.
async fn first_key(fleet: &Fleet, data_dir: &DataDir) -> Result<Option<String>> {
    if data_dir.path().join(KEY_SHOWN).exists() {
        return Ok(None);
    }
    let org = match find_org(fleet).await? {
        Some(org) => org,
        None => fleet.store().create_org(ORG_NAME).await?.id,
    };
    fleet.store().grant(org, WELCOME, "welcome").await?;
    let (_, secret) = fleet.create_key(org, "made by the first start").await?;
    Ok(Some(secret))
}

async fn find_org(fleet: &Fleet) -> Result<Option<OrgId>> {
    let orgs = fleet.store().orgs().await?;
    Ok(orgs.into_iter().find(|org| org.name == ORG_NAME).map(|org| org.id))
}

/// Puts the sample pictures where the printed commands expect them.
fn write_samples(data_dir: &DataDir) -> Result<()> {
    write_atomically(&data_dir.path().join("person.png"), bundled::SAMPLE_PERSON)?;
    write_atomically(&data_dir.path().join("garment.png"), bundled::SAMPLE_GARMENT)?;
    Ok(())
}

fn print_welcome(fleet: &Fleet, data_dir: &DataDir, key: Option<&str>) -> Result<()> {
    let (url, path) = (fleet.url(), data_dir.path().display());
    // By its path: it need not be installed to be called from another terminal.
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let program = program.display();
    output::line(format_args!("Kraftr serves on {url} and keeps everything in {path}"))?;
    match key {
        Some(key) => output::line(format_args!("API key, shown this once: {key}"))?,
        None => {
            output::line(format_args!("A new API key: '{program}' admin --data-dir '{path}' key create"))?;
        }
    }
    output::line(format_args!("API reference: {url}/docs\n"))?;
    output::line(shell_commands(url, &path, &program, key.unwrap_or("krf_YOUR_KEY"))?)?;
    Ok(())
}

/// The demo's steps for a shell, to paste as they are.
fn shell_commands(url: &str, path: &Display<'_>, program: &Display<'_>, key: &str) -> Result<String> {
    let registry = Registry::bundled();
    let model = &default_release(&registry).context("no release puts clothes on people")?.name;
    let category = bundled::SAMPLE_CATEGORY;
    Ok(format!(
        r#"# Paste this into a shell: the settings first
URL={url} AUTH="Authorization: Bearer {key}"
id_of() {{ sed -E "s/.*\"id\": ?\"($1_[^\"]+)\".*/\1/"; }}

# 1. upload a person and a garment
PERSON=$(curl -sS -H "$AUTH" -F file=@'{path}/person.png' $URL/v1/assets | id_of ast)
GARMENT=$(curl -sS -H "$AUTH" -F file=@'{path}/garment.png' $URL/v1/assets | id_of ast)

# 2. render; the Idempotency-Key makes it safe to send again
RENDER=$(curl -sS -H "$AUTH" -H "Idempotency-Key: first" -H "Content-Type: application/json" \
  -d '{{"model":"{model}","person":"'$PERSON'","garment":"'$GARMENT'","category":"{category}"}}' \
  $URL/v1/renders | id_of rnd)

# 3. watch it; previews are long lines
curl -sSN -H "$AUTH" $URL/v1/renders/$RENDER/events | cut -c1-100

# 4. download the picture
ARTIFACT=$(curl -sS -H "$AUTH" $URL/v1/renders/$RENDER | id_of art)
curl -sSL -H "$AUTH" -o result.png $URL/v1/artifacts/$ARTIFACT

# 5. is it marked, and what did it cost?
'{program}' watermark detect result.png
curl -sS -H "$AUTH" $URL/v1/ledger; echo
curl -sS -H "$AUTH" $URL/v1/balance; echo"#
    ))
}
