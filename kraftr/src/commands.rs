//! One file for each command.

pub mod admin;
pub mod bench;
pub mod config;
pub mod demo;
pub mod dev;
pub mod model;
pub mod render;
pub mod scheduler;
pub mod verify;
pub mod watermark;
pub mod worker;

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kraftr_imaging::{Encoding, ImagingError, Limits, Pixels, RgbImage};
use kraftr_models::Registry;
use kraftr_protocol::limits::{
    ASSET_ASPECT_MAX, ASSET_BYTES_MAX, ASSET_PIXELS_MAX, ASSET_SIDE_MAX, ASSET_SIDE_MIN,
};
use kraftr_protocol::manifest::Task;
use kraftr_protocol::{Format, ReleaseManifest};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::data_dir::write_atomically;

/// What a picture may be: the same that may be uploaded.
const PICTURE: Limits = Limits {
    bytes_max: ASSET_BYTES_MAX,
    side_min: ASSET_SIDE_MIN,
    side_max: ASSET_SIDE_MAX,
    pixels_max: ASSET_PIXELS_MAX,
    aspect_max: ASSET_ASPECT_MAX,
};

/// How a command ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// It looked, and found what must not be.
    FoundFault,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::FoundFault => Self::FAILURE,
        }
    }
}

/// What is logged unless the user says otherwise: a server tells what it does, a command only what is wrong.
/// Nothing for those whose whole configuration says it.
pub const fn default_log(command: &Command) -> Option<&'static str> {
    match command {
        Command::Scheduler(_) | Command::Worker(_) => None,
        Command::Dev(_) => Some("info"),
        _ => Some("warn"),
    }
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Scheduler(args) => block_on(scheduler::run(args, cli.log)),
        Command::Worker(args) => block_on(worker::run(args, cli.log)),
        Command::Config(args) => config::run(args),
        Command::Render(args) => render::run(&args),
        Command::Model(args) => block_on(model::run(args)),
        Command::Admin(args) => block_on(admin::run(args)),
        Command::Watermark(command) => watermark::run(command),
        Command::Verify(args) => block_on(verify::run(args)),
        Command::Bench(command) => block_on(bench::run(command)),
    }
}

fn block_on(command: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?.block_on(command)
}

/// Cancelled when the process is asked to stop, from now on. Asked a second time, the process ends at once.
fn stop_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut asked = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let stop = CancellationToken::new();
    let heard = stop.clone();
    tokio::spawn(async move {
        asked().await;
        heard.cancel();
        asked().await;
        std::process::exit(130);
    });
    Ok(stop)
}

/// A ready file: what a waiting script reads once the server is up. It is gone again when this is dropped.
struct ReadyFile<'a> {
    path: Option<&'a Path>,
}

impl<'a> ReadyFile<'a> {
    /// Takes away what an earlier start wrote there: it would tell a waiting script the wrong thing.
    fn at(path: Option<&'a Path>) -> Result<Self> {
        let file = Self { path };
        file.remove()?;
        Ok(file)
    }

    /// Says that it is up.
    fn write(&self, ready: &impl Serialize) -> Result<()> {
        if let Some(path) = self.path {
            write_atomically(path, &serde_json::to_vec(ready)?)?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        match self.path.map(|path| (path, std::fs::remove_file(path))) {
            Some((path, Err(error))) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for ReadyFile<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!("{error:#}");
        }
    }
}

/// Reads a picture.
fn read_picture(path: &Path) -> Result<RgbImage> {
    decode(&read_file(path)?).with_context(|| path.display().to_string())
}

/// Reads a picture with its transparency.
fn read_transparent(path: &Path) -> Result<Pixels> {
    kraftr_imaging::decode_transparent(&read_file(path)?, &PICTURE)
        .with_context(|| path.display().to_string())
}

/// Decodes a picture.
fn decode(bytes: &[u8]) -> Result<RgbImage, ImagingError> {
    kraftr_imaging::decode(bytes, &PICTURE).map(|decoded| decoded.image)
}

/// Reads a file that must not be larger than an upload may be.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(failed)?.len();
    if length > ASSET_BYTES_MAX as u64 {
        bail!("{} has {length} bytes; a picture may have {ASSET_BYTES_MAX}", path.display());
    }
    std::fs::read(path).with_context(failed)
}

/// The release that is used when none is named: the first that puts clothes on people.
fn default_release(registry: &Registry) -> Option<&ReleaseManifest> {
    registry.manifests().find(|manifest| manifest.task == Task::TryOn)
}

/// Manifests as the catalog takes them: scenes are left out of those whose painter cannot work here, and the log says why.
pub(crate) fn offered<'a>(
    registry: &Registry,
    manifests: impl Iterator<Item = &'a ReleaseManifest>,
) -> Vec<ReleaseManifest> {
    let offer = |manifest: &ReleaseManifest| {
        let mut manifest = manifest.clone();
        if let Err(error) = registry.painter(&manifest) {
            tracing::warn!(release = manifest.name, %error, "offers no scenes");
            manifest.scene = None;
        }
        readable(registry, manifest)
    };
    manifests.map(offer).collect()
}

/// The manifest with the garment photos alone that can be read here.
pub(crate) fn readable(registry: &Registry, mut manifest: ReleaseManifest) -> ReleaseManifest {
    let photos = registry.garment_photos(&manifest);
    if photos != manifest.garment_photos {
        tracing::warn!(
            release = manifest.name,
            "takes no garments that somebody wears: the network that tells clothes from skin is missing"
        );
    }
    manifest.garment_photos = photos;
    manifest
}

/// The format that a file name's ending asks for.
fn format_of(path: &Path) -> Result<Format> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
    match ending.as_str() {
        "png" => Ok(Format::Png),
        "jpg" | "jpeg" => Ok(Format::Jpeg),
        "webp" => Ok(Format::Webp),
        _ => bail!("{}: the name must end in .png, .jpg or .webp", path.display()),
    }
}

/// How a file of that format is encoded.
const fn encoding(format: Format) -> Encoding {
    match format {
        Format::Png => Encoding::Png,
        Format::Jpeg => Encoding::Jpeg { quality: 92 },
        Format::Webp => Encoding::Webp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_names_the_format() {
        assert_eq!(format_of(Path::new("a/b.PNG")).unwrap(), Format::Png);
        assert_eq!(format_of(Path::new("b.jpeg")).unwrap(), Format::Jpeg);
        assert_eq!(format_of(Path::new("b.webp")).unwrap(), Format::Webp);
        for name in ["b", "b.gif", ".png", ""] {
            assert!(format_of(Path::new(name)).is_err(), "{name}");
        }
    }
}
