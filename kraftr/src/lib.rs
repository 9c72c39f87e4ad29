//! The `kraftr` program as a library: the embedded fleet and the commands around it.

pub mod bench;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod connect;
pub mod data_dir;
pub mod fleet;
pub mod logging;
pub mod output;
pub mod provenance;
pub mod sse;
