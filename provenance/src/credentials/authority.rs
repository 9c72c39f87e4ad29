use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{Chain, DEVELOPMENT, SigningKey};

/// Without a time stamp a manifest is valid as long as its signer's certificate: a leaf outlives what it signs for
/// development.
const YEARS: i64 = 10;
/// Clocks differ: certificates hold from a day before they were made.
const EARLIER: Duration = Duration::days(1);
/// A leaf this close to its end is made anew.
const RENEW_BEFORE: Duration = Duration::days(365);

/// Why certificates could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The time is out of range, or the system gives no random numbers.
    #[error("the development certificates could not be made: {0}")]
    Make(String),
    /// What was kept is damaged.
    #[error("the development certificates that were kept cannot be read: {0}")]
    Kept(String),
}

/// A certificate authority with one leaf, made for development: its signatures are valid and untrusted, until somebody
/// takes its certificate for an anchor.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authority {
    /// The authority's certificate in PEM form: what others may trust.
    pub certificate: String,
    /// The leaf's certificate and the authority's in PEM form.
    pub chain: String,
    key: String,
}

impl Authority {
    /// A new one, at `now` in seconds since 1970.
    pub fn make(now: i64) -> Result<Self, AuthorityError> {
        let made = OffsetDateTime::from_unix_timestamp(now)
            .map_err(|error| AuthorityError::Make(error.to_string()))?;
        Self::issue(made).map_err(|error| AuthorityError::Make(error.to_string()))
    }

    fn issue(made: OffsetDateTime) -> Result<Self, rcgen::Error> {
        let (not_before, not_after) = (made - EARLIER, made + Duration::days(365 * YEARS));
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, DEVELOPMENT);
            params.distinguished_name.push(DnType::CommonName, name);
            (params.not_before, params.not_after) = (not_before, not_after);
            params
        };
        let mut root = named("Kraftr development CA");
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = root.self_signed(&root_key)?.pem();

        let mut leaf = named("Kraftr development signer");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        leaf.use_authority_key_identifier_extension = true;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // The authority's key is thrown away here: nobody can ever issue a second leaf under it.
        let signed = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key))?;
        let chain = format!("{}{certificate}", signed.pem());
        Ok(Self { certificate, chain, key: leaf_key.serialize_pem() })
    }

    /// The chain and the key to sign with.
    pub fn signer(&self) -> Result<(Chain, SigningKey), AuthorityError> {
        let chain = Chain::from_pem(&self.chain).map_err(|error| AuthorityError::Kept(error.to_string()))?;
        let key = SigningKey::from_pem(&self.key).map_err(|error| AuthorityError::Kept(error.to_string()))?;
        Ok((chain, key))
    }

    /// Whether it ends soon, at `now` in seconds since 1970.
    pub fn ends_soon(&self, now: i64) -> bool {
        let left = Chain::from_pem(&self.chain).map_or(0, |chain| chain.expires() - now);
        left < RENEW_BEFORE.whole_seconds()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate)
            .field("key", &"***")
            .finish_non_exhaustive()
    }
}
