//! The program as its users meet it, and the rules of the repository.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod admin;
mod api;
mod bench;
mod browser;
mod config;
mod cuts;
mod demo;
mod deployment;
mod faults;
mod full_disk;
mod kill;
mod layers;
mod licence;
mod model;
mod painter;
mod program;
mod proxy;
mod scene;
mod soak;
mod stages;
mod tidy;
mod verify;
