//! `kraftr admin fsck`: do rows, objects and queues agree?

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kraftr_protocol::Clock as _;
use kraftr_scheduler::blobs::BlobStore;
use kraftr_scheduler::clock::SystemClock;
use kraftr_scheduler::fsck::{Fsck, Missing, check};
use kraftr_scheduler::store::{LaneLoad, Store};
use kraftr_scheduler::sweeper::Orphans;
use kraftr_transport::rabbit::{QueueDepth, RabbitMq};
use serde::Serialize;

use crate::commands::Outcome;
use crate::output;

/// How long the broker is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared. The broker is absent in embedded mode and where none is configured.
pub(super) struct Sides {
    pub(super) store: Arc<dyn Store>,
    pub(super) blobs: Arc<dyn BlobStore>,
    pub(super) broker: Option<Arc<RabbitMq>>,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    /// Rows that refer to an object.
    rows: u64,
    missing: Vec<Missing>,
    objects: u64,
    foreign: u64,
    orphans: u64,
    orphan_bytes: u64,
    orphan_keys: Vec<String>,
    /// The orphans were erased.
    repaired: bool,
    queues: Option<Vec<Queue>>,
}

#[derive(Serialize)]
struct Queue {
    name: String,
    /// Messages that wait; absent when there is no such queue.
    messages: Option<u32>,
    consumers: Option<u32>,
    /// Renders whose job message this queue or one of its consumers should have; of a lane only.
    dispatched: Option<u32>,
    fault: Option<String>,
}

/// Runs the command.
pub(super) async fn run(sides: Sides, repair: bool, json: bool) -> Result<Outcome> {
    let what = if repair { Orphans::Erase } else { Orphans::Report };
    let (store, blobs) = (&*sides.store, &*sides.blobs);
    let Fsck { rows, missing, swept } = check(store, blobs, SystemClock.now(), what).await?;
    let queues = match &sides.broker {
        Some(broker) => Some(queues(store, broker).await?),
        None => None,
    };
    let faults = queues.iter().flatten().any(|queue| queue.fault.is_some());
    let report = Report {
        ok: missing.is_empty() && !faults && (repair || swept.orphans == 0),
        rows,
        missing,
        objects: swept.objects,
        foreign: swept.foreign,
        orphans: swept.orphans,
        orphan_bytes: swept.orphan_bytes,
        orphan_keys: swept.named,
        repaired: repair,
        queues,
    };
    if json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.ok { Outcome::Done } else { Outcome::FoundFault })
}

async fn queues(store: &dyn Store, broker: &RabbitMq) -> Result<Vec<Queue>> {
    let loads = store.lanes_in_flight().await?;
    let lanes: Vec<_> = loads.iter().map(|load| load.lane.clone()).collect();
    let depths = broker.depths(&lanes).await.context("the queues could not be looked at")?;
    Ok(depths
        .into_iter()
        .map(|depth| {
            let load = loads.iter().find(|load| broker.queue_of(&load.lane) == depth.queue);
            queue(depth, load)
        })
        .collect())
}

/// A queue that is missing and one that keeps what nobody could apply are faults. Messages without a row are none:
/// they are refused when they are claimed.
fn queue(QueueDepth { queue: name, depth }: QueueDepth, load: Option<&LaneLoad>) -> Queue {
    let dispatched = load.map(|load| load.dispatched);
    let fault = match depth {
        None if dispatched == Some(0) => None,
        None => {
            Some("there is no such queue: its messages are lost, and the reaper sends them again".to_owned())
        }
        Some((waiting, _)) if waiting > 0 && name.ends_with(".dead.events") => {
            Some("no scheduler could apply these events: the log says why".to_owned())
        }
        Some(_) => None,
    };
    let (messages, consumers) = (depth.map(|depth| depth.0), depth.map(|depth| depth.1));
    Queue { name, messages, consumers, dispatched, fault }
}

fn print(report: &Report) -> Result<()> {
    for Missing { key, bytes, found_bytes } in &report.missing {
        match found_bytes {
            None => output::line(format_args!("missing: {key}, {bytes} bytes"))?,
            Some(found) => {
                output::line(format_args!("wrong length: {key} has {found} bytes instead of {bytes}"))?;
            }
        }
    }
    let done = if report.repaired { "erased" } else { "no row refers to it" };
    for key in &report.orphan_keys {
        output::line(format_args!("orphan: {key}: {done}"))?;
    }
    for queue in report.queues.iter().flatten() {
        let count = |count: Option<u32>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let dispatched =
            queue.dispatched.map_or_else(String::new, |count| format!(", {count} renders dispatched"));
        output::line(format_args!(
            "queue {}: {} messages, {} consumers{dispatched}",
            queue.name,
            count(queue.messages),
            count(queue.consumers)
        ))?;
        if let Some(fault) = &queue.fault {
            output::line(format_args!("  {fault}"))?;
        }
    }
    if report.queues.is_none() {
        output::line("no broker is configured: queues were not looked at")?;
    }
    output::line(format_args!(
        "{} rows with an object, {} of them missing; {} objects, {} orphans ({} bytes), {} not ours: {}",
        report.rows,
        report.missing.len(),
        report.objects,
        report.orphans,
        report.orphan_bytes,
        report.foreign,
        if report.ok { "all agree" } else { "they do not agree" }
    ))?;
    Ok(())
}
