//! Manifests into marked pictures.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use c2pa::{Builder, Context, Settings, SigningAlg};
use kraftr_imaging::{Encoding, ImagingError, Limits, decode};
use serde_json::{Value, json};

use super::{Chain, GENERATOR, RENDER, SOFT_BINDING, Signature};
use crate::Marked;

/// Bytes kept free for the signature and its headers beside the certificates.
const SIGNATURE_BYTES: usize = 1_024;
/// Pictures of which a model painted what a camera did not see (IPTC).
const SOURCE_TYPE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";

/// A picture that the render was made from: its hash, never its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input<'a> {
    /// What it shows: `person`, `garment`.
    pub role: &'a str,
    /// Its media type.
    pub content_type: &'a str,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

/// What a manifest says beside what the picture itself says. Nothing of it names a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Version of the software.
    pub version: &'a str,
    /// The model's release.
    pub release: &'a str,
    /// The release that painted the scene.
    pub scene_release: Option<&'a str>,
    /// When it was made, as in RFC 3339.
    pub made_at: &'a str,
    /// What it was made from.
    pub inputs: &'a [Input<'a>],
}

/// Why a picture got no manifest; `E` is why it was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError<E> {
    /// There is no signature.
    #[error("there is no signature: {0}")]
    Refused(E),
    /// The manifest could not be written.
    #[error("the manifest could not be written: {0}")]
    Manifest(String),
    /// The picture with its manifest cannot be decoded.
    #[error("the picture with its manifest cannot be read: {0}")]
    Imaging(#[from] ImagingError),
    /// The manifest changed the picture.
    #[error("the manifest changed the picture's pixels")]
    Changed,
}

/// The bytes of a picture that carries its mark and its manifest: the only thing that may be delivered.
///
/// It is made by [`Marked::sign`] alone, and [`Marked`] by marking:
///
/// ```compile_fail,E0451
/// use kraftr_provenance::Marked;
/// use kraftr_provenance::credentials::Signed;
///
/// fn skip_the_manifest(marked: Marked) -> Signed {
///     Signed { marked }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    marked: Marked,
}

impl Signed {
    /// The encoded picture.
    pub fn bytes(&self) -> &[u8] {
        self.marked.bytes()
    }

    /// The encoded picture.
    pub fn into_bytes(self) -> Vec<u8> {
        self.marked.into_bytes()
    }

    /// Pixels across.
    pub const fn width(&self) -> u32 {
        self.marked.width()
    }

    /// Pixels down.
    pub const fn height(&self) -> u32 {
        self.marked.height()
    }

    /// How it is encoded.
    pub const fn encoding(&self) -> Encoding {
        self.marked.encoding()
    }
}

impl Marked {
    /// Writes a manifest into the file, bound to it by its hash and to its pixels by the mark. `sign` gets the bytes to
    /// sign, a claim that [`check_claim`](super::check_claim) accepts, and returns the signature of `chain`'s leaf. The
    /// pixels stay as they are, which is checked.
    pub fn sign<E>(
        self,
        facts: &Facts<'_>,
        chain: &Chain,
        sign: impl Fn(&[u8]) -> Result<Signature, E>,
    ) -> Result<Signed, SignError<E>> {
        let failed = |error: c2pa::Error| SignError::Manifest(error.to_string());
        let format = self.encoding().content_type();
        let context = Context::new().with_settings(Settings::new()).map_err(failed)?;
        let definition = definition(facts, format, self.payload()).to_string();
        let mut builder =
            Builder::from_context(context).with_definition(definition.as_str()).map_err(failed)?;
        let asking = Asking { chain, sign, refused: Mutex::new(None) };
        let mut file = Cursor::new(Vec::with_capacity(self.bytes().len() + 32 * 1024));
        let written = builder.sign(&asking, format, &mut Cursor::new(self.bytes()), &mut file);
        if let Some(refused) = asking.refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(SignError::Refused(refused));
        }
        written.map_err(failed)?;
        let file = file.into_inner();
        let pixels = |bytes: &[u8]| decode(bytes, &Limits::exactly(self.width(), self.height(), bytes.len()));
        if pixels(self.bytes())?.image != pixels(&file)?.image {
            return Err(SignError::Changed);
        }
        Ok(Signed { marked: self.with_bytes(file) })
    }
}

fn definition(facts: &Facts<'_>, format: &str, payload: [u8; 8]) -> Value {
    let numbered =
        facts.release.rsplit_once('-').filter(|(_, end)| end.starts_with(|c: char| c.is_ascii_digit()));
    let agent = match numbered {
        Some((name, version)) => json!({ "name": name, "version": version }),
        None => json!({ "name": facts.release }),
    };
    let roles: Vec<&str> = facts.inputs.iter().map(|input| input.role).collect();
    let ingredients: Vec<Value> = facts
        .inputs
        .iter()
        .map(|input| {
            json!({
                "label": input.role, "title": input.role, "format": input.content_type, "relationship": "inputTo",
                "instance_id": format!("urn:sha256:{}", hex::encode(input.sha256)),
            })
        })
        .collect();
    let inputs: Vec<Value> = facts
        .inputs
        .iter()
        .map(|input| json!({ "role": input.role, "alg": "sha256", "hash": hex::encode(input.sha256) }))
        .collect();
    let mut render = json!({ "release": facts.release, "inputs": inputs, "made_at": facts.made_at });
    if let Some(scene) = facts.scene_release {
        render["scene_release"] = json!(scene);
    }
    json!({
        "claim_version": 2,
        "claim_generator_info": [{ "name": GENERATOR, "version": facts.version }],
        "format": format,
        "ingredients": ingredients,
        "assertions": [
            { "label": "c2pa.actions", "created": true, "data": { "actions": [
                { "action": "c2pa.created", "when": facts.made_at, "digitalSourceType": SOURCE_TYPE,
                    "softwareAgent": agent, "parameters": { "ingredientIds": roles } },
                { "action": "c2pa.watermarked.bound", "when": facts.made_at },
            ] } },
            { "label": "c2pa.soft-binding", "created": true, "data": {
                "alg": SOFT_BINDING, "blocks": [{ "scope": {}, "value": hex::encode(payload) }], "pad": [],
            } },
            { "label": RENDER, "created": true, "data": render },
        ],
    })
}

/// A signer that has no key: it asks.
struct Asking<'a, E, F> {
    chain: &'a Chain,
    sign: F,
    /// Why there is no signature, past the library's own errors.
    refused: Mutex<Option<E>>,
}

impl<E, F: Fn(&[u8]) -> Result<Signature, E>> c2pa::Signer for Asking<'_, E, F> {
    fn sign(&self, message: &[u8]) -> c2pa::Result<Vec<u8>> {
        match (self.sign)(message) {
            Ok(signature) => Ok(signature.0.to_vec()),
            Err(error) => {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(c2pa::Error::CoseSignature)
            }
        }
    }

    fn alg(&self) -> SigningAlg {
        SigningAlg::Es256
    }

    fn certs(&self) -> c2pa::Result<Vec<Vec<u8>>> {
        Ok(self.chain.certificates().to_vec())
    }

    fn reserve_size(&self) -> usize {
        SIGNATURE_BYTES + self.chain.certificates().iter().map(|der| der.len() + 16).sum::<usize>()
    }
}
