//! What scheduler and workers say to each other: ids, units, specs, states, messages, events,
//! failures, lanes, release manifests and every limit.
//!
//! Architecture invariant: nothing here performs I/O or is async, and nothing depends on another
//! crate of ours.

pub mod base64_bytes;
mod clock;
pub mod event;
pub mod failure;
pub mod ids;
pub mod lane;
pub mod limits;
pub mod manifest;
pub mod message;
pub mod spec;
pub mod state;
pub mod suggest;
pub mod units;

pub use clock::{Clock, Ids};
pub use event::{ArtifactReport, Event, EventBody, Progress, ProgressBody};
pub use failure::{Failure, FailureClass, FailureCode};
pub use ids::{ApiKeyId, ArtifactId, AssetId, BatchId, EntryId, OrgId, RenderId, WorkerId};
pub use lane::{Class, Lane};
pub use manifest::ReleaseManifest;
pub use spec::{Category, Format, GarmentPhoto, Quality, RenderSpec};
pub use state::{Status, Transition};
pub use units::{Credits, Digest, Epoch, GpuMillis, Hasher, NotHex, Timestamp, WatermarkRef};
