//! Applies what workers report: captures, voids, requeues.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use kraftr_protocol::message::Held;
use kraftr_protocol::{Event, EventBody, Failure, FailureCode};
use kraftr_transport::{BoxSource, Delivery};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::blobs::{BlobError, PutTerms};
use crate::metrics::StatusLabels;
use crate::store::rows::artifact_key;
use crate::store::{Applied, StoreError};

/// Events taken and not yet applied; also those of one transaction.
const PREFETCH: usize = 256;
/// Objects looked for at the same time.
const CHECKS_AT_ONCE: usize = 16;
/// How long an event waits for others to be applied with: nobody waits for the capture, and the transactions that
/// somebody does wait for have the database to themselves meanwhile.
const GATHER: Duration = Duration::from_millis(10);
/// Pause after a failure of the database or the object store, before the event comes again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an event could not be applied now; it stays in its queue.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The database is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store is away.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Applies events in one transaction: as many outcomes, in order.
pub async fn apply(app: &App, events: &[Event]) -> Result<Vec<Applied>, SinkError> {
    let checks =
        futures::stream::iter(events.to_vec()).map(|event| checked(app, event)).buffered(CHECKS_AT_ONCE);
    let events: Vec<Event> = checks.try_collect().await?;
    let outcomes = app.store.apply_events(&events).await?;
    for outcome in &outcomes {
        if let Applied::Changed(status) = outcome
            && status.is_terminal()
        {
            app.metrics.renders_ended.get_or_create(&StatusLabels { status: status.as_str() }).inc();
        }
    }
    Ok(outcomes)
}

/// The event, or the failure that it hides.
async fn checked(app: &App, event: Event) -> Result<Event, BlobError> {
    Ok(match missing(app, &event).await? {
        None => event,
        Some(failure) => Event { body: EventBody::Failed { failure }, ..event },
    })
}

/// Nothing is captured for an object that is not there.
async fn missing(app: &App, event: &Event) -> Result<Option<Failure>, BlobError> {
    let EventBody::Succeeded { artifacts, .. } = &event.body else { return Ok(None) };
    let held = Held { render: event.render, epoch: event.epoch };
    for artifact in artifacts {
        let key = artifact_key(held, artifact.sample, &artifact.content_type);
        let terms = PutTerms {
            sha256: artifact.sha256,
            bytes: artifact.bytes,
            content_type: artifact.content_type.clone(),
        };
        if !app.blobs.holds(&key, &terms).await? {
            let message = format!("image {} was reported but is not what is in the store", artifact.sample);
            return Ok(Some(Failure::new(FailureCode::ArtifactMissing, message)));
        }
    }
    Ok(None)
}

/// Applies deliveries and settles them: what cannot be applied now comes again.
async fn take(app: &App, deliveries: Vec<Delivery<Event>>) -> Result<(), SinkError> {
    let events: Vec<Event> = deliveries.iter().map(|delivery| delivery.body.clone()).collect();
    let outcomes = apply(app, &events).await?;
    for (delivery, outcome) in deliveries.into_iter().zip(outcomes) {
        let Event { render, epoch, .. } = delivery.body;
        match outcome {
            Applied::Changed(status) => {
                tracing::info!(render.id = %render, render.epoch = epoch.0, render.status = status.as_str(), "applied");
            }
            Applied::Stale => {
                tracing::info!(render.id = %render, render.epoch = epoch.0, "stale event refused");
            }
        }
        delivery.ack();
    }
    Ok(())
}

/// The delivery and those that wait behind it.
fn waiting_too(first: Delivery<Event>, events: &mut BoxSource<Delivery<Event>>) -> Vec<Delivery<Event>> {
    let mut together = vec![first];
    while together.len() < PREFETCH
        && let Some(Some(delivery)) = events.next().now_or_never()
    {
        together.push(delivery);
    }
    together
}

/// Takes events until `shutdown` or until the transport closes.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut events = match app.transport.consume_events(PREFETCH).await {
        Ok(events) => events,
        Err(error) => return tracing::error!(%error, "events cannot be consumed"),
    };
    // After a failure one at a time, so that a broken event keeps no other from being applied.
    let mut alone = 0usize;
    loop {
        let delivery = tokio::select! {
            () = shutdown.cancelled() => return,
            delivery = events.next() => delivery,
        };
        let Some(delivery) = delivery else { return };
        let together = if alone > 0 {
            vec![delivery]
        } else {
            tokio::time::sleep(GATHER).await;
            waiting_too(delivery, &mut events)
        };
        let (count, redelivered) = (together.len(), together[0].redelivered);
        match take(app, together).await {
            Ok(()) => alone = alone.saturating_sub(1),
            Err(error) => {
                tracing::error!(%error, events = count, redelivered, "events could not be applied");
                alone = alone.max(count);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
