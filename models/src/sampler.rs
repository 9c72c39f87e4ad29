//! Step mathematics, pure: times, guidance, Euler.

pub(crate) mod guidance;
pub(crate) mod rectified_flow;
