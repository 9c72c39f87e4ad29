//! Content Credentials of marked pictures, signed by the scheduler.

use std::sync::Arc;

use kraftr_protocol::message::{Grant, Held, Reply, Request, SignRequest};
use kraftr_protocol::{Failure, FailureCode};
use kraftr_provenance::Marked;
use kraftr_provenance::credentials::{Chain, Facts, Input, SignError, Signature, Signed};
use kraftr_transport::Transport;
use tokio::runtime::Handle;

use super::{Ending, Pipeline, begins};
use crate::claim::{Answer, ask};
use crate::lease::Stop;
use crate::retry::Backoff;

/// How often a signature is asked for again: for half a minute on average, as an upload is.
const RETRIES: u32 = 16;
/// The media type that assets are stored in.
const INPUT_TYPE: &str = "image/png";

impl Pipeline {
    /// Writes the manifest of one picture. The key is the scheduler's: the worker sends what is to be signed, which
    /// holds hashes and no picture.
    pub(super) async fn sign(&self, grant: &Grant, sample: u32, marked: Marked) -> Result<Signed, Ending> {
        begins("sign");
        let place = Arc::clone(&self.seals).acquire_owned().await.expect("the semaphore is never closed");
        let (transport, grant, runtime) = (Arc::clone(&self.transport), grant.clone(), Handle::current());
        let signing = tokio::task::spawn_blocking(move || {
            let _place = place;
            let chain = Chain::from_pem(&grant.signing.chain).map_err(|error| failed(&error))?;
            let made_at = grant.signing.at.to_string();
            let input = |role, input: &kraftr_protocol::message::Input| Input {
                role,
                content_type: INPUT_TYPE,
                sha256: input.sha256.0,
            };
            let inputs = [input("person", &grant.person), input("garment", &grant.garment)];
            let facts = Facts {
                version: env!("CARGO_PKG_VERSION"),
                release: &grant.spec.release,
                scene_release: grant.spec.scene.as_ref().map(|scene| scene.release.as_str()),
                made_at: &made_at,
                inputs: &inputs,
            };
            // The thread is one that may block; the call goes over the runtime that it belongs to.
            let signature =
                |message: &[u8]| runtime.block_on(signature(&*transport, &grant, sample, message));
            match marked.sign(&facts, &chain, signature) {
                Ok(signed) => Ok(signed),
                Err(SignError::Refused(ending)) => Err(ending),
                Err(SignError::Manifest(reason)) => Err(failed(&reason)),
                Err(SignError::Imaging(error)) => Err(failed(&error)),
                Err(SignError::Changed) => Err(failed(&"its manifest changed its pixels")),
            }
        });
        signing.await.unwrap_or(Err(Ending::Crashed))
    }
}

fn failed(reason: &impl std::fmt::Display) -> Ending {
    let message = format!("an artifact got no credentials: {reason}");
    Failure::new(FailureCode::SigningFailed, message).into()
}

/// The scheduler's signature over `message`.
async fn signature(
    transport: &dyn Transport,
    grant: &Grant,
    sample: u32,
    message: &[u8],
) -> Result<Signature, Ending> {
    let held = Held { render: grant.render, epoch: grant.epoch };
    let request = SignRequest { held, sample, message: message.to_vec() };
    let mut backoff = Backoff::new(RETRIES, !(grant.render.0.as_u128() as u64) ^ u64::from(sample));
    loop {
        let reason = match ask(transport, Request::Sign(request.clone())).await {
            Answer::Reply(Reply::Signed { signature }) => {
                return Signature::parse(&signature).ok_or_else(|| failed(&"the signature is none"));
            }
            Answer::Reply(Reply::NotSigned { reason }) => return Err(failed(&reason)),
            Answer::Reply(Reply::Fenced) => return Err(Ending::Stopped { why: Stop::Fenced, step: 0 }),
            Answer::Reply(other) => format!("{other:?} does not answer a request for a signature"),
            Answer::Unavailable(reason) => reason,
            Answer::Closed => return Err(Ending::Stopped { why: Stop::Lost, step: 0 }),
        };
        tracing::warn!(%reason, sample, "an artifact could not be signed");
        if !backoff.wait().await {
            return Err(failed(&reason));
        }
    }
}
