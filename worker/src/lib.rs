//! A worker: takes jobs, claims renders, runs them through a model and delivers marked pictures.
//!
//! ```text
//! jobs -> claim -> fetch -> prepare -> engine -> mark, encode -> upload -> report -> acknowledge
//!                                       one thread, one denoise step at a time
//! ```
//!
//! Architecture invariant: a worker acts only under a lease that it can still trust, sends
//! no picture that is not [`kraftr_provenance::credentials::Signed`], and holds no database, bucket or signing
//! credentials: everything it may touch comes as a URL of its claim.

mod claim;
pub mod config;
mod engine;
mod lease;
mod pipeline;
pub mod pull;
mod retry;
mod worker;

pub use config::WorkerConfig;
pub use worker::{Worker, WorkerError};
