//! The last word about a claim.

use kraftr_protocol::message::Grant;
use kraftr_protocol::{Event, EventBody, Failure, FailureCode};

use super::{Ending, Pipeline, begins};
use crate::lease::{Lease, Stop};
use crate::retry::Backoff;

/// What becomes of the job message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reported {
    /// The scheduler will know, or wants to know nothing: acknowledge it.
    Settled,
    /// The scheduler could not be told: give it back.
    Unsettled,
}

impl Pipeline {
    /// Publishes what became of a claim until that is confirmed or the claim is gone.
    pub(crate) async fn report(&self, grant: &Grant, lease: &Lease, ending: Ending) -> Reported {
        let body = match body(ending) {
            Ok(body) => body,
            Err(gone) => return settle(gone),
        };
        begins("report");
        let event = Event {
            render: grant.render,
            attempt: grant.attempt,
            epoch: grant.epoch,
            worker: self.worker,
            body,
        };
        tokio::select! {
            biased;
            gone = lease.gone() => settle(gone),
            confirmed = self.publish(event) => if confirmed { Reported::Settled } else { Reported::Unsettled },
        }
    }

    /// False when the transport is closed.
    async fn publish(&self, event: Event) -> bool {
        let mut backoff = Backoff::new(u32::MAX, event.render.0.as_u128() as u64);
        loop {
            match self.transport.publish_event(event.clone()).await {
                Ok(()) => return true,
                Err(error) if error.is_permanent() => return false,
                Err(error) => tracing::warn!(%error, "an event was not confirmed"),
            }
            backoff.wait().await;
        }
    }
}

/// A fenced claim's job is done with; one that could not be renewed may still be wanted.
fn settle(gone: Stop) -> Reported {
    if gone == Stop::Lost { Reported::Unsettled } else { Reported::Settled }
}

/// What is told about an ending, or why nothing is.
fn body(ending: Ending) -> Result<EventBody, Stop> {
    Ok(match ending {
        Ending::Delivered { artifacts, device_time } => EventBody::Succeeded { artifacts, device_time },
        Ending::Failed(failure) => EventBody::Failed { failure },
        Ending::Crashed => EventBody::EngineCrashed,
        Ending::Stopped { why: Stop::Cancel, step } => EventBody::Cancelled { step },
        Ending::Stopped { why: Stop::HandBack, .. } => EventBody::HandedBack,
        Ending::Stopped { why: Stop::TimeLimit, .. } => {
            let message = "the render took longer than a render may";
            EventBody::Failed { failure: Failure::new(FailureCode::TimeLimit, message) }
        }
        Ending::Stopped { why: gone @ (Stop::Fenced | Stop::Lost), .. } => return Err(gone),
    })
}
