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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kraftr_protocol::Timestamp;
    use kraftr_provenance::credentials::Authority;
    use kraftr_scheduler::clock::{SystemClock, SystemIds};
    use kraftr_scheduler::store::sqlite::SqliteStore;
    use secrecy::SecretString;

    use super::*;
    use crate::config::value::Secret;

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp(1_795_680_000_000_000)
        }
    }

    /// A chain in a file, and the key to it.
    fn authority(folder: &Path, name: &str) -> (Authority, Credentials) {
        let made = Authority::make(Fixed.now().0 / 1_000_000).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, &made.chain).unwrap();
        let key = serde_json::to_value(&made).unwrap()["key"].as_str().unwrap().to_owned();
        let key = Some(Secret(SecretString::from(key)));
        (made, Credentials { chain: Some(path), key, sign_command: None, anchors: None })
    }

    #[tokio::test]
    async fn a_configured_chain_is_signed_under_and_without_one_all_share_what_the_database_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("kraftr.db");
        let store = SqliteStore::open(&database, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
        let watermark = Watermark { keys: None };
        let made = async |credentials: &Credentials| {
            of_scheduler(credentials, &watermark, &store, &Fixed).await.map_err(|error| format!("{error:#}"))
        };

        let nothing = Credentials { chain: None, key: None, sign_command: None, anchors: None };
        let (first, second) = (made(&nothing).await.unwrap(), made(&nothing).await.unwrap());
        assert_eq!(first.signatory.chain(), second.signatory.chain(), "replicas sign with the same");

        let (own, credentials) = authority(folder.path(), "own.pem");
        assert_eq!(made(&credentials).await.unwrap().signatory.chain().pem(), own.signer().unwrap().0.pem());
        let (_, other) = authority(folder.path(), "other.pem");
        let foreign = Credentials { key: other.key, ..credentials.clone() };
        let refused = made(&foreign).await.unwrap_err();
        assert!(
            refused.contains("credentials.key") && refused.contains("do not belong together"),
            "{refused}"
        );
        let absent = Credentials { chain: Some(folder.path().join("absent.pem")), ..credentials.clone() };
        assert!(made(&absent).await.unwrap_err().contains("absent.pem"));
        let text = folder.path().join("text.pem");
        std::fs::write(&text, "no certificate").unwrap();
        let refused = made(&Credentials { anchors: Some(text), ..credentials }).await.unwrap_err();
        assert!(refused.contains("text.pem") && refused.contains("no certificate in PEM form"), "{refused}");
    }
}
