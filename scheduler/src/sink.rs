//! Applies what workers report: captures, voids, requeues.

use std::time::Duration;

use kraftr_protocol::message::Held;
use kraftr_protocol::{Event, EventBody, Failure, FailureCode};
use kraftr_transport::Delivery;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::blobs::BlobError;
use crate::store::rows::artifact_key;
use crate::store::{Applied, StoreError};

/// Events taken and not yet applied.
const PREFETCH: usize = 64;
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

/// Applies one event.
pub async fn apply(app: &App, event: &Event) -> Result<Applied, SinkError> {
    let checked;
    let event = match missing(app, event).await? {
        None => event,
        Some(failure) => {
            checked = Event { body: EventBody::Failed { failure }, ..event.clone() };
            &checked
        }
    };
    let applied = app.store.apply_events(std::slice::from_ref(event)).await?.pop();
    app.signals.committed();
    Ok(applied.ok_or_else(|| StoreError::Corrupt("an event got no outcome".into()))?)
}

/// Nothing is captured for an object that is not there.
async fn missing(app: &App, event: &Event) -> Result<Option<Failure>, BlobError> {
    let EventBody::Succeeded { artifacts, .. } = &event.body else { return Ok(None) };
    let held = Held { render: event.render, epoch: event.epoch };
    for artifact in artifacts {
        let key = artifact_key(held, artifact.sample, &artifact.content_type);
        if app.blobs.len(&key).await? != Some(artifact.bytes) {
            let message = format!("image {} was reported but is not in the store", artifact.sample);
            return Ok(Some(Failure::new(FailureCode::ArtifactMissing, message)));
        }
    }
    Ok(None)
}

/// Applies a delivery and settles it: what cannot be applied now comes again.
pub async fn take(app: &App, delivery: Delivery<Event>) -> Result<Applied, SinkError> {
    let applied = apply(app, &delivery.body).await?;
    delivery.ack();
    Ok(applied)
}

/// Takes events until `shutdown` or until the transport closes.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut events = match app.transport.consume_events(PREFETCH).await {
        Ok(events) => events,
        Err(error) => return tracing::error!(%error, "events cannot be consumed"),
    };
    loop {
        let delivery = tokio::select! {
            () = shutdown.cancelled() => return,
            delivery = events.next() => delivery,
        };
        let Some(delivery) = delivery else { return };
        let (render, epoch) = (delivery.body.render, delivery.body.epoch);
        match take(app, delivery).await {
            Ok(Applied::Changed(status)) => {
                tracing::info!(render.id = %render, render.epoch = epoch.0, render.status = status.as_str(), "applied");
            }
            Ok(Applied::Stale) => {
                tracing::info!(render.id = %render, render.epoch = epoch.0, "stale event refused");
            }
            Err(error) => {
                tracing::error!(render.id = %render, %error, "an event could not be applied");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
