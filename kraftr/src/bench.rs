//! What `kraftr bench` measures: the fleet with a model that does nothing, so that only the control
//! plane is left.

pub mod anatomy;
mod bare;
mod control_plane;
mod latency;
mod parts;
mod worker;

pub use anatomy::Anatomy;
pub use bare::Bare;
pub use control_plane::{ControlPlane, Full, Latency, Report, run};
pub use latency::Quantiles;
pub use parts::{BenchError, Books, Ground, Ways};
