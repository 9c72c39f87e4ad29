//! Step mathematics, pure: times, guidance, solvers, reuse.

pub(crate) mod cache;
pub(crate) mod diffusion;
pub(crate) mod guidance;
pub(crate) mod rectified_flow;
pub(crate) mod solver;
