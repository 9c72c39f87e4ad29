//! What a picture says about where it comes from.

use kraftr_imaging::{ImagingError, Limits, decode};

use crate::credentials::{Anchors, Reading, read};
use crate::{KeyRing, detect};

/// What is made of the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It carries our mark, and the mark's reference is known here.
    Kraftr,
    /// It carries our mark; nobody looked the reference up.
    Marked,
    /// It carries a mark of one of our keys, and the reference is not known here.
    UnknownReference,
    /// It carries no mark that can be read, and a manifest that holds says that Kraftr made it.
    CredentialsOnly,
    /// Nothing says that it comes from Kraftr, which does not say that it does not.
    NotFound,
}

/// What the pixels say.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The payload of the mark, where there is one.
    pub payload: Option<[u8; 8]>,
    /// How well it agrees with the pixels, as [`detect`] tells.
    pub score: f64,
    /// The name of its key.
    pub key: Option<String>,
    /// How probable it is at most that a picture without a mark is taken for one that has it.
    pub false_positive_bound: f64,
}

/// What a file says, each by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// What the pixels say.
    pub mark: Mark,
    /// What the manifest in the file says.
    pub credentials: Reading,
}

impl Evidence {
    /// What is made of it, when `known` says whether the mark's reference was found; `None` where nobody looked.
    pub fn verdict(&self, known: Option<bool>) -> Verdict {
        match (self.mark.payload, known) {
            (Some(_), Some(true)) => Verdict::Kraftr,
            (Some(_), Some(false)) => Verdict::UnknownReference,
            (Some(_), None) => Verdict::Marked,
            (None, _) if self.credentials.is_ours() => Verdict::CredentialsOnly,
            (None, _) => Verdict::NotFound,
        }
    }
}

/// Looks for the mark and the manifest of a foreign file.
pub fn examine(
    bytes: &[u8],
    limits: &Limits,
    keys: &KeyRing,
    anchors: &Anchors,
) -> Result<Evidence, ImagingError> {
    let decoded = decode(bytes, limits)?;
    let found = detect(&decoded.image, keys);
    let mark = Mark {
        payload: found.payload,
        score: found.score,
        key: found.key,
        false_positive_bound: found.bound,
    };
    Ok(Evidence { mark, credentials: read(bytes, decoded.format, anchors) })
}
