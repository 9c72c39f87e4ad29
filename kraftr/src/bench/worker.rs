//! Workers of the bench: they claim, do nothing, report and acknowledge, as a worker whose model and
//! network took no time would.

use std::sync::Arc;

use kraftr_protocol::message::{Grant, Heartbeat, Job, Reply, Request};
use kraftr_protocol::{ArtifactReport, Digest, Event, EventBody, GpuMillis, Lane, WorkerId, limits};
use kraftr_transport::{Delivery, Transport};
use tokio::task::JoinSet;

use super::latency::Arrivals;
use super::parts::{OBJECT_BYTES, lane};

/// One worker.
pub(super) struct BenchWorker {
    /// Who.
    pub(super) id: WorkerId,
    /// The way to the scheduler.
    pub(super) transport: Arc<dyn Transport>,
    /// Renders at once.
    pub(super) slots: usize,
    /// Where granted claims are noted, by the render's seed.
    pub(super) arrivals: Arc<Arrivals>,
}

impl BenchWorker {
    /// Announces itself and takes jobs until it is aborted.
    pub(super) async fn run(self) {
        let worker = Arc::new(self);
        let lanes = [lane()];
        let mut renders = JoinSet::new();
        // A subscription that fails now would fail the whole bench: it says so by never finishing a render.
        let mut jobs = match worker.transport.consume_jobs(&lanes, worker.slots).await {
            Ok(jobs) => jobs,
            Err(error) => return tracing::error!(%error, "no jobs can be taken"),
        };
        let mut heart = tokio::time::interval(limits::HEARTBEAT_EVERY);
        loop {
            tokio::select! {
                _ = heart.tick() => {
                    let (worker, lanes) = (Arc::clone(&worker), lanes.to_vec());
                    renders.spawn(async move { worker.announce(lanes).await });
                }
                Some(_) = renders.join_next() => {}
                job = jobs.next() => match job {
                    Some(delivery) => {
                        renders.spawn(Arc::clone(&worker).handle(delivery));
                    }
                    None => return,
                },
            }
        }
    }

    async fn announce(&self, lanes: Vec<Lane>) {
        let heartbeat = Heartbeat { worker: self.id, lanes, slots: self.slots as u32, held: Vec::new() };
        if let Err(error) = self.transport.call(Request::Heartbeat(heartbeat)).await {
            tracing::warn!(%error, "a heartbeat was not answered");
        }
    }

    async fn handle(self: Arc<Self>, delivery: Delivery<Job>) {
        let request = Request::Claim { job: delivery.body, worker: self.id };
        match self.transport.call(request).await {
            Ok(Reply::Granted(grant)) => {
                self.arrivals.arrived(grant.spec.seed as usize);
                match self.transport.publish_event(self.succeeded(&grant)).await {
                    Ok(()) => delivery.ack(),
                    Err(error) => tracing::warn!(%error, "an event was not confirmed"),
                }
            }
            Ok(Reply::NotGranted { reason }) => {
                tracing::debug!(?reason, "not granted");
                delivery.ack();
            }
            Ok(other) => tracing::warn!(?other, "the answer to a claim is none"),
            Err(error) => tracing::warn!(%error, "a claim was not answered"),
        }
    }

    fn succeeded(&self, grant: &Grant) -> Event {
        let artifact = |sample| ArtifactReport {
            sample,
            sha256: Digest([0; 32]),
            bytes: OBJECT_BYTES,
            width: 1,
            height: 1,
            content_type: grant.spec.format.content_type().to_owned(),
        };
        let artifacts = (0..grant.spec.samples).map(artifact).collect();
        Event {
            render: grant.render,
            attempt: grant.attempt,
            epoch: grant.epoch,
            worker: self.id,
            body: EventBody::Succeeded { artifacts, device_time: GpuMillis(1) },
        }
    }
}
