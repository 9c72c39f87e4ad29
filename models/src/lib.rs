//! Architectures, samplers and the registry of releases, over candle.
//!
//! Architecture invariant: nothing here is async or touches a network; files are read by path, time
//! and randomness come in as arguments.

pub mod arithmetic;
pub mod bundled;
mod config_keys;
pub mod device;
mod error;
mod fashn_vton;
mod inputs;
mod layers;
mod model;
mod noise;
mod noop;
pub mod parity;
mod person;
mod picture;
mod registry;
mod sampler;
mod scene;
mod stable_diffusion;
mod trace;
pub mod weights;

pub use candle_core::Device;
pub use device::{DeviceError, Precision};
pub use error::ModelError;
pub use inputs::{Inputs, Kept, Role, TextToImage, TryOn};
pub use kraftr_imaging::{GrayImage, RgbImage};
pub use model::{Description, Evaluations, Model, Prepared, Reading, Sample, Sampling};
pub use person::stage::{Missing, Stage};
pub use registry::{CheckReport, ContractCheck, FileCheck, Golden, Place, Registry};
pub use scene::Subject;
pub use weights::contract::{Mismatch, Misshaped};
