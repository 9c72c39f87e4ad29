//! `Idempotency-Key` on every POST: a request that is sent twice under one key happens once.
//!
//! The key is reserved before anything is looked at and freed when the request makes nothing. The work
//! runs in a task of its own: a client that hangs up half-way and repeats the request finds the result,
//! never a half-done one.

use std::sync::Arc;

use axum::http::HeaderMap;
use kraftr_protocol::Digest;
use kraftr_protocol::limits::IDEMPOTENCY_KEY_CHARS_MAX;
use sha2::{Digest as _, Sha256};

use super::Api;
use super::auth::Caller;
use super::problem::{Code, Problem};
use crate::store::{Idempotency, Resource, Ticket};

/// The header's name.
pub(super) const HEADER: &str = "Idempotency-Key";

/// How a request under a key begins.
pub(super) enum Begun {
    /// It is new (or has no key): do it, and complete the ticket with what it makes.
    Fresh(Option<Ticket>),
    /// It was done before and made this.
    Done(Resource),
}

/// Reserves the request's key, if it has one. `path` and `content` are what makes it this request.
pub(super) async fn begin(
    api: &Api,
    caller: Caller,
    headers: &HeaderMap,
    path: &str,
    content: &[u8],
) -> Result<Begun, Problem> {
    let Some(key) = key(headers)? else { return Ok(Begun::Fresh(None)) };
    match api.app.store.begin_idempotent(caller.org, key, fingerprint(path, content)).await? {
        Idempotency::Fresh(ticket) => Ok(Begun::Fresh(Some(ticket))),
        Idempotency::Done(resource) => Ok(Begun::Done(resource)),
        Idempotency::InFlight => Err(in_flight()),
        Idempotency::Mismatch => Err(reused()),
    }
}

/// Does the work to its end even when the client hangs up, and frees the key when it made nothing.
pub(super) async fn finish<T: Send + 'static>(
    api: &Arc<Api>,
    ticket: Option<Ticket>,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let task = {
        let (api, ticket) = (Arc::clone(api), ticket.clone());
        tokio::spawn(async move {
            let outcome = work.await;
            if outcome.is_err() {
                free(&api, ticket.as_ref()).await;
            }
            outcome
        })
    };
    match task.await {
        Ok(outcome) => outcome,
        Err(crash) => {
            free(api, ticket.as_ref()).await;
            Err(Problem::internal(crash))
        }
    }
}

async fn free(api: &Api, ticket: Option<&Ticket>) {
    let Some(ticket) = ticket else { return };
    if let Err(error) = api.app.store.abandon_idempotent(ticket).await {
        // The reservation lapses by itself; the refusal that is about to be answered matters more.
        tracing::warn!(%error, "an idempotency key could not be freed");
    }
}

/// The same request is under way.
pub(super) fn in_flight() -> Problem {
    let message = "the request under this key is under way; send it again after the seconds in Retry-After";
    Problem::field(Code::IdempotencyInFlight, HEADER, message).retry_after(1)
}

/// Another request has this key.
pub(super) fn reused() -> Problem {
    Problem::field(
        Code::IdempotencyKeyReused,
        HEADER,
        "was used for another request; use a new key for a new request",
    )
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|key| {
        (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if key.is_none() || values.next().is_some() {
        let message = format!(
            "must be one header of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters without spaces; \
             a random UUID does well"
        );
        return Err(Problem::field(Code::InvalidField, HEADER, message));
    }
    Ok(key)
}

/// What tells one request from another: the path and the body, or the file's bytes for an upload.
fn fingerprint(path: &str, content: &[u8]) -> Digest {
    let mut sha256 = Sha256::new();
    sha256.update(b"POST\n");
    sha256.update(path.as_bytes());
    sha256.update(b"\n");
    sha256.update(content);
    Digest(sha256.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        let read = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
            key(&headers).map(|key| key.map(str::to_owned)).map_err(|problem| problem.code())
        };
        assert_eq!(read(b"demo-1"), Ok(Some("demo-1".into())));
        assert_eq!(read(&[b'k'; 255]), Ok(Some("k".repeat(255))));
        for wrong in [&b""[..], b" ", b"a b", "schlüssel".as_bytes(), &[b'k'; 256], b"a\tb"] {
            assert_eq!(read(wrong), Err(Code::InvalidField), "{wrong:?}");
        }
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn path_and_content_make_the_request() {
        let one = fingerprint("/v1/renders", b"{}");
        assert_eq!(one, fingerprint("/v1/renders", b"{}"));
        assert_ne!(one, fingerprint("/v1/renders", b"{} "));
        assert_ne!(one, fingerprint("/v1/assets", b"{}"));
    }
}
