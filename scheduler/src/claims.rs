//! Answers workers: claims, heartbeats, places to upload to.

use kraftr_protocol::limits;
use kraftr_protocol::message::{Grant, Input, Link, Reply, Request, UploadRequest};
use kraftr_transport::Call;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::blobs::{BlobError, PutTerms};
use crate::store::{Asset, ClaimOutcome, Claimed, StoreError};

/// Why a call could not be answered now; the worker asks again.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Answers one call.
pub async fn answer(app: &App, call: Call) {
    let reply = match reply(app, &call.request).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::error!(%error, "a worker's call could not be answered");
            Reply::Unavailable { message: error.to_string() }
        }
    };
    call.answer(reply);
}

async fn reply(app: &App, request: &Request) -> Result<Reply, CallError> {
    match request {
        Request::Claim { job, worker } => {
            let outcome = app.store.grant_claims(&[(*job, *worker)]).await?.pop();
            app.signals.committed();
            match outcome.ok_or_else(|| StoreError::Corrupt("a claim got no outcome".into()))? {
                ClaimOutcome::Granted(claimed) => Ok(Reply::Granted(Box::new(grant(app, *claimed)?))),
                ClaimOutcome::NotGranted(reason) => Ok(Reply::NotGranted { reason }),
            }
        }
        Request::Heartbeat(heartbeat) => {
            let verdicts = app.store.renew_leases(heartbeat).await?;
            app.signals.committed();
            Ok(Reply::Leases { verdicts })
        }
        Request::Upload(request) => upload(app, request).await,
    }
}

fn grant(app: &App, claimed: Claimed) -> Result<Grant, BlobError> {
    let input = |asset: &Asset| -> Result<Input, BlobError> {
        let link: Link = app.blobs.presign_get(&asset.object_key, limits::URL_TTL)?;
        Ok(Input { asset: asset.id, sha256: asset.sha256, link })
    };
    Ok(Grant {
        render: claimed.render.id,
        attempt: claimed.render.attempts,
        epoch: claimed.render.epoch,
        person: input(&claimed.person)?,
        garment: input(&claimed.garment)?,
        class: claimed.render.class,
        spec: claimed.render.spec,
        watermark: claimed.render.watermark,
        lease_ms: limits::LEASE.as_millis() as u64,
        time_limit_ms: limits::RENDER_TIME_MAX.as_millis() as u64,
    })
}

async fn upload(app: &App, request: &UploadRequest) -> Result<Reply, CallError> {
    let Some(key) = app.store.authorise_upload(request).await? else {
        return Ok(Reply::Fenced);
    };
    let terms =
        PutTerms { sha256: request.sha256, bytes: request.bytes, content_type: request.content_type.clone() };
    Ok(Reply::UploadTo(app.blobs.presign_put(&key, &terms, limits::URL_TTL)?))
}

/// Answers until `shutdown` or until the transport closes.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut calls = match app.transport.serve_calls().await {
        Ok(calls) => calls,
        Err(error) => return tracing::error!(%error, "calls cannot be served"),
    };
    loop {
        let call = tokio::select! {
            () = shutdown.cancelled() => return,
            call = calls.next() => call,
        };
        match call {
            Some(call) => answer(app, call).await,
            None => return,
        }
    }
}
