//! Weight files: proven to be the right file, checked tensor by tensor.

pub(crate) mod contract;
mod map;

pub(crate) use map::{Tensors, Weights};
