//! Weight files: proven to be the right file, mapped into memory, checked tensor by tensor.
//!
//! **When a file's SHA-256 is computed.** Hashing 2 GB takes seconds, which no start of a worker should pay. A file is
//! hashed while it is pulled or made; what was found is remembered in a [receipt] beside it, with the file's
//! length and time of modification. Loading believes a receipt that fits the file. Where there is none, or it does not
//! fit, loading hashes the file once and leaves a receipt. `kraftr model check` always hashes.
//!
//! A receipt guards against mistakes: a file replaced, cut off or edited. It does not guard against somebody who may
//! write into the weights folder, who could change what is loaded afterwards just as well.

pub(crate) mod contract;
pub(crate) mod init;
mod map;
pub mod receipt;

pub(crate) use map::{Tensors, Weights};
