//! Good pictures come in upright and opaque; bad ones end in the right typed error, never in a panic.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod bytes;
mod decoding;
mod hostile;
mod making;
