//! Artifacts: the pictures that were delivered.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::Stream;
use kraftr_protocol::{ArtifactId, Format, limits};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::Api;
use super::auth::Caller;
use super::path::{Id, Noun};
use super::problem::Problem;
use crate::blobs::directory::DirectoryBlobs;
use crate::store::Artifact;

/// Bytes that are read from a file at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads an artifact's picture.
///
/// Answers with the bytes, or redirects to a short-lived URL where the objects lie elsewhere. The picture never
/// changes: `ETag` is its SHA-256.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}", tag = "renders", operation_id = "read_artifact", security(("api_key" = [])),
    params(
        ("id" = ArtifactId, Path, description = "The artifact."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of a copy you have."),
    ),
    responses(
        (status = OK, description = "The picture.",
            content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp")),
            headers(("ETag" = String, description = "SHA-256 of the picture, quoted"))),
        (status = FOUND, description = "The picture is at `Location`, for a while.",
            headers(("Location" = String, description = "A signed URL"))),
        (status = NOT_MODIFIED, description = "The copy you have is right."),
    ),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = api.app.store.artifact(caller.org, id).await?;
    let artifact = found.ok_or_else(|| Problem::not_found(ArtifactId::NOUN))?;
    let etag = format!("\"{}\"", artifact.sha256);
    let caching = [
        (header::ETAG, etag.clone()),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
    ];
    if has_copy(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let Some(directory) = &api.app.directory else {
        let link = api.app.blobs.presign_get(&artifact.object_key, limits::URL_TTL).await?;
        return Ok((StatusCode::FOUND, [(header::LOCATION, link.url)]).into_response());
    };
    let missing = || Problem::internal(format_args!("the object of {id} is missing"));
    let bytes = stream(directory, &artifact.object_key).await?.ok_or_else(missing)?;
    let name = [(header::CONTENT_DISPOSITION, format!("inline; filename=\"{}\"", file_name(&artifact)))];
    Ok((caching, name, bytes).into_response())
}

/// RFC 9110, section 13.1.2: `*` or any of the tags, compared weakly.
fn has_copy(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

fn file_name(artifact: &Artifact) -> String {
    let known = Format::ALL.iter().find(|format| format.content_type() == artifact.content_type);
    let extension = known.map_or("bin", |format| format.extension());
    format!("{}-{}.{extension}", artifact.render, artifact.sample)
}

/// An object's bytes, read while they are sent.
pub(super) async fn stream(directory: &DirectoryBlobs, key: &str) -> Result<Option<Response>, Problem> {
    let Some((file, length)) = directory.open(key).await? else { return Ok(None) };
    let known = Format::ALL.iter().find(|format| key.ends_with(&format!(".{}", format.extension())));
    let media_type = known.map_or("application/octet-stream", |format| format.content_type());
    let mut response = Body::from_stream(chunks(file)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(Some(response))
}

fn chunks(file: File) -> impl Stream<Item = std::io::Result<bytes::Bytes>> {
    futures::stream::try_unfold(file, async |mut file| {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_recognised_by_its_tag() {
        let has = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            has_copy(&headers, "\"abc\"")
        };
        assert!(has("\"abc\"") && has("W/\"abc\"") && has("\"x\", \"abc\"") && has("*"));
        assert!(!has("\"abd\"") && !has("abc"));
        assert!(!has_copy(&HeaderMap::new(), "\"abc\""));
    }
}
