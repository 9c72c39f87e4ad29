//! The scheduler: HTTP API, ledger, dispatcher, outbox and event sink.
//!
//! Architecture invariants: never links candle and never names the worker; the database is the only
//! source of truth, and whatever must happen "and also" goes through an outbox row of the same
//! transaction.

mod ahead;
pub mod app;
pub mod blobs;
pub mod catalog;
pub mod claims;
pub mod clock;
pub mod dispatcher;
pub mod domain;
pub mod fsck;
mod group;
pub mod http;
pub mod hub;
pub mod leader;
pub mod metrics;
pub mod provenance;
pub mod reaper;
pub mod relay;
pub mod sink;
pub mod store;
pub mod sweeper;
mod wake;

pub use app::{App, Config, Parts, Scheduler, SchedulerError};
