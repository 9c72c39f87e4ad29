//! What `kraftr bench` measures: the fleet with a model that does nothing, so that only the control
//! plane is left.

mod bare;
mod control_plane;
mod latency;
mod parts;
mod worker;

pub use bare::Bare;
pub use control_plane::{ControlPlane, Full, Report, run};
pub use latency::Quantiles;
pub use parts::{BenchError, Books, Ground, Ways};
