//! What a signature is asked for: a COSE `Sig_structure` (RFC 9052, section 4.4) around a claim of ours.

use ciborium::Value;

use super::{Chain, GENERATOR, RENDER};

/// Bytes of what may be asked to be signed; ours are about 3,000 and the chain.
const BYTES_MAX: usize = 32 * 1024;
/// COSE header parameters (RFC 9052 and RFC 9360): algorithm, certificate chain; ES256.
const ALG: i64 = 1;
const X5CHAIN: i64 = 33;
const ES256: i64 = -7;

/// Why something is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Longer than any claim.
    #[error("what is to be signed is longer than a claim")]
    TooLong,
    /// Not a COSE structure around a claim.
    #[error("what is to be signed is no claim")]
    NoClaim,
    /// The signature would name certificates of somebody else.
    #[error("the claim is to be signed under another certificate")]
    Chain,
    /// A claim that we do not make.
    #[error("the claim lacks {0}")]
    Lacks(&'static str),
}

/// Checks that `message` is a claim as [`Marked::sign`](crate::Marked::sign) makes it, bound to a picture by a
/// hash and to be signed under `chain`.
pub fn check_claim(message: &[u8], chain: &Chain) -> Result<(), ClaimError> {
    if message.len() > BYTES_MAX {
        return Err(ClaimError::TooLong);
    }
    let structure: Value = ciborium::from_reader(message).map_err(|_| ClaimError::NoClaim)?;
    let [Value::Text(context), Value::Bytes(headers), Value::Bytes(_), Value::Bytes(claim)] =
        structure.as_array().map(Vec::as_slice).ok_or(ClaimError::NoClaim)?
    else {
        return Err(ClaimError::NoClaim);
    };
    if context != "Signature1" {
        return Err(ClaimError::NoClaim);
    }
    check_headers(headers, chain)?;
    let claim: Value = ciborium::from_reader(claim.as_slice()).map_err(|_| ClaimError::NoClaim)?;
    let generator = member(&claim, "claim_generator_info").and_then(|info| member(info, "name"));
    if generator.and_then(Value::as_text) != Some(GENERATOR) {
        return Err(ClaimError::Lacks("our name as its generator"));
    }
    let assertions: Vec<&str> = ["created_assertions", "gathered_assertions"]
        .iter()
        .filter_map(|list| member(&claim, list)?.as_array())
        .flatten()
        .filter_map(|assertion| {
            // A reference counts with its hash only.
            member(assertion, "hash")?.as_bytes().filter(|hash| hash.len() == 32)?;
            member(assertion, "url")?.as_text()?.rsplit('/').next()
        })
        .collect();
    for (label, what) in [
        ("c2pa.hash.data", "the hash of the picture"),
        ("c2pa.actions", "the actions"),
        ("c2pa.soft-binding", "the binding to the watermark"),
        (RENDER, "the release"),
    ] {
        // Versions follow the label after a dot: `c2pa.actions.v2`.
        let is_it = |found: &&str| {
            found.strip_prefix(label).is_some_and(|rest| rest.is_empty() || rest.starts_with(".v"))
        };
        if !assertions.iter().any(is_it) {
            return Err(ClaimError::Lacks(what));
        }
    }
    Ok(())
}

fn check_headers(headers: &[u8], chain: &Chain) -> Result<(), ClaimError> {
    let headers: Value = ciborium::from_reader(headers).map_err(|_| ClaimError::NoClaim)?;
    let header = |name: i64| {
        let entries = headers.as_map()?;
        entries.iter().find(|(key, _)| *key == Value::Integer(name.into())).map(|(_, value)| value)
    };
    if header(ALG) != Some(&Value::Integer(ES256.into())) {
        return Err(ClaimError::Chain);
    }
    let named: Vec<&[u8]> = match header(X5CHAIN).ok_or(ClaimError::Chain)? {
        Value::Bytes(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(|one| one.as_bytes().map(Vec::as_slice)).collect(),
        _ => return Err(ClaimError::Chain),
    };
    if named.iter().copied().eq(chain.certificates().iter().map(Vec::as_slice)) {
        Ok(())
    } else {
        Err(ClaimError::Chain)
    }
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}
