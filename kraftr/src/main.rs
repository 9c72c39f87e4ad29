//! Parses, logs, runs, and turns the end into an exit code.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser;
use kraftr::cli::{Cli, Command};
use kraftr::config::environment;
use kraftr::{commands, logging, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Every TLS connection of the process is made with this one; the first to install it is this line.
    rustls::crypto::ring::default_provider().install_default().ok();
    if let Some(usual) = commands::default_log(&cli.command) {
        let filter = cli.log.clone().or_else(environment::log_filter).unwrap_or_else(|| usual.to_owned());
        let counts = matches!(cli.command, Command::Bench(_));
        let started = if counts { logging::start_counting(&filter) } else { logging::start(&filter) };
        if let Err(error) = started {
            output::note(format_args!("error: --log {filter}: {error}")).ok();
            return ExitCode::from(2);
        }
    }
    match commands::run(cli) {
        Ok(outcome) => outcome.into(),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format_args!("error: {}", in_one_line(&error))).ok();
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes. Many errors name their cause themselves: it is not said twice.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("address in use").context("cannot listen: address in use").context("no fleet");
        assert_eq!(in_one_line(&error), "no fleet: cannot listen: address in use");
    }
}
