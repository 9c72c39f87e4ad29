//! The rules, as functions from values to values: no I/O, no clock, no database.

pub mod dispatch;
pub mod invariants;
pub mod lease;
pub mod ledger;
pub mod retry;
