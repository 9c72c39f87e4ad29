//! Layers that architectures share. Each works on any device and in any precision in plain tensor
//! operations; the hot ones run as the fused loops of `cpu`, in f32, or of `cuda`.

pub(crate) mod attention;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod linear;
pub(crate) mod modulation;
pub(crate) mod norm;
pub(crate) mod patch;
mod product;
pub(crate) mod rope;
