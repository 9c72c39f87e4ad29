//! What says where a picture comes from: an invisible watermark and Content Credentials.
//!
//! [`embed`] hides 64 bits in a picture under a secret [`Key`]; [`detect`] reads them back from the pixels alone,
//! also after the picture was compressed. [`Marked`] cannot be had without marking a picture and reading the mark back
//! from the encoded bytes; with a signed manifest beside the mark it becomes [`credentials::Signed`], which is what is
//! delivered. [`examine`] looks for both in any picture.
//!
//! The method, its false-positive bound, measured figures and limits are in this crate's README.md.

pub mod credentials;
mod error;
mod key;
mod marked;
mod payload;
mod verdict;
mod watermark;

pub use error::{KeyError, MarkError};
pub use key::{KEYS_MAX, Key, KeyRing};
pub use marked::Marked;
pub use payload::CHECK_BITS;
pub use verdict::{Evidence, Mark, Verdict, examine};
pub use watermark::{ATTEMPTS_MAX, Detection, SIDE_MIN, Strength, attempts, detect, embed};
