//! `kraftr demo`: the whole path once, as a program outside would walk it, over HTTP.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kraftr_imaging::{Encoding, RgbImage};
use kraftr_models::bundled;
use kraftr_protocol::{Category, Credits, OrgId, RenderId, Status, WatermarkRef};
use kraftr_provenance::{KeyRing, detect};

use crate::cli::DemoArgs;
use crate::client::{Balance, Client, Happening, Render, RenderRequest};
use crate::commands::{Outcome, decode, read_file, stop_signal};
use crate::config::concerns::Models;
use crate::data_dir::{DataDir, write_atomically};
use crate::fleet::{Fleet, FleetConfig};
use crate::output::{self, Progress};

/// What the demo's org gets.
const WELCOME: Credits = Credits(100);

/// The pictures that the demo works with.
struct Inputs {
    person: Picture,
    garment: Picture,
    category: Category,
    /// True when one of them is the caller's.
    foreign: bool,
}

/// A file and what it shows.
struct Picture {
    bytes: Vec<u8>,
    image: RgbImage,
}

/// Runs the demo, and keeps serving when that was asked for.
pub async fn run(args: DemoArgs) -> Result<Outcome> {
    let inputs = read_inputs(&args)?;
    let data_dir = match &args.data_dir {
        Some(path) => DataDir::create(path)?,
        None => DataDir::create(&fresh_directory()?)?,
    };
    let config = FleetConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        allow_private_webhooks: false,
        models: Models::bundled(),
    };
    let mut fleet = Fleet::start(data_dir.clone(), config).await?;

    let org = fleet.create_org("demo", WELCOME).await?;
    let (_, key) = fleet.create_key(org, "demo").await?;
    let shown = show(&fleet, org, &key, &inputs, &data_dir).await;
    if shown.is_ok() && args.serve {
        output::line(format_args!("serving on {} with API key {key} until Ctrl-C", fleet.url()))?;
        let stop = stop_signal()?;
        tokio::select! {
            ended = fleet.ended() => ended.context("the fleet ended by itself")?,
            () = stop.cancelled() => {}
        }
    }
    fleet.stop().await?;
    shown.map(|()| Outcome::Done)
}

/// Reads and checks the pictures before anything is started.
fn read_inputs(args: &DemoArgs) -> Result<Inputs> {
    let read = |path: &Option<PathBuf>, sample: &[u8]| -> Result<Picture> {
        let (bytes, name) = match path {
            Some(path) => (read_file(path)?, path.display().to_string()),
            None => (sample.to_vec(), "the bundled sample".to_owned()),
        };
        let image = decode(&bytes).context(name)?;
        Ok(Picture { bytes, image })
    };
    Ok(Inputs {
        person: read(&args.person, bundled::SAMPLE_PERSON)?,
        garment: read(&args.garment, bundled::SAMPLE_GARMENT)?,
        category: args.category.unwrap_or(bundled::SAMPLE_CATEGORY),
        foreign: args.person.is_some() || args.garment.is_some(),
    })
}

/// A directory of its own that stays when the program ends: the pictures are the point.
fn fresh_directory() -> Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix("kraftr-demo-").tempdir();
    Ok(directory.context("cannot make a temporary directory")?.keep())
}

async fn show(fleet: &Fleet, org: OrgId, key: &str, inputs: &Inputs, data_dir: &DataDir) -> Result<()> {
    let client = Client::new(fleet.url(), key)?;
    let model = client.models().await?.into_iter().next().context("the server offers no model")?;
    if let Some(caution) = model.caution.filter(|_| inputs.foreign) {
        output::note(format_args!("note: {}: {caution}", model.id))?;
    }

    let person = client.upload("person", inputs.person.bytes.clone()).await?;
    let garment = client.upload("garment", inputs.garment.bytes.clone()).await?;
    output::line(format_args!("uploaded   person {person}, garment {garment}"))?;
    let request = RenderRequest { model: &model.id, person, garment, category: inputs.category };
    let render = client.submit(&request, &format!("demo-{person}-{garment}")).await?;
    output::line(format_args!("submitted  {} on {}", render.id, render.release))?;

    let render = follow(&client, render.id).await?;
    let artifact = render.artifacts.first().context("the render succeeded without a picture")?;
    let picture = client.download(artifact.id).await?;
    let result = data_dir.path().join("result.png");
    write_atomically(&result, &picture)?;

    let image = decode(&picture).context("the downloaded picture")?;
    verify_watermark(fleet, org, render.id, &image).await?;
    print_ledger(&client).await?;
    let sheet = data_dir.path().join("sheet.png");
    write_sheet(&sheet, inputs, &image)?;
    output::line(format_args!("picture    {}", result.display()))?;
    output::line(format_args!("sheet      {} (person | garment | result)", sheet.display()))?;
    Ok(())
}

/// Waits for the end of the render behind a progress display.
async fn follow(client: &Client, id: RenderId) -> Result<Render> {
    let mut progress = Progress::new("rendering");
    let watched = client
        .watch(id, |happening| match happening {
            Happening::State(status) => progress.stage(status.as_str()),
            Happening::Step { step, steps } => progress.step(step, steps),
        })
        .await;
    progress.finish();
    watched?;
    let render = client.render(id).await?;
    if render.status != Status::Succeeded {
        let why = render.error.map_or_else(String::new, |failure| format!(": {}", failure.message));
        bail!("{id} ended as {}{why}", render.status.as_str());
    }
    if let (Some(started), Some(finished)) = (render.started_at, render.finished_at) {
        let seconds = finished.since(started).as_secs_f64();
        output::line(format_args!("rendered   in {seconds:.1} s, from claim to capture"))?;
    }
    Ok(render)
}

/// The mark must be there, and must be the one that the scheduler gave this render.
async fn verify_watermark(fleet: &Fleet, org: OrgId, id: RenderId, picture: &RgbImage) -> Result<()> {
    let expected = fleet.store().render(org, id).await?.context("the render is gone")?.watermark;
    let detection = detect(picture, &KeyRing::development());
    match detection.payload.map(WatermarkRef) {
        Some(payload) if payload == expected => {
            output::line(format_args!("watermark  found, {payload} belongs to {id}"))?;
            Ok(())
        }
        Some(payload) => bail!("the picture carries the watermark {payload} instead of {expected}"),
        None => bail!("the picture carries no watermark"),
    }
}

/// Prints the ledger, oldest line first, with what each line left.
async fn print_ledger(client: &Client) -> Result<()> {
    let mut entries = client.ledger().await?;
    entries.reverse();
    for entry in entries {
        let available = entry.posted_after.0 - entry.held_after.0;
        let render = entry.render.map_or_else(String::new, |render| format!("  {render}"));
        let (kind, amount) = (entry.kind, entry.amount);
        output::line(format_args!("ledger     {kind:<8}{amount:>4}  {available:>4} available{render}"))?;
    }
    let Balance { posted, held, available } = client.balance().await?;
    output::line(format_args!("balance    {posted} posted, {held} held, {available} available"))?;
    Ok(())
}

/// Person, garment and result side by side.
fn write_sheet(path: &Path, inputs: &Inputs, result: &RgbImage) -> Result<()> {
    let pictures = [&inputs.person.image, &inputs.garment.image, result];
    let sheet = kraftr_imaging::contact_sheet(&pictures, result.height())?;
    write_atomically(path, &kraftr_imaging::encode(&sheet, Encoding::Png)?)?;
    Ok(())
}
