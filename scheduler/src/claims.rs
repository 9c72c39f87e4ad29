//! Answers workers: claims, heartbeats, places to upload to.

use futures::FutureExt as _;
use kraftr_protocol::message::{
    Grant, Input, Job, Link, Reply, Request, SignRequest, Signing, UploadRequest,
};
use kraftr_protocol::{WorkerId, limits};
use kraftr_transport::{BoxSource, Call};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::blobs::{BlobError, PutTerms};
use crate::provenance::SignatureError;
use crate::store::{Asset, ClaimOutcome, Claimed, StoreError};

/// Calls that are answered together at most.
const TOGETHER_MAX: usize = 256;

/// Why a call could not be answered now; the worker asks again.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Answers one call.
pub async fn answer(app: &App, call: Call) {
    let reply = match reply(app, &call.request).await {
        Ok(reply) => reply,
        Err(error) => unavailable(&error),
    };
    call.answer(reply);
}

async fn reply(app: &App, request: &Request) -> Result<Reply, CallError> {
    match request {
        Request::Claim { job, worker } => {
            let outcome = app.store.grant_claims(&[(*job, *worker)]).await?.pop();
            claim_reply(app, outcome.ok_or_else(|| StoreError::Corrupt("a claim got no outcome".into()))?)
                .await
        }
        Request::Heartbeat(heartbeat) => {
            let verdicts = app.store.renew_leases(heartbeat).await?;
            Ok(Reply::Leases { verdicts })
        }
        Request::Upload(request) => upload(app, request).await,
        Request::Sign(request) => sign(app, request).await,
    }
}

async fn claim_reply(app: &App, outcome: ClaimOutcome) -> Result<Reply, CallError> {
    match outcome {
        ClaimOutcome::Granted(claimed) => Ok(Reply::Granted(Box::new(grant(app, *claimed).await?))),
        ClaimOutcome::NotGranted(reason) => Ok(Reply::NotGranted { reason }),
    }
}

/// Answers calls that waited together: all claims among them in one transaction.
async fn answer_together(app: &App, calls: Vec<Call>) {
    let mut claims = Vec::new();
    let mut others = Vec::new();
    for call in calls {
        match call.request {
            Request::Claim { job, worker } => claims.push(((job, worker), call)),
            _ => others.push(answer(app, call)),
        }
    }
    let (wanted, claims): (Vec<_>, Vec<_>) = claims.into_iter().unzip();
    futures::future::join(grant_together(app, &wanted, claims), futures::future::join_all(others)).await;
}

async fn grant_together(app: &App, wanted: &[(Job, WorkerId)], calls: Vec<Call>) {
    if wanted.is_empty() {
        return;
    }
    match app.store.grant_claims(wanted).await {
        Ok(outcomes) => {
            for (call, outcome) in calls.into_iter().zip(outcomes) {
                let reply = claim_reply(app, outcome).await.unwrap_or_else(|error| unavailable(&error));
                call.answer(reply);
            }
        }
        // One broken row must not keep the others from being granted.
        Err(error) if error.is_permanent() && wanted.len() > 1 => {
            for call in calls {
                answer(app, call).await;
            }
        }
        Err(error) => {
            let error = CallError::from(error);
            for call in calls {
                call.answer(unavailable(&error));
            }
        }
    }
}

fn unavailable(error: &CallError) -> Reply {
    tracing::error!(%error, "a worker's call could not be answered");
    Reply::Unavailable { message: error.to_string() }
}

async fn grant(app: &App, claimed: Claimed) -> Result<Grant, BlobError> {
    let input = async |asset: &Asset| -> Result<Input, BlobError> {
        let link: Link = app.blobs.presign_get(&asset.object_key, limits::URL_TTL).await?;
        Ok(Input { asset: asset.id, sha256: asset.sha256, link })
    };
    Ok(Grant {
        render: claimed.render.id,
        attempt: claimed.render.attempts,
        epoch: claimed.render.epoch,
        person: input(&claimed.person).await?,
        garment: input(&claimed.garment).await?,
        class: claimed.render.class,
        spec: claimed.render.spec,
        watermark: claimed.render.watermark,
        signing: Signing { chain: app.provenance.signatory.chain().pem().to_owned(), at: app.clock.now() },
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
    Ok(Reply::UploadTo(app.blobs.presign_put(&key, &terms, limits::URL_TTL).await?))
}

/// Signs for a claim that holds, and nothing but a claim of Content Credentials.
async fn sign(app: &App, request: &SignRequest) -> Result<Reply, CallError> {
    if !app.store.may_sign(request.held, request.sample).await? {
        return Ok(Reply::Fenced);
    }
    match app.provenance.signatory.sign(request.message.clone()).await {
        Ok(signature) => Ok(Reply::Signed { signature: signature.0.to_vec() }),
        Err(SignatureError::Claim(error)) => {
            tracing::error!(%error, render.id = %request.held.render, "a worker asked for a signature that it may not have");
            Ok(Reply::NotSigned { reason: error.to_string() })
        }
        Err(error) => Err(error.into()),
    }
}

/// The call and those that wait behind it.
fn waiting_too(first: Call, calls: &mut BoxSource<Call>) -> Vec<Call> {
    let mut together = vec![first];
    while together.len() < TOGETHER_MAX
        && let Some(Some(call)) = calls.next().now_or_never()
    {
        together.push(call);
    }
    together
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
            Some(call) => answer_together(app, waiting_too(call, &mut calls)).await,
            None => return,
        }
    }
}
