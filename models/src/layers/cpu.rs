//! The hot loops on a CPU, over slices: one tile kernel in the machine's widest vectors, and around it
//! linear layers and attention that read, norm, activate, gate and add while the data is in cache.
//!
//! The instruction set is chosen when the program runs; nothing here is unsafe.

#![expect(
    clippy::inline_always,
    reason = "vector instructions reach only what is inlined into the function that enables them"
)]

pub(crate) mod attention;
pub(crate) mod linear;
mod math;
mod tile;
pub(crate) mod view;
