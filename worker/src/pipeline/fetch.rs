//! Inputs over HTTP: bounded, checked against their digest, tried again.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kraftr_protocol::message::{Input, Link};
use kraftr_protocol::{Digest, Failure, FailureCode, limits};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::retry::Backoff;

/// Bytes of a normalised asset: a PNG of as many pixels as an asset may have takes at most this.
pub(super) const INPUT_BYTES_MAX: usize = limits::ASSET_PIXELS_MAX as usize * 3 + 1_000_000;
/// How often a fetch is repeated: for half a minute on average, so that a restart of the object store is nobody's
/// failure.
const RETRIES: u32 = 16;
/// How long the other side may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The client for inputs and uploads. URLs of a claim lead straight to the object: it follows no
/// redirects and asks no proxy.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    // The HTTP client brings no cryptography of its own; whoever installed one first is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_MAX)
        .read_timeout(SILENCE_MAX)
        .build()
}

/// Why an exchange over HTTP failed. Messages hold no URL: the signature in it is a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("the connection failed: {0}")]
    Connection(reqwest::Error),
    #[error("the answer was HTTP {0}")]
    Status(u16),
    #[error("the object has more than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("the object has another SHA-256 than the claim says")]
    Digest,
    #[error("the link has a header that HTTP does not allow")]
    Header,
}

impl HttpError {
    /// True when the same request may work later.
    pub(super) const fn is_passing(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Digest => true,
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::TooLong | Self::Header => false,
        }
    }
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        Self::Connection(error.without_url())
    }
}

/// The headers of a link.
pub(super) fn headers(link: &Link) -> Result<HeaderMap, HttpError> {
    let parse = |(name, value): &(String, String)| {
        let name = HeaderName::try_from(name).map_err(|_| HttpError::Header)?;
        Ok((name, HeaderValue::try_from(value).map_err(|_| HttpError::Header)?))
    };
    link.headers.iter().map(parse).collect()
}

/// The bytes of an input, which `name` names in messages.
pub(super) async fn fetch(http: &reqwest::Client, name: &str, input: &Input) -> Result<Bytes, Failure> {
    let mut backoff = Backoff::new(RETRIES, input.asset.0.as_u128() as u64);
    loop {
        let error = match get(http, input).await {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        tracing::warn!(%error, asset = %input.asset, "an input could not be fetched");
        if !error.is_passing() || !backoff.wait().await {
            let message = format!("the {name} picture could not be fetched: {error}");
            return Err(Failure::new(FailureCode::InputUnavailable, message));
        }
    }
}

async fn get(http: &reqwest::Client, input: &Input) -> Result<Bytes, HttpError> {
    let mut response = http.get(&input.link.url).headers(headers(&input.link)?).send().await?;
    let status = response.status();
    if !status.is_success() {
        return Err(HttpError::Status(status.as_u16()));
    }
    let announced = response.content_length().unwrap_or(0);
    if announced > INPUT_BYTES_MAX as u64 {
        return Err(HttpError::TooLong);
    }
    let mut body = BytesMut::with_capacity(announced as usize);
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > INPUT_BYTES_MAX {
            return Err(HttpError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    if Digest::of(&body) == input.sha256 { Ok(body.freeze()) } else { Err(HttpError::Digest) }
}
