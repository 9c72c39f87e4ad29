//! What benchmarks share.

pub mod pictures;
