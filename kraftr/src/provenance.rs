//! From the configuration to keys, certificates and anchors.

use std::path::Path;

use anyhow::{Context, Result};
use kraftr_protocol::Clock;
use kraftr_provenance::KeyRing;
use kraftr_provenance::credentials::{Anchors, Chain, SigningKey};
use kraftr_scheduler::provenance::{Provenance, Signatory};
use kraftr_scheduler::store::Store;
use secrecy::ExposeSecret as _;

use crate::config::concerns::{Credentials, Watermark};

/// What a log says about certificates that were made for development.
pub const DEVELOPMENT_AUTHORITY: &str = "credentials.chain is not set: pictures are signed with a certificate for \
    development, which is valid and which nobody trusts";

/// What a scheduler signs and verifies with.
pub async fn of_scheduler(
    credentials: &Credentials,
    watermark: &Watermark,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<Provenance> {
    let (keys, anchors) = (keys(watermark), anchors(credentials)?);
    let Some(path) = &credentials.chain else {
        tracing::warn!("{DEVELOPMENT_AUTHORITY}");
        return Ok(Provenance { keys, anchors, ..Provenance::development(store, clock).await? });
    };
    let chain = Chain::from_pem(&text(path)?).with_context(|| path.display().to_string())?;
    if chain.expires() < clock.now().0 / 1_000_000 {
        tracing::error!("the certificate in {} has expired: readers refuse what it signs", path.display());
    }
    let signatory = match (&credentials.key, &credentials.sign_command) {
        (Some(key), _) => {
            let key = SigningKey::from_pem(key.0.expose_secret()).context("credentials.key")?;
            Signatory::with_key(chain, key).context("credentials.key")?
        }
        (None, Some(command)) => Signatory::with_command(chain, command.clone()),
        (None, None) => anyhow::bail!("credentials.chain needs credentials.key or credentials.sign_command"),
    };
    Ok(Provenance { signatory, keys, anchors })
}

/// The keys that marks are looked for with.
pub fn keys(watermark: &Watermark) -> KeyRing {
    watermark.keys.clone().map_or_else(KeyRing::development, |keys| keys.0)
}

/// Whose signatures are trusted.
pub fn anchors(credentials: &Credentials) -> Result<Anchors> {
    match &credentials.anchors {
        Some(path) => Anchors::from_pem(&text(path)?).with_context(|| path.display().to_string()),
        None => Ok(Anchors::none()),
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
