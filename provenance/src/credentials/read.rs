//! The manifest of any picture, judged.

use std::io::Cursor;
use std::panic::{self, AssertUnwindSafe};

use c2pa::jumbf_io::load_jumbf_from_memory;
use c2pa::{Context, Manifest, Reader, Settings, ValidationState};
use kraftr_imaging::SourceFormat;
use serde_json::Value;

use super::store::is_whole;
use super::{Anchors, DEVELOPMENT, GENERATOR, RENDER, SOFT_BINDING};

/// Problems that are named.
const PROBLEMS_MAX: usize = 16;
/// Characters of a text that a stranger's manifest may bring along.
const CHARS_MAX: usize = 128;
/// Megabytes that a compressed manifest may unfold to.
pub(super) const UNFOLDED_MAX: u32 = 16;

/// What a manifest is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is none.
    Absent,
    /// It is damaged, does not fit the picture, or breaks a rule: nothing it says counts.
    Invalid,
    /// It fits the picture and its signature holds; who signed is unknown.
    Valid,
    /// It is valid, and its signer's certificate leads to an anchor.
    Trusted,
}

/// What a picture's manifest says, and what that is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it is worth.
    pub status: Status,
    /// Whether its certificate says that it is for development.
    pub development: bool,
    /// C2PA's codes of what is wrong, `signingCredential.untrusted` among them.
    pub problems: Vec<String>,
    /// The organisation in the signer's certificate.
    pub signer: Option<String>,
    /// What made the claim.
    pub generator: Option<String>,
    /// The model's release, where Kraftr made the claim.
    pub release: Option<String>,
    /// When it was made, where Kraftr made the claim.
    pub made_at: Option<String>,
    /// The payload of the watermark that the manifest is bound to.
    pub reference: Option<[u8; 8]>,
}

impl Reading {
    fn of(status: Status, problems: Vec<String>) -> Self {
        Self {
            status,
            development: false,
            problems,
            signer: None,
            generator: None,
            release: None,
            made_at: None,
            reference: None,
        }
    }

    /// Whether it holds and says that Kraftr made the picture. Unless it is [`Status::Trusted`] anybody may have said so.
    pub fn is_ours(&self) -> bool {
        matches!(self.status, Status::Valid | Status::Trusted) && self.generator.as_deref() == Some(GENERATOR)
    }
}

/// Reads the manifest in a file. Whatever the bytes are there is a reading, and nothing is fetched.
pub fn read(bytes: &[u8], format: SourceFormat, anchors: &Anchors) -> Reading {
    // Nothing of the reader outlives its panic.
    let judged = panic::catch_unwind(AssertUnwindSafe(|| judge(bytes, format.content_type(), anchors)));
    judged.unwrap_or_else(|_| Reading::of(Status::Invalid, vec!["unreadable".to_owned()]))
}

fn judge(bytes: &[u8], format: &str, anchors: &Anchors) -> Reading {
    // Where there is no store, the reader says why.
    if let Ok(store) = load_jumbf_from_memory(format, bytes)
        && !is_whole(&store)
    {
        return Reading::of(Status::Invalid, vec!["unreadable".to_owned()]);
    }
    let reader = settings(anchors)
        .and_then(|settings| Context::new().with_settings(settings))
        .and_then(|context| Reader::from_context(context).with_stream(format, Cursor::new(bytes)));
    match reader {
        Ok(reader) => reading(&reader),
        Err(c2pa::Error::JumbfNotFound) => Reading::of(Status::Absent, Vec::new()),
        // A manifest that lies elsewhere is none that is here.
        Err(c2pa::Error::RemoteManifestUrl(_) | c2pa::Error::RemoteManifestFetch(_)) => {
            Reading::of(Status::Absent, vec!["remote".to_owned()])
        }
        Err(_) => Reading::of(Status::Invalid, vec!["unreadable".to_owned()]),
    }
}

fn settings(anchors: &Anchors) -> c2pa::Result<Settings> {
    let settings = Settings::new()
        .with_value("verify.remote_manifest_fetch", false)?
        .with_value("verify.ocsp_fetch", false)?
        .with_value("core.max_decompressed_manifest_size_in_mb", i64::from(UNFOLDED_MAX))?;
    match anchors.pem() {
        Some(pem) => settings.with_value("trust.trust_anchors", pem),
        None => Ok(settings),
    }
}

fn reading(reader: &Reader) -> Reading {
    let status = match reader.validation_state() {
        ValidationState::Trusted => Status::Trusted,
        ValidationState::Valid => Status::Valid,
        ValidationState::Invalid => Status::Invalid,
    };
    let mut problems: Vec<String> = Vec::new();
    for problem in reader.validation_status().unwrap_or_default() {
        let code = bounded(problem.code());
        if problems.len() < PROBLEMS_MAX && !problems.contains(&code) {
            problems.push(code);
        }
    }
    let mut reading = Reading::of(status, problems);
    let Some(manifest) = reader.active_manifest() else {
        reading.status = Status::Invalid;
        return reading;
    };
    reading.signer = manifest.issuer().as_deref().map(bounded);
    reading.development = reading.signer.as_deref() == Some(DEVELOPMENT);
    reading.generator =
        manifest.claim_generator_info.as_ref().and_then(|info| info.first()).map(|info| bounded(&info.name));
    if reading.generator.as_deref() == Some(GENERATOR) {
        let render = assertion(manifest, RENDER);
        let text = |name: &str| render.as_ref()?.get(name)?.as_str().map(bounded);
        (reading.release, reading.made_at) = (text("release"), text("made_at"));
        reading.reference = assertion(manifest, "c2pa.soft-binding").as_ref().and_then(reference);
    }
    reading
}

fn assertion(manifest: &Manifest, label: &str) -> Option<Value> {
    manifest.find_assertion(label).ok()
}

fn reference(binding: &Value) -> Option<[u8; 8]> {
    if binding.get("alg")?.as_str()? != SOFT_BINDING {
        return None;
    }
    let mut payload = [0; 8];
    hex::decode_to_slice(binding.get("blocks")?.get(0)?.get("value")?.as_str()?, &mut payload).ok()?;
    Some(payload)
}

/// A stranger's text, cut to what is shown and without what terminals act on.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}
