//! Invisible watermark: pixels in, pixels out.
//!
//! [`embed`] hides 64 bits in a picture under a secret [`Key`]; [`detect`] reads them back from the pixels alone,
//! also after the picture was compressed. [`Marked`] is the only type that may leave the fleet: it cannot be had
//! without marking a picture and reading the mark back from the encoded bytes.
//!
//! The method, its false-positive bound, measured figures and limits are in this crate's README.md.

mod error;
mod key;
mod marked;
mod payload;
mod watermark;

pub use error::{KeyError, MarkError};
pub use key::{KEYS_MAX, Key, KeyRing};
pub use marked::Marked;
pub use watermark::{Detection, SIDE_MIN, Strength, detect, embed};
