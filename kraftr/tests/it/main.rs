//! The program as its users meet it, and the rules of the repository.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bench;
mod config;
mod demo;
mod kill;
mod layers;
mod program;
mod tidy;
