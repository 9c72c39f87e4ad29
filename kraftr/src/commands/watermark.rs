//! `kraftr watermark`: reads and writes the mark of one picture.

use anyhow::Result;
use kraftr_protocol::WatermarkRef;
use kraftr_provenance::{Key, KeyRing, Marked, detect};
use serde::Serialize;

use crate::cli::WatermarkCommand;
use crate::commands::{Outcome, encoding, format_of, read_picture};
use crate::data_dir::write_atomically;
use crate::output;

/// What `detect` prints.
#[derive(Serialize)]
struct Report {
    found: bool,
    payload: Option<WatermarkRef>,
    score: f64,
    key: Option<String>,
}

/// Runs the command.
pub fn run(command: WatermarkCommand) -> Result<Outcome> {
    match command {
        WatermarkCommand::Detect { picture } => {
            let detection = detect(&read_picture(&picture)?, &KeyRing::development());
            output::json(&Report {
                found: detection.found,
                payload: detection.payload.map(WatermarkRef),
                score: detection.score,
                key: detection.key,
            })?;
        }
        WatermarkCommand::Embed { payload, picture, out } => {
            let encoding = encoding(format_of(&out)?);
            let marked = Marked::seal(&read_picture(&picture)?, payload.0, &Key::development(), encoding)?;
            write_atomically(&out, marked.bytes())?;
            output::note("note: marked with the development key, which anybody can read and forge")?;
        }
    }
    Ok(Outcome::Done)
}
