//! Where the time goes: what a render costs in round trips to the database, commits and messages, counted in a
//! pass of its own, so that counting slows nothing that is timed.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Statements named in a report, the most expensive first.
const NAMED: usize = 12;
/// Characters of a statement that are shown.
const SHOWN: usize = 60;

/// What one render costs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Anatomy {
    /// Renders that were carried from submission to capture meanwhile.
    pub renders: usize,
    /// Round trips to the database, beginning and end of transactions included.
    pub sql_round_trips: f64,
    /// Transactions that were committed; absent with SQLite, whose library does not tell of them.
    pub commits: Option<f64>,
    /// Messages handed to the broker; absent without one.
    pub messages_published: Option<f64>,
    /// Messages taken from the broker; absent without one.
    pub messages_delivered: Option<f64>,
    /// The statements that took most of the time.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Debug, Clone, Serialize)]
pub struct Statement {
    /// How it begins.
    pub statement: String,
    /// How often it is executed for one render.
    pub per_render: f64,
    /// Milliseconds of one execution, as the caller sees it.
    pub mean_ms: f64,
    /// Milliseconds for one render.
    pub ms_per_render: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    times: u64,
    seconds: f64,
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static STATEMENTS: Mutex<Option<HashMap<String, Count>>> = Mutex::new(None);

/// Counts from now on.
pub(super) fn start() {
    *STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::new());
    COUNTING.store(true, Ordering::SeqCst);
}

/// What was counted since then, for each of `renders`.
pub(super) fn stop(renders: usize, messages: Option<(u64, u64)>) -> Anatomy {
    COUNTING.store(false, Ordering::SeqCst);
    let counts = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let each = |count: u64| count as f64 / renders.max(1) as f64;
    let total: u64 = counts.values().map(|count| count.times).sum();
    let commits = counts.get("COMMIT").map(|count| count.times);
    let mut statements: Vec<Statement> = counts
        .into_iter()
        .map(|(statement, count)| Statement {
            statement,
            per_render: each(count.times),
            mean_ms: count.seconds * 1_000.0 / count.times as f64,
            ms_per_render: count.seconds * 1_000.0 / renders.max(1) as f64,
        })
        .collect();
    statements.sort_by(|a, b| b.ms_per_render.total_cmp(&a.ms_per_render));
    statements.truncate(NAMED);
    Anatomy {
        renders,
        // The library does not tell of the beginning of a transaction.
        sql_round_trips: each(total + commits.unwrap_or(0)),
        commits: commits.map(each),
        messages_published: messages.map(|(published, _)| each(published)),
        messages_delivered: messages.map(|(_, delivered)| each(delivered)),
        statements,
    }
}

/// Hears what the database library tells about each statement, while something counts.
pub fn layer<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> {
    let statements = dynamic_filter_fn(|metadata: &Metadata<'_>, _: &Context<'_, S>| {
        metadata.target() == "sqlx::query" && COUNTING.load(Ordering::Relaxed)
    });
    Listener.with_filter(statements)
}

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        if let Some(counts) = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let text = if told.statement.trim().is_empty() { told.summary } else { told.statement };
            let words: Vec<&str> = text.split_whitespace().collect();
            let count = counts.entry(words.join(" ").chars().take(SHOWN).collect()).or_default();
            count.times += 1;
            count.seconds += told.seconds;
        }
    }
}

#[derive(Default)]
struct Told {
    summary: String,
    statement: String,
    seconds: f64,
}

impl Visit for Told {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.seconds = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
