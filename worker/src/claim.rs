//! Asking the scheduler, and asking again: a claim is accepted, refused or given up.

use kraftr_protocol::WorkerId;
use kraftr_protocol::message::{Grant, Job, NotGranted, Reply, Request};
use kraftr_transport::Transport;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::retry::Backoff;

/// How often a claim is repeated before its job goes back to the queue.
const RETRIES: u32 = 6;

/// What became of a claim.
pub(crate) enum Claim {
    /// Run it.
    Granted {
        grant: Box<Grant>,
        /// When the request was sent that was granted: the lease counts from here.
        asked: Instant,
    },
    /// Nobody wants it any more.
    Refused(NotGranted),
    /// The scheduler could not be reached; somebody else may have more luck.
    Unanswered,
}

/// Asks for `job`. Once `draining` it asks no more.
pub(crate) async fn claim(
    transport: &dyn Transport,
    worker: WorkerId,
    job: Job,
    draining: &CancellationToken,
) -> Claim {
    let mut backoff = Backoff::new(RETRIES, (job.render.0.as_u128() ^ worker.0.as_u128()) as u64);
    while !draining.is_cancelled() {
        let asked = Instant::now();
        match ask(transport, Request::Claim { job, worker }).await {
            Answer::Reply(Reply::Granted(grant)) => return Claim::Granted { grant, asked },
            Answer::Reply(Reply::NotGranted { reason }) => return Claim::Refused(reason),
            Answer::Closed => break,
            Answer::Reply(other) => tracing::warn!(?other, "the answer to a claim is none"),
            Answer::Unavailable(reason) => tracing::warn!(%reason, "a claim was not answered"),
        }
        if !backoff.wait().await {
            break;
        }
    }
    Claim::Unanswered
}

/// One answer, sorted by what follows from it.
pub(crate) enum Answer {
    /// An answer to act on.
    Reply(Reply),
    /// None came, or the scheduler could not answer now: ask again.
    Unavailable(String),
    /// There will be none.
    Closed,
}

/// Asks once.
pub(crate) async fn ask(transport: &dyn Transport, request: Request) -> Answer {
    match transport.call(request).await {
        Ok(Reply::Unavailable { message }) => Answer::Unavailable(message),
        Ok(reply) => Answer::Reply(reply),
        Err(error) if error.is_permanent() => Answer::Closed,
        Err(error) => Answer::Unavailable(error.to_string()),
    }
}
