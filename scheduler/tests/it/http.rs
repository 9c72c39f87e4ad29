//! The HTTP API over a real store, a real directory and the in-process transport. Every answer of every
//! test is held against `/openapi.json`, and every test ends with an audit (see [`server`]).

mod artifacts;
mod assets;
mod auth;
mod billing;
mod blobs;
mod contract;
mod events;
mod health;
mod idempotency;
mod models;
mod openapi;
mod pictures;
mod renders;
mod server;
mod transfers;
mod verify;
mod worker;
