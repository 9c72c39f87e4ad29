//! Layers that architectures share. Each works on any device and in any precision in plain tensor
//! operations; in f32 on a CPU the hot ones run as the fused loops of [`cpu`].

pub(crate) mod attention;
mod cpu;
pub(crate) mod linear;
pub(crate) mod modulation;
pub(crate) mod norm;
pub(crate) mod patch;
mod product;
pub(crate) mod rope;
