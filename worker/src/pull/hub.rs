//! From the Hugging Face hub, or a mirror that speaks like it.
//!
//! A file is `ENDPOINT/OWNER/NAME/resolve/REVISION/PATH`. A HEAD request tells, before 2 GB are fetched, whether it is
//! the file that is meant: `x-repo-commit`, `x-linked-size` and `x-linked-etag` (the SHA-256 of large files) stand in
//! the answer that redirects to where the bytes are. A mirror may leave any of them out.

use std::fmt;
use std::path::PathBuf;

use kraftr_protocol::manifest::{Hub, ManifestFile};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};

use super::{Body, Trouble, other_digest, web};

/// Where the hub is unless `HF_ENDPOINT` names a mirror.
pub const ENDPOINT: &str = "https://huggingface.co";

/// How to reach the hub.
#[derive(Clone)]
pub struct HubSettings {
    /// Its URL, without a slash at its end.
    pub endpoint: String,
    /// Who we are to it, for repositories that not everybody may read.
    pub token: Option<String>,
    /// The cache of the hub's own tools: what lies there is not fetched again.
    pub cache: Option<PathBuf>,
    /// Use the cache only.
    pub offline: bool,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self { endpoint: ENDPOINT.to_owned(), token: None, cache: None, offline: false }
    }
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// The file in the cache, where the hub's tools have put it.
    pub(super) fn cached(&self, at: &Hub) -> Option<PathBuf> {
        let folder = format!("models--{}", at.repository.replace('/', "--"));
        let path = self.cache.as_ref()?.join(folder).join("snapshots").join(&at.revision).join(&at.path);
        path.is_file().then_some(path)
    }

    fn headers(&self) -> Vec<(String, String)> {
        let header = |token: &String| ("authorization".to_owned(), format!("Bearer {token}"));
        self.token.iter().map(header).collect()
    }
}

/// Opens the file at an offset, once the hub has said that it is the one.
pub(super) async fn open(
    web: &web::Client,
    hub: &HubSettings,
    at: &Hub,
    file: &ManifestFile,
    offset: u64,
) -> Result<(Body, u64), Trouble> {
    let path: Vec<String> = at.path.split('/').map(super::s3::encode).collect();
    let url = format!("{}/{}/resolve/{}/{}", hub.endpoint, at.repository, at.revision, path.join("/"));
    let headers = hub.headers();
    let response = web.head(&url, &headers).await?;
    match response.status() {
        StatusCode::UNAUTHORIZED => return Err(Trouble::Final(unauthorized(hub))),
        StatusCode::FORBIDDEN => {
            let why =
                "the token may not read it: accept the repository's terms on its page, or use another token";
            return Err(Trouble::Final(why.to_owned()));
        }
        StatusCode::NOT_FOUND => {
            let why =
                "there is no such repository, revision or path, or only a token (HF_TOKEN) lets it be seen";
            return Err(Trouble::Final(why.to_owned()));
        }
        // Some mirrors answer GET only; the digest is compared in any case.
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {}
        status if status.is_success() || status.is_redirection() => {
            is_meant(response.headers(), status, at, file)?;
        }
        _ => return Err(web::refusal(&response)),
    }
    web.get(&url, &headers, file, offset).await
}

fn unauthorized(hub: &HubSettings) -> String {
    match hub.token {
        Some(_) => "the token is not known there: make another one and set it as HF_TOKEN".to_owned(),
        None => "it wants a token: set HF_TOKEN, or log in with the hub's own tool".to_owned(),
    }
}

/// Refuses another file as soon as the hub says that it is one.
fn is_meant(headers: &HeaderMap, status: StatusCode, at: &Hub, file: &ManifestFile) -> Result<(), Trouble> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(commit) = text("x-repo-commit").filter(|commit| !commit.eq_ignore_ascii_case(&at.revision)) {
        return Err(Trouble::OtherFile(format!("revision {}", at.revision), format!("revision {commit}")));
    }
    let length =
        text("x-linked-size").or_else(|| text(CONTENT_LENGTH.as_str()).filter(|_| status.is_success()));
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if let Some(length) = length.filter(|length| *length != file.bytes) {
        return Err(Trouble::OtherFile(format!("{} bytes", file.bytes), format!("{length} bytes")));
    }
    // Small files have the SHA-1 of git there, which says nothing.
    let digest = text("x-linked-etag").map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let digest = digest.filter(|etag| etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit()));
    match digest {
        Some(digest) if !digest.eq_ignore_ascii_case(&file.sha256.to_string()) => {
            Err(other_digest(file.sha256, digest))
        }
        _ => Ok(()),
    }
}
