//! The log: one line an event on standard error.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::bench::anatomy;

/// Starts it. It is started once, before anything that is worth a line.
pub fn start(filter: &str) -> Result<(), ParseError> {
    let lines = lines(filter)?;
    tracing_subscriber::registry().with(lines).init();
    Ok(())
}

/// Starts it for a bench, which counts what the database library tells beside it.
pub fn start_counting(filter: &str) -> Result<(), ParseError> {
    let lines = lines(filter)?;
    tracing_subscriber::registry().with(lines).with(anatomy::layer()).init();
    Ok(())
}

/// The broker's client library logs what it also returns, and the end of a connection that we closed as an error.
const SILENT: &str = "lapin=off";

fn lines<S: Subscriber + for<'s> LookupSpan<'s>>(filter: &str) -> Result<impl Layer<S>, ParseError> {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    Ok(lines.with_filter(EnvFilter::try_new(format!("{SILENT},{filter}"))?))
}
