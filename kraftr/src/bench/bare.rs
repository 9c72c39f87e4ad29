//! The transport alone, as a task queue without results is measured: publish with confirm, hand to a
//! handler that does nothing, acknowledge. No store, no claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kraftr_protocol::message::Job;
use kraftr_protocol::{Lane, RenderId};
use kraftr_transport::Transport;
use serde::Serialize;
use tokio::task::JoinSet;

use super::latency::{Arrivals, Quantiles, open_loop};
use super::parts::{BenchError, PUBLISHERS, Ways, lane};

/// What the transport does by itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bare {
    /// Confirmed publishes a second, nobody consuming.
    pub publishes_per_s: f64,
    /// Deliveries acknowledged a second, nobody publishing.
    pub burn_per_s: f64,
    /// Open loop: from when a job was due to its handler.
    pub open_loop: Option<Quantiles>,
}

/// Publishes `jobs`, burns them down, then runs the open loop at `rate`.
pub(super) async fn measure(
    ways: &Ways,
    jobs: usize,
    workers: usize,
    slots: usize,
    rate: Option<f64>,
) -> Result<Bare, BenchError> {
    let (publisher, lane) = (Arc::clone(&ways.scheduler), lane());
    // The lane's queue is there before the first job, as it is in a fleet that has workers.
    drop(publisher.consume_jobs(std::slice::from_ref(&lane), 1).await?);
    let start = Instant::now();
    publish(&publisher, &lane, jobs).await?;
    let publishes_per_s = jobs as f64 / start.elapsed().as_secs_f64();

    let (handled, arrivals) = (Arc::new(AtomicUsize::new(0)), Arc::new(Arrivals::new(jobs)));
    let start = Instant::now();
    let mut handlers = JoinSet::new();
    for _ in 0..workers {
        let transport = Arc::clone(&ways.workers);
        let (lane, handled, arrivals) = (lane.clone(), Arc::clone(&handled), Arc::clone(&arrivals));
        handlers.spawn(async move {
            let Ok(mut source) = transport.consume_jobs(&[lane], slots).await else { return };
            while let Some(delivery) = source.next().await {
                arrivals.arrived(delivery.body.attempt as usize);
                delivery.ack();
                handled.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while handled.load(Ordering::Relaxed) < jobs {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let burn_per_s = jobs as f64 / start.elapsed().as_secs_f64();

    let open_loop = match rate {
        None => None,
        Some(rate) => {
            let count = parts_of(jobs, rate);
            let submit = |n: usize, _| {
                let (publisher, lane) = (Arc::clone(&publisher), lane.clone());
                async move {
                    if let Err(error) = publisher.publish_job(&lane, job(n)).await {
                        tracing::error!(%error, "a job was not published");
                    }
                }
            };
            open_loop(count, rate, &arrivals, submit).await;
            while handled.load(Ordering::Relaxed) < jobs + count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Some(arrivals.quantiles())
        }
    };
    handlers.abort_all();
    Ok(Bare { publishes_per_s, burn_per_s, open_loop })
}

/// Jobs of the open loop: ten seconds of them, at most `jobs`.
pub(super) fn parts_of(jobs: usize, rate: f64) -> usize {
    jobs.min((rate * 10.0).ceil() as usize).max(1)
}

fn job(attempt: usize) -> Job {
    Job { render: RenderId(uuid::Uuid::from_u128(attempt as u128)), attempt: attempt as u32 }
}

async fn publish(transport: &Arc<dyn Transport>, lane: &Lane, jobs: usize) -> Result<(), BenchError> {
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (transport, lane) = (Arc::clone(transport), lane.clone());
        publishers.spawn(async move {
            for n in (publisher..jobs).step_by(PUBLISHERS) {
                transport.publish_job(&lane, job(n)).await?;
            }
            Ok::<(), BenchError>(())
        });
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    Ok(())
}
