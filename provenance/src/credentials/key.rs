use std::fmt;

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature as Es256, SigningKey as Secret, VerifyingKey};
use p256::pkcs8::DecodePrivateKey as _;

/// Why a key file was refused. What is in it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not a private key in PEM form.
    #[error(
        "the signing key is no private key in PEM form: make one with \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Pem,
    /// A key of another kind.
    #[error("the signing key is not of the curve P-256: manifests are signed with ES256")]
    Curve,
}

/// A signature with ES256: `r` and `s`, 32 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// From `r || s` or from DER, as key management services answer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let parsed = Es256::from_slice(bytes).or_else(|_| Es256::from_der(bytes)).ok()?;
        Some(Self(parsed.to_bytes().into()))
    }

    /// Whether `key`, an uncompressed point, made it over `message`.
    pub(crate) fn is_by(&self, key: &[u8], message: &[u8]) -> bool {
        use p256::ecdsa::signature::Verifier as _;
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_sec1_bytes(key), Es256::from_slice(&self.0))
        else {
            return false;
        };
        key.verify(message, &signature).is_ok()
    }
}

/// A private key of the curve P-256.
#[derive(Clone)]
pub struct SigningKey(Secret);

impl SigningKey {
    /// Reads PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    pub fn from_pem(text: &str) -> Result<Self, KeyFileError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyFileError::Pem)?;
        // `openssl ecparam` writes the curve's parameters before the key.
        let block =
            blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY")).ok_or(KeyFileError::Pem)?;
        let key = match block.tag() {
            "PRIVATE KEY" => Secret::from_pkcs8_der(block.contents()).map_err(|_| KeyFileError::Curve)?,
            "EC PRIVATE KEY" => {
                p256::SecretKey::from_sec1_der(block.contents()).map_err(|_| KeyFileError::Curve)?.into()
            }
            _ => return Err(KeyFileError::Pem),
        };
        Ok(Self(key))
    }

    /// Signs the SHA-256 of `message`; the same message gets the same signature (RFC 6979).
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature: Es256 = self.0.sign(message);
        Signature(signature.to_bytes().into())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}
