//! Links of the embedded object store: `GET` and `PUT /blobs/{key}` with a signed query. What S3 does elsewhere.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use kraftr_protocol::limits::ARTIFACT_BYTES_MAX;

use super::Api;
use super::artifacts::stream;
use super::limits::{BODY_TIME_MAX, too_slow};
use super::problem::{Code, Problem};
use crate::blobs::PutTerms;
use crate::blobs::directory::DirectoryBlobs;
use crate::blobs::presign::{LinkError, LinkMethod};

/// Reads an object by a link.
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let directory = directory(&api)?;
    check(directory, LinkMethod::Get, &key, query.as_deref())?;
    stream(directory, &key).await?.ok_or_else(|| Problem::not_found("object"))
}

/// Stores an object by a link: exactly the bytes that were announced when the link was made.
pub(super) async fn store(
    State(api): State<Arc<Api>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let directory = directory(&api)?;
    let terms = check(directory, LinkMethod::Put, &key, query.as_deref())?;
    let terms = terms.ok_or_else(|| refused(LinkError::Invalid))?;
    if terms.bytes > ARTIFACT_BYTES_MAX {
        return Err(Problem::new(
            Code::BodyTooLarge,
            format!("An object has at most {ARTIFACT_BYTES_MAX} bytes."),
        ));
    }
    check_media_type(&headers, &terms)?;
    let received = directory.receive(&key, &terms, body.into_data_stream());
    tokio::time::timeout(BODY_TIME_MAX, received).await.map_err(|_| too_slow())??;
    Ok(StatusCode::NO_CONTENT)
}

fn directory(api: &Api) -> Result<&DirectoryBlobs, Problem> {
    api.app.directory.as_deref().ok_or_else(|| Problem::new(Code::UnknownPath, "Objects lie elsewhere."))
}

fn check(
    directory: &DirectoryBlobs,
    method: LinkMethod,
    key: &str,
    query: Option<&str>,
) -> Result<Option<PutTerms>, Problem> {
    directory.check_link(method, key, query.unwrap_or_default()).map_err(refused)
}

fn refused(error: LinkError) -> Problem {
    let code = match error {
        LinkError::Expired => Code::LinkExpired,
        LinkError::Invalid => Code::LinkInvalid,
    };
    Problem::new(code, error.to_string())
}

fn check_media_type(headers: &HeaderMap, terms: &PutTerms) -> Result<(), Problem> {
    match headers.get(header::CONTENT_TYPE) {
        Some(value) if value != terms.content_type.as_str() => {
            let message = format!("must be {}, as it was announced", terms.content_type);
            Err(Problem::field(Code::UploadMismatch, "Content-Type", message))
        }
        _ => Ok(()),
    }
}
