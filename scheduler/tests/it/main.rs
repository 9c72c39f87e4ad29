//! The scheduler as a whole: store, ledger, objects and the HTTP API over real parts.

mod blobs;
mod http;
mod ledger_properties;
mod store;
