//! The transport from outside: the conformance suite, and what is particular to each implementation.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

mod faults;
mod in_process;
mod rabbit;
mod words;
