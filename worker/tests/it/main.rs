//! A real worker between a scripted scheduler and a small object store, over the in-process transport.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

mod delivery;
mod hub;
mod lifecycle;
mod objects;
mod painting;
mod pull;
mod scheduler;
mod stopping;
