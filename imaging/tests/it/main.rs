//! Good pictures come in upright and opaque; bad ones end in the right typed error, never in a panic.

mod bytes;
mod decoding;
mod hostile;
mod making;
