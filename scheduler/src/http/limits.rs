//! What bounds a request: bytes, time, uploads and decodes at once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt as _};
use kraftr_protocol::limits::{ASSET_BYTES_MAX, BODY_BYTES_MAX, DECODES_AT_ONCE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Problem};

/// Uploads whose bytes are held at once: what bounds the memory of all of them together.
const UPLOADS_AT_ONCE: usize = 16;
/// Pictures to verify whose bytes are held at once.
const VERIFIES_AT_ONCE: usize = 8;
/// How long an upload waits for its turn.
const TURN_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a body may take to arrive: 20 MB at 1.3 Mbit/s.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_mins(2);
/// Bytes of a multipart form around its file.
pub(super) const FORM_OVERHEAD_MAX: usize = 64 * 1024;
/// Bytes of a refused body that are read and thrown away.
const DRAIN_BYTES_MAX: usize = 4 * ASSET_BYTES_MAX;
/// How long they are waited for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Turns for what takes memory.
#[derive(Debug)]
pub(super) struct Turns {
    uploads: Arc<Semaphore>,
    decodes: Arc<Semaphore>,
    verifies: Arc<Semaphore>,
    examined: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
            decodes: Arc::new(Semaphore::new(DECODES_AT_ONCE)),
            verifies: Arc::new(Semaphore::new(VERIFIES_AT_ONCE)),
            examined: Arc::new(Semaphore::new(DECODES_AT_ONCE)),
        }
    }
}

impl Turns {
    /// A turn to hold an upload's bytes.
    pub(super) async fn upload(&self) -> Result<OwnedSemaphorePermit, Problem> {
        turn(&self.uploads).await
    }

    /// A turn to hold the bytes of a picture to verify, at once or not at all: those who ask without a key must not
    /// pile up.
    pub(super) fn verify(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new(Code::Busy, "Too many pictures are looked at. Try again.").retry_after(5);
        Arc::clone(&self.verifies).try_acquire_owned().map_err(busy)
    }

    /// A turn to decode a picture and look for its mark; others than those for uploads, so that neither waits for the
    /// other.
    pub(super) async fn examine(&self) -> Result<OwnedSemaphorePermit, Problem> {
        turn(&self.examined).await
    }

    /// A turn to decode a picture.
    pub(super) async fn decode(&self) -> Result<OwnedSemaphorePermit, Problem> {
        turn(&self.decodes).await
    }
}

async fn turn(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    match tokio::time::timeout(TURN_TIME_MAX, Arc::clone(semaphore).acquire_owned()).await {
        Ok(permit) => Ok(permit.expect("these semaphores are never closed")),
        Err(_) => Err(Problem::new(Code::Busy, "Too many uploads are under way. Try again.").retry_after(5)),
    }
}

/// A body of JSON size, read whole.
pub(super) async fn read_body(body: Body) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| incomplete())?;
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                let message = format!("is larger than {BODY_BYTES_MAX} bytes; send less");
                return Err(Problem::field(Code::BodyTooLarge, "body", message));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_TIME_MAX, read).await.map_err(|_| too_slow())??;
    Ok(bytes.into())
}

/// The connection broke off, or the body is not what its headers say.
pub(super) fn incomplete() -> Problem {
    Problem::field(Code::MalformedRequest, "body", "did not arrive whole; send it again")
}

/// The body took longer than [`BODY_TIME_MAX`].
pub(super) fn too_slow() -> Problem {
    let message = format!("did not arrive within {} seconds; send it faster", BODY_TIME_MAX.as_secs());
    Problem::field(Code::BodyTimeout, "body", message)
}

/// The length that the request announces.
pub(super) fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A request's body, shared between the handler and [`drain_refused`].
#[derive(Clone)]
struct SharedBody(Arc<Mutex<SharedState>>);

struct SharedState {
    stream: BodyDataStream,
    touched: bool,
    ended: bool,
}

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.touched = true;
        let polled = state.stream.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            state.ended = true;
        }
        polled
    }
}

/// Reads on, for a bounded while, when a request is refused before its body has arrived. Without it the
/// connection would be reset under a client that is still sending, and the client would never see why.
/// A client that waits for `100 Continue` has not begun to send and needs none of this.
pub(super) async fn drain_refused(request: Request, next: Next) -> Response {
    let waits = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let state = SharedState { stream: body.into_data_stream(), touched: false, ended: false };
    let mut shared = SharedBody(Arc::new(Mutex::new(state)));
    let response = next.run(Request::from_parts(parts, Body::from_stream(shared.clone()))).await;
    let (touched, ended) = {
        let state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.touched, state.ended)
    };
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if refused && !ended && (touched || !waits) {
        let drain = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = shared.next().await {
                drained += chunk.len();
                if drained > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        // The client may be slower than our patience; then it gets its answer now.
        drop(tokio::time::timeout(DRAIN_TIME_MAX, drain).await);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_bounded() {
        let exact = Body::from(vec![0; BODY_BYTES_MAX]);
        assert_eq!(read_body(exact).await.unwrap().len(), BODY_BYTES_MAX);
        let chunks =
            futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1_000])));
        let endless = Body::from_stream(chunks);
        assert_eq!(read_body(endless).await.unwrap_err().code(), Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_broken_body_is_a_problem() {
        let broken =
            Body::from_stream(futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]));
        assert_eq!(read_body(broken).await.unwrap_err().code(), Code::MalformedRequest);
    }
}
