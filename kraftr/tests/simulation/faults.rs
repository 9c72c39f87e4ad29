//! How often what goes wrong: the probabilities themselves come from the seed.

use kraftr_transport::faults::{CallRates, Faults, Rates};
use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

/// Weights of the world's own faults, beside the transport's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// What the transport does to messages.
    pub(crate) transport: Faults,
    /// Chance per worker step that the worker process is killed.
    pub(crate) crash: f64,
    /// Chance per worker step that it stops for longer than its lease.
    pub(crate) pause: f64,
    /// Chance per world step that the scheduler is killed and started again.
    pub(crate) scheduler_restart: f64,
    /// Chance per world step that the whole embedded process is.
    pub(crate) fleet_restart: f64,
    /// Chance that an upload fails, or succeeds and says it failed.
    pub(crate) upload: f64,
}

fn rate(rng: &mut ChaCha8Rng, most: f64) -> f64 {
    if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 }
}

fn rates(rng: &mut ChaCha8Rng) -> Rates {
    Rates {
        loss: rate(rng, 0.15),
        duplication: rate(rng, 0.2),
        delay: rate(rng, 0.3),
        reordering: rate(rng, 0.3),
    }
}

impl Weather {
    /// The weather of a seed; some are calm, some are terrible.
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let calls = CallRates {
            request_loss: rate(rng, 0.15),
            duplication: rate(rng, 0.15),
            reply_loss: rate(rng, 0.15),
        };
        Self {
            transport: Faults {
                jobs: rates(rng),
                events: rates(rng),
                progress: rates(rng),
                control: rates(rng),
                calls,
                unconfirmed: rate(rng, 0.2),
            },
            crash: rate(rng, 0.03),
            pause: rate(rng, 0.03),
            scheduler_restart: rate(rng, 0.02),
            fleet_restart: rate(rng, 0.01),
            upload: rate(rng, 0.2),
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm() -> Self {
        Self {
            transport: Faults::default(),
            crash: 0.0,
            pause: 0.0,
            scheduler_restart: 0.0,
            fleet_restart: 0.0,
            upload: 0.0,
        }
    }
}
