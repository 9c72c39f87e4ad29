//! Answers workers: claims, heartbeats, places to upload to.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use kraftr_protocol::message::{
    Grant, Input, Job, Link, NotGranted, Reply, Request, SignRequest, Signing, UploadRequest,
};
use kraftr_protocol::{RenderId, WorkerId, limits};
use kraftr_transport::{BoxSource, Call};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ahead::COMMIT_WITHIN;
use crate::app::App;
use crate::blobs::{BlobError, PutTerms};
use crate::provenance::SignatureError;
use crate::store::{Asset, ClaimOutcome, Claimed, Notice, StoreError};
use crate::wake::woken;

/// Calls that are answered together at most.
const TOGETHER_MAX: usize = 256;
/// How long a claim waits for its render, whose job may have gone ahead of its commit: longer than the relay counts on.
const WAIT_FOR_COMMIT: Duration = COMMIT_WITHIN.saturating_mul(2);
/// How often it looks for the render without being woken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
        ClaimOutcome::NotThere => Ok(Reply::NotGranted { reason: NotGranted::NotWanted }),
    }
}

/// A claim that waits for its answer.
struct Waiting {
    job: Job,
    worker: WorkerId,
    since: Instant,
    call: Call,
}

/// Answers calls that waited together: all claims among them, and those that are `early`, in one transaction. Gives back
/// the claims whose render is not there yet.
async fn answer_together(app: &App, early: Vec<Waiting>, calls: Vec<Call>) -> Vec<Waiting> {
    let mut claims = early;
    let mut others = Vec::new();
    for call in calls {
        match call.request {
            Request::Claim { job, worker } => {
                claims.push(Waiting { job, worker, since: Instant::now(), call });
            }
            _ => others.push(answer(app, call)),
        }
    }
    futures::future::join(grant_together(app, claims), futures::future::join_all(others)).await.0
}

async fn grant_together(app: &App, claims: Vec<Waiting>) -> Vec<Waiting> {
    if claims.is_empty() {
        return Vec::new();
    }
    let wanted: Vec<_> = claims.iter().map(|claim| (claim.job, claim.worker)).collect();
    let mut early = Vec::new();
    match app.store.grant_claims(&wanted).await {
        Ok(outcomes) => {
            for (claim, outcome) in claims.into_iter().zip(outcomes) {
                if outcome == ClaimOutcome::NotThere && claim.since.elapsed() < WAIT_FOR_COMMIT {
                    early.push(claim);
                    continue;
                }
                let reply = claim_reply(app, outcome).await.unwrap_or_else(|error| unavailable(&error));
                claim.call.answer(reply);
            }
        }
        // One broken row must not keep the others from being granted.
        Err(error) if error.is_permanent() && wanted.len() > 1 => {
            for claim in claims {
                early.extend(Box::pin(grant_together(app, vec![claim])).await);
            }
        }
        Err(error) => {
            let error = CallError::from(error);
            for claim in claims {
                claim.call.answer(unavailable(&error));
            }
        }
    }
    early
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
    let mut notices = app.store.notices();
    let mut early: Vec<Waiting> = Vec::new();
    loop {
        let awaited: BTreeSet<RenderId> = early.iter().map(|claim| claim.job.render).collect();
        let committed = |notice: &Notice| match notice {
            Notice::Changed(renders) => renders.iter().any(|render| awaited.contains(render)),
            Notice::Queue | Notice::Outbox => false,
        };
        let together = tokio::select! {
            () = shutdown.cancelled() => return,
            call = calls.next() => match call {
                Some(call) => waiting_too(call, &mut calls),
                None => return,
            },
            () = woken(&mut notices, LOOK_EVERY, committed), if !awaited.is_empty() => Vec::new(),
        };
        early = answer_together(app, early, together).await;
    }
}
