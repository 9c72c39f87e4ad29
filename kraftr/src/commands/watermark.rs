//! `kraftr watermark`: reads and writes the mark of one picture.

use std::path::Path;

use anyhow::Result;
use kraftr_imaging::{Encoding, Pixels};
use kraftr_protocol::WatermarkRef;
use kraftr_provenance::{Key, KeyRing, Marked, detect};
use serde::Serialize;

use crate::cli::WatermarkCommand;
use crate::commands::{Outcome, encoding, format_of, read_picture, read_transparent};
use crate::config::WatermarkConfig;
use crate::config::sources::{Flags, ForWatermark};
use crate::data_dir::write_atomically;
use crate::{output, provenance};

/// What `detect` prints.
#[derive(Serialize)]
struct Report {
    found: bool,
    payload: Option<WatermarkRef>,
    score: f64,
    key: Option<String>,
    bound: f64,
}

/// Runs the command.
pub fn run(command: WatermarkCommand) -> Result<Outcome> {
    match command {
        WatermarkCommand::Detect { picture, flags } => {
            let detection = detect(&read_picture(&picture)?, &keys(&flags)?);
            output::json(&Report {
                found: detection.found,
                payload: detection.payload.map(WatermarkRef),
                score: detection.score,
                key: detection.key,
                bound: detection.bound,
            })?;
        }
        WatermarkCommand::Embed { payload, picture, out, flags } => {
            let encoding = encoding(format_of(&out)?);
            let marked = seal(&picture, payload, keys(&flags)?.first(), encoding)?;
            write_atomically(&out, marked.bytes())?;
        }
    }
    Ok(Outcome::Done)
}

/// The marked picture, with its transparency where `encoding` has any.
fn seal(path: &Path, payload: WatermarkRef, key: &Key, encoding: Encoding) -> Result<Marked> {
    Ok(match (read_transparent(path)?, encoding) {
        (Pixels::Transparent(image), Encoding::Png | Encoding::Webp) => {
            Marked::seal_transparent(&image, payload.0, key, encoding)?
        }
        (pixels, _) => Marked::seal(&pixels.over_white(), payload.0, key, encoding)?,
    })
}

/// The configured keys, or the development key and a warning.
fn keys(flags: &Flags<ForWatermark>) -> Result<KeyRing> {
    let config = WatermarkConfig::load(&flags.sources())?;
    if config.watermark.keys.is_none() {
        output::note(
            "warning: watermark.keys is not set: this is the development key, which anybody can read and forge",
        )?;
    }
    Ok(provenance::keys(&config.watermark))
}
