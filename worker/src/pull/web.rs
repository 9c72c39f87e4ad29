//! Ranges of files over HTTP.

use std::time::Duration;

use kraftr_protocol::manifest::ManifestFile;
use reqwest::header::{CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::{Body, Trouble};

/// How long the other side may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Redirects to other places on the same server before its headers are looked at.
const REDIRECTS_MAX: usize = 5;

/// Two clients: one follows redirects, as a download does; one does not, as the hub says about a file what matters in
/// the answer that redirects.
#[derive(Debug, Clone)]
pub(super) struct Client {
    following: reqwest::Client,
    staying: reqwest::Client,
}

impl Client {
    pub(super) fn new() -> reqwest::Result<Self> {
        // The HTTP client brings no cryptography of its own; whoever installed one first is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = || {
            reqwest::Client::builder()
                .user_agent(concat!("kraftr/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_MAX)
                .read_timeout(SILENCE_MAX)
        };
        let staying = client().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { following: client().build()?, staying })
    }

    /// The file from `offset` on, or, where the server knows no ranges, from its beginning. A header that
    /// authenticates goes to the first server only, not to one that it redirects to.
    pub(super) async fn get(
        &self,
        url: &str,
        headers: &[(String, String)],
        file: &ManifestFile,
        offset: u64,
    ) -> Result<(Body, u64), Trouble> {
        let mut request = self.following.get(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = request.send().await.map_err(|error| trouble(&error))?;
        let (at, length) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = content_range(response.headers());
                let (at, length) =
                    range.ok_or_else(|| Trouble::Final("its Content-Range says nothing".to_owned()))?;
                (at, length)
            }
            StatusCode::OK => (0, response.content_length()),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let found = content_range(response.headers()).and_then(|(_, length)| length);
                let found = found.map_or_else(|| "less".to_owned(), |length| format!("{length} bytes"));
                return Err(Trouble::OtherFile(format!("{} bytes", file.bytes), found));
            }
            _ => return Err(refusal(&response)),
        };
        if at != 0 && at != offset {
            return Err(Trouble::Final(format!(
                "it was asked for bytes from {offset} on and sends those from {at} on"
            )));
        }
        match length {
            Some(length) if length != file.bytes => {
                Err(Trouble::OtherFile(format!("{} bytes", file.bytes), format!("{length} bytes")))
            }
            _ => Ok((Body::Web(response), at)),
        }
    }

    /// What the server says about a file: the first answer that leads to another server, or none. Redirects on the
    /// same server, such as from an old name of a repository, are followed.
    pub(super) async fn head(&self, url: &str, headers: &[(String, String)]) -> Result<Response, Trouble> {
        let mut url = Url::parse(url).map_err(|error| Trouble::Final(error.to_string()))?;
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.staying.head(url.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let response = request.send().await.map_err(|error| trouble(&error))?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location.and_then(|location| url.join(location).ok()) {
                Some(next) if response.status().is_redirection() && next.origin() == url.origin() => {
                    url = next;
                }
                _ => return Ok(response),
            }
        }
        Err(Trouble::Final("it redirects in a circle".to_owned()))
    }
}

/// What an answer means that brings no file.
pub(super) fn refusal(response: &Response) -> Trouble {
    let status = response.status();
    let said = format!("the answer was HTTP {status}");
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => Trouble::Passing(said),
        _ => Trouble::Final(said),
    }
}

/// Messages hold no URL: it may carry a signature.
pub(super) fn trouble(error: &reqwest::Error) -> Trouble {
    let mut why = String::from("the connection failed");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    if error.is_builder() || error.is_redirect() { Trouble::Final(why) } else { Trouble::Passing(why) }
}

/// First byte and length of the whole, of `bytes 5-9/10` or `bytes */10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, length) = text.split_once('/')?;
    let at = match range {
        "*" => 0,
        range => range.split_once('-')?.0.parse().ok()?,
    };
    Some((at, length.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, read) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 0-0/*", Some((0, None))),
            ("bytes */10", Some((0, Some(10)))),
            ("items 1-2/3", None),
            ("bytes 5/10", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
            assert_eq!(content_range(&headers), read, "{text}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }
}
