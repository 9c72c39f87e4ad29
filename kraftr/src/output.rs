//! Everything the program says: results on standard output, remarks and progress on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Writes one line of the result.
pub fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes text that has its own line breaks.
pub fn text(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Writes the result as one line of JSON.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
}

/// Writes a remark, which is no part of the result.
pub fn note(text: impl Display) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

/// Rows as columns: the first row is the head, and every column is as wide as its widest cell.
pub fn table(rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// How many bytes are done: a bar where somebody watches a terminal, else a line every tenth.
pub struct Bytes {
    label: String,
    bar: Option<ProgressBar>,
    done: u64,
    all: u64,
    last_line: u64,
}

impl Bytes {
    /// A display on standard error of `all` bytes.
    pub fn new(label: &str, all: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let template = "{prefix} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}";
            let style = ProgressStyle::with_template(template)
                .expect("the template is well formed")
                .progress_chars("=> ");
            ProgressBar::new(all).with_style(style).with_prefix(label.to_owned())
        });
        Self { label: label.to_owned(), bar, done: 0, all, last_line: 0 }
    }

    /// So many more are done.
    pub fn add(&mut self, bytes: u64) {
        self.show(self.done + bytes);
    }

    /// So many are done in all.
    pub fn set(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            // What was there before says nothing about how fast it goes.
            bar.reset_eta();
        }
        self.last_line = bytes;
        self.show(bytes);
    }

    /// Something else than bytes happened.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => note(format_args!("{}: {what}", self.label)).unwrap_or_default(),
        }
    }

    /// Takes the display away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, done: u64) {
        self.done = done;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            // Files of a few megabytes take no time worth a line.
            None if self.all > 64 << 20 && done >= self.last_line + self.all / 10 => {
                self.last_line = done;
                self.say(&format!("{} of {} MB", done / 1_000_000, self.all / 1_000_000));
            }
            None => {}
        }
    }
}

/// How far a render is: a bar where somebody watches a terminal, else a line now and then.
pub struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    pace: Pace,
    last_line: u32,
}

impl Progress {
    /// A progress display on standard error.
    pub fn new(label: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}")
                .expect("the template is well formed")
                .progress_chars("=> ");
            let bar = ProgressBar::new(1).with_style(style).with_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { label: label.to_owned(), bar, pace: Pace::default(), last_line: 0 }
    }

    /// Something other than a step happened, such as a change of state.
    pub fn stage(&mut self, stage: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(stage.to_owned()),
            None => self.say(stage),
        }
    }

    /// `step` of `steps` are done.
    pub fn step(&mut self, step: u32, steps: u32) {
        self.pace.record(step, Instant::now());
        let message = match self.pace.seconds_per_step() {
            Some(pace) => {
                let left = pace * f64::from(steps.saturating_sub(step));
                format!("step {step} of {steps}, {pace:.2} s a step, {left:.1} s left")
            }
            None => format!("step {step} of {steps}"),
        };
        match &self.bar {
            Some(bar) => {
                bar.set_length(u64::from(steps));
                bar.set_position(u64::from(step));
                bar.set_message(message);
            }
            // A quarter at a time: enough to see that it moves, and short in a log file.
            None if step == steps || step >= self.last_line + steps.div_ceil(4) => {
                self.last_line = step;
                self.say(&message);
            }
            None => {}
        }
    }

    /// Takes the display away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, message: &str) {
        // Progress is a courtesy: a closed standard error must not end the render.
        note(format_args!("{}: {message}", self.label)).ok();
    }
}

/// Seconds per step since the first step that was seen, so that loading is not counted.
#[derive(Default)]
struct Pace {
    first: Option<(u32, Instant)>,
    latest: Option<(u32, Instant)>,
}

impl Pace {
    fn record(&mut self, step: u32, at: Instant) {
        self.first.get_or_insert((step, at));
        self.latest = Some((step, at));
    }

    fn seconds_per_step(&self) -> Option<f64> {
        let ((first, from), (latest, to)) = (self.first?, self.latest?);
        (latest > first).then(|| to.duration_since(from).as_secs_f64() / f64::from(latest - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_counts_from_the_first_step_seen() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_per_step(), None);
        pace.record(3, start);
        assert_eq!(pace.seconds_per_step(), None);
        pace.record(7, start + Duration::from_secs(2));
        assert_eq!(pace.seconds_per_step(), Some(0.5));
    }
}
