//! How long things took, and an open loop that submits at a rate whatever the answers do.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

/// Moments of numbered jobs: when each was due, and how long it took from then to its arrival.
#[derive(Debug)]
pub(super) struct Arrivals {
    start: Instant,
    due_us: Vec<AtomicU64>,
    took_us: Vec<AtomicU64>,
}

/// Not there yet.
const NEVER: u64 = u64::MAX;

impl Arrivals {
    /// Room for `jobs` jobs, none of them due.
    pub(super) fn new(jobs: usize) -> Self {
        let never = || (0..jobs).map(|_| AtomicU64::new(NEVER)).collect();
        Self { start: Instant::now(), due_us: never(), took_us: never() }
    }

    /// Job `n` is due now.
    pub(super) fn due(&self, n: usize, at: Instant) {
        self.due_us[n].store(at.saturating_duration_since(self.start).as_micros() as u64, Ordering::Relaxed);
    }

    /// Job `n` has arrived. A job that arrives again keeps its first arrival; one that was never due is ignored.
    pub(super) fn arrived(&self, n: usize) {
        let now = self.start.elapsed().as_micros() as u64;
        let Some(due) = self.due_us.get(n).map(|due| due.load(Ordering::Relaxed)) else { return };
        if due != NEVER {
            let took = now.saturating_sub(due);
            // A second arrival finds the first and changes nothing.
            self.took_us[n].compare_exchange(NEVER, took, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    /// The distribution of those that arrived.
    pub(super) fn quantiles(&self) -> Quantiles {
        let mut took: Vec<u64> = self
            .took_us
            .iter()
            .map(|took| took.load(Ordering::Relaxed))
            .filter(|took| *took != NEVER)
            .collect();
        Quantiles::of(&mut took)
    }
}

/// A distribution of durations.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    /// How many were measured.
    pub jobs: usize,
    /// Median in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

impl Quantiles {
    /// The distribution of these durations in microseconds.
    pub(super) fn of(took_us: &mut [u64]) -> Self {
        took_us.sort_unstable();
        let at = |share: f64| {
            let last = took_us.len().saturating_sub(1);
            let us = took_us.get((share * last as f64).round() as usize).copied().unwrap_or(0);
            us as f64 / 1000.0
        };
        Self { jobs: took_us.len(), p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// How often the loop looks which jobs are due.
const TICK: Duration = Duration::from_millis(1);

/// Starts `jobs` jobs at `rate` a second, each when it is due and none of them waiting for another, and
/// waits for all. A job's latency counts from when it was due, so a stall is charged to everyone in it.
pub(super) async fn open_loop<F>(
    jobs: usize,
    rate: f64,
    arrivals: &Arrivals,
    mut submit: impl FnMut(usize, Instant) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    let mut ticker = tokio::time::interval(TICK);
    let mut next = 0;
    while next < jobs {
        ticker.tick().await;
        while next < jobs {
            let due = start + Duration::from_secs_f64(next as f64 / rate);
            if due > Instant::now() {
                break;
            }
            arrivals.due(next, due);
            under_way.spawn(submit(next, due));
            next += 1;
        }
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_what_arrived_and_the_first_time_only() {
        let arrivals = Arrivals::new(3);
        let past = arrivals.start;
        arrivals.due(0, past);
        arrivals.due(1, past);
        arrivals.arrived(0);
        let first = arrivals.quantiles();
        std::thread::sleep(Duration::from_millis(3));
        arrivals.arrived(0);
        arrivals.arrived(2);
        arrivals.arrived(9);
        assert_eq!(first.jobs, 1);
        let again = arrivals.quantiles();
        assert_eq!((again.jobs, again.max_ms.to_bits()), (1, first.max_ms.to_bits()));
    }

    #[tokio::test]
    async fn the_open_loop_starts_every_job_once() {
        let arrivals = std::sync::Arc::new(Arrivals::new(50));
        open_loop(50, 5_000.0, &arrivals, |n, _| {
            let arrivals = std::sync::Arc::clone(&arrivals);
            async move { arrivals.arrived(n) }
        })
        .await;
        assert_eq!(arrivals.quantiles().jobs, 50);
    }
}
