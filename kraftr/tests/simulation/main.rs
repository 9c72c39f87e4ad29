//! A deterministic simulation of the fleet: one seed decides every request, fault, crash and delay.
//!
//! The real store, dispatcher, relay, claims, sink and reaper run over the real in-process transport
//! with seeded faults around it. Time stands still unless the world moves it, and the world steps
//! every loop itself, so a seed replays exactly. The auditor keeps a model of its own and says what
//! each render must come to.
//!
//! `KRAFTR_SIM_SEEDS=50000` runs more seeds, `KRAFTR_SIM_SEED=1234` replays one and prints what happened.

mod auditor;
mod blobs;
mod faults;
mod worker;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Summary, World};

/// Seeds of a normal run.
const SEEDS: u64 = 2_000;

#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn run(seed: u64, trace: bool) -> Summary {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    runtime.block_on(async { World::new(seed, trace).await.run().await })
}

#[test]
#[expect(clippy::print_stdout, reason = "the seed that failed is what the reader of a failure needs")]
fn no_seed_breaks_the_books_or_loses_a_render() {
    if let Some(seed) = variable("KRAFTR_SIM_SEED") {
        println!("seed {seed}: {:#?}", run(seed, true));
        return;
    }
    let seeds = variable("KRAFTR_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds || failed.load(Ordering::SeqCst) != u64::MAX {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(seed, false))) {
                        Ok(summary) => total.lock().expect("no run holds it while it panics").add(&summary),
                        Err(_) => drop(failed.fetch_min(seed, Ordering::SeqCst)),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        failed == u64::MAX,
        "seed {failed} failed after {} seeds; replay it with KRAFTR_SIM_SEED={failed}",
        next.into_inner().min(seeds)
    );
    let total = total.into_inner().expect("no run holds it while it panics");
    println!("{seeds} seeds: {total:?}");
    total.assert_covers_everything();
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 77, 1_000_003] {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
