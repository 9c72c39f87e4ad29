//! Content Credentials: C2PA manifests that say how a picture was made, signed with a key that never comes here.
//!
//! [`Marked::sign`](crate::Marked::sign) writes a manifest into a marked picture and asks a function for the signature,
//! so that the key can lie elsewhere. [`read`] judges the manifest of any picture. [`Authority`] makes the
//! certificates of a development installation. README.md says what a manifest holds.

mod authority;
mod certificate;
mod claim;
mod issue;
mod key;
mod read;
mod store;

pub use authority::{Authority, AuthorityError};
pub use certificate::{Anchors, CertificateError, Chain};
pub use claim::{ClaimError, check_claim};
pub use issue::{Facts, Input, SignError, Signed};
pub use key::{KeyFileError, Signature, SigningKey};
pub use read::{Reading, Status, read};

/// The claim generator that every manifest of ours names.
pub const GENERATOR: &str = "Kraftr";
/// What the certificates of a development installation name as their organisation.
pub const DEVELOPMENT: &str = "Kraftr development";
/// The soft binding's algorithm: the watermark of this crate.
pub const SOFT_BINDING: &str = "com.kraftr.watermark";
/// The assertion that names the release and the inputs.
const RENDER: &str = "com.kraftr.render";
