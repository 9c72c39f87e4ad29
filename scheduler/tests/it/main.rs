//! The scheduler as a whole: store, ledger, objects and the HTTP API over real parts.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails there; clippy knows only functions marked as tests"
)]

mod ahead;
mod blobs;
mod http;
mod ledger_properties;
mod objects;
mod postgres;
mod s3;
mod services;
mod store;
