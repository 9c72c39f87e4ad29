//! apalis-amqp on the broker that `KRAFTR_AMQP_URL` names: quorum queue, 1 KB of payload, a handler that
//! does nothing. Usage: `apalis-queue JOBS RATE`. Prints one line of JSON: pushes a second, jobs burnt down
//! a second, and in an open loop at RATE a second for ten seconds the milliseconds from when a job was
//! due to its handler.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apalis::prelude::*;
use apalis_amqp::{AmqpBackend, Config};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const WORKERS: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noop {
    due: f64,
    payload: String,
}

#[derive(Clone, Default)]
struct Arrivals {
    count: Arc<AtomicUsize>,
    took: Arc<Mutex<Vec<f64>>>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

async fn handle(task: Noop, arrivals: Data<Arrivals>) -> Result<(), BoxDynError> {
    if task.due > 0.0 {
        arrivals.took.lock().map_err(|_| "poisoned")?.push(now() - task.due);
    }
    arrivals.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn backend(queue: &str, url: &str) -> Result<AmqpBackend<Noop>, Box<dyn Error>> {
    let config = Config::default().queue(queue).quorum(true).prefetch_count(1);
    Ok(AmqpBackend::new_from_addr(url)?.with_config(config))
}

async fn wait(arrivals: &Arrivals, jobs: usize) {
    while arrivals.count.load(Ordering::Relaxed) < jobs {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let jobs: usize = arguments.next().ok_or("JOBS")?.parse()?;
    let rate: f64 = arguments.next().ok_or("RATE")?.parse()?;
    let url = std::env::var("KRAFTR_AMQP_URL")?;
    let queue = format!("apalis.bench.{}", std::process::id());
    let payload = "x".repeat(1024);

    let mut publisher = backend(&queue, &url)?;
    let start = Instant::now();
    for _ in 0..jobs {
        publisher.push(Noop { due: 0.0, payload: payload.clone() }).await?;
    }
    let publishes_per_s = jobs as f64 / start.elapsed().as_secs_f64();

    let arrivals = Arrivals::default();
    let start = Instant::now();
    for worker in 0..WORKERS {
        let mut backend = backend(&queue, &url)?;
        // apalis-amqp 1.0.0 opens its consumer only on a backend that has pushed before.
        backend.push(Noop { due: 0.0, payload: payload.clone() }).await?;
        let worker = WorkerBuilder::new(format!("bench-{worker}"))
            .backend(backend)
            .data(arrivals.clone())
            .build(handle);
        tokio::spawn(async move {
            if let Err(error) = worker.run().await {
                eprintln!("worker: {error}");
            }
        });
    }
    wait(&arrivals, jobs + WORKERS).await;
    let burn_per_s = jobs as f64 / start.elapsed().as_secs_f64();

    let count = (rate * 10.0) as usize;
    let (start, epoch) = (Instant::now(), now());
    for n in 0..count {
        let after = n as f64 / rate;
        tokio::time::sleep_until(start + Duration::from_secs_f64(after)).await;
        publisher.push(Noop { due: epoch + after, payload: payload.clone() }).await?;
    }
    wait(&arrivals, jobs + WORKERS + count).await;
    let mut took = arrivals.took.lock().map_err(|_| "poisoned")?.clone();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[(share * (took.len() - 1) as f64).round() as usize] * 1000.0;
    let open_loop = serde_json::json!({
        "jobs": took.len(), "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0),
    });
    println!(
        "{}",
        serde_json::json!({
            "publishes_per_s": publishes_per_s, "burn_per_s": burn_per_s, "open_loop": open_loop,
        })
    );
    Ok(())
}
