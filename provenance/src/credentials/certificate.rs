use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{DEVELOPMENT, Signature};

/// Certificates of one chain.
const CHAIN_MAX: usize = 8;
/// Bytes of a chain in PEM form: it goes out with every claim.
const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// The curve P-256.
const PRIME256V1: &str = "1.2.840.10045.3.1.7";
/// What the C2PA trust list calls claim signing.
const CLAIM_SIGNING: &str = "1.3.6.1.4.1.62558.2.1";

/// Why certificates were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificates in PEM form.
    #[error("there is no certificate in PEM form")]
    Pem,
    /// Bytes in PEM form that are no certificate.
    #[error("certificate {number} of the file cannot be read")]
    Unreadable {
        /// Which, from 1.
        number: usize,
    },
    /// More than a chain has.
    #[error("the chain is longer than {CHAIN_MAX} certificates or {CHAIN_BYTES_MAX} bytes")]
    TooLong,
    /// The first certificate does not sign claims in a way that readers accept.
    #[error("the first certificate of the chain cannot sign manifests: {0}")]
    Leaf(&'static str),
    /// The certificates are not in order.
    #[error(
        "certificate {number} of the chain did not issue the one before it: put the leaf first, then who issued it"
    )]
    Order {
        /// Which, from 1.
        number: usize,
    },
}

/// The leaf that signs and whoever issued it, leaf first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pem: String,
    certificates: Vec<Vec<u8>>,
    key: Vec<u8>,
    development: bool,
    expires: i64,
}

impl Chain {
    /// Reads certificates in PEM form and checks that readers will accept what the first one signs.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let certificates = certificates(text)?;
        if certificates.len() > CHAIN_MAX || text.len() > CHAIN_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let parsed: Vec<X509Certificate<'_>> = certificates
            .iter()
            .enumerate()
            .map(|(n, der)| parse(der, n + 1))
            .collect::<Result<_, CertificateError>>()?;
        let leaf = parsed.first().ok_or(CertificateError::Pem)?;
        check_leaf(leaf).map_err(CertificateError::Leaf)?;
        for (n, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer() != pair[1].subject() {
                return Err(CertificateError::Order { number: n + 2 });
            }
        }
        let (key, expires) =
            (leaf.public_key().subject_public_key.data.to_vec(), leaf.validity().not_after.timestamp());
        let development = organisation(leaf.subject()) == Some(DEVELOPMENT);
        // Whatever else the file held stays behind.
        let pem =
            certificates.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.clone()))).collect();
        drop(parsed);
        Ok(Self { pem, certificates, key, development, expires })
    }

    /// The certificates in PEM form, leaf first.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether the leaf says that it is for development.
    pub const fn is_development(&self) -> bool {
        self.development
    }

    /// When the leaf expires, in seconds since 1970.
    pub const fn expires(&self) -> i64 {
        self.expires
    }

    /// Whether the leaf's key made `signature` over `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        signature.is_by(&self.key, message)
    }

    pub(super) fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }
}

/// Who is trusted: certificates that chains must end at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchors(Option<String>);

impl Anchors {
    /// Nobody: what is valid is not trusted.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reads certificates in PEM form.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        for (n, der) in certificates(text)?.iter().enumerate() {
            parse(der, n + 1)?;
        }
        Ok(Self(Some(text.to_owned())))
    }

    pub(super) fn pem(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

fn certificates(text: &str) -> Result<Vec<Vec<u8>>, CertificateError> {
    let blocks = pem::parse_many(text).map_err(|_| CertificateError::Pem)?;
    let certificates: Vec<Vec<u8>> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(pem::Pem::into_contents)
        .collect();
    if certificates.is_empty() { Err(CertificateError::Pem) } else { Ok(certificates) }
}

fn parse(der: &[u8], number: usize) -> Result<X509Certificate<'_>, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Unreadable { number })?;
    Ok(parsed)
}

fn organisation<'a>(name: &'a x509_parser::x509::X509Name<'_>) -> Option<&'a str> {
    name.iter_organization().next().and_then(|part| part.as_str().ok())
}

/// C2PA specification, "Certificate profile": what a reader asks of a claim signer's certificate.
fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), &'static str> {
    let curve =
        leaf.public_key().algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if curve.is_none_or(|curve| curve.to_id_string() != PRIME256V1) {
        return Err("its key is not of the curve P-256 (ES256)");
    }
    if leaf.subject() == leaf.issuer() {
        return Err("it is self-signed, which readers refuse: have it issued by a CA");
    }
    if leaf.is_ca() {
        return Err("it is that of a CA");
    }
    if organisation(leaf.subject()).is_none() {
        return Err("its subject names no organisation (O)");
    }
    if !leaf.key_usage().ok().flatten().is_some_and(|usage| usage.value.digital_signature()) {
        return Err("its key usage lacks digitalSignature");
    }
    let purposes = leaf.extended_key_usage().ok().flatten().ok_or("it has no extended key usage")?.value;
    let signs_claims = purposes.other.iter().any(|oid| oid.to_id_string() == CLAIM_SIGNING);
    if purposes.any || !(purposes.email_protection || signs_claims) {
        return Err("its extended key usage is neither emailProtection nor C2PA claim signing");
    }
    Ok(())
}
