//! Assets: the pictures that renders are made from.

use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kraftr_imaging::{Encoding, ImagingError, Limits};
use kraftr_protocol::limits::{
    ASSET_ASPECT_MAX, ASSET_BYTES_MAX, ASSET_PIXELS_MAX, ASSET_SIDE_MAX, ASSET_SIDE_MIN,
};
use kraftr_protocol::{AssetId, Digest, OrgId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use super::fields::Fields;
use super::idempotency::{self, Begun};
use super::limits::{BODY_TIME_MAX, FORM_OVERHEAD_MAX, announced_bytes, too_slow};
use super::page::{Listing, Window, listing, one_more};
use super::path::{Id, Noun};
use super::problem::{Code, Problem};
use crate::store::objects::asset_key;
use crate::store::{Asset, DeleteOutcome, NewAsset, Resource, Ticket};

/// The one field of an upload.
const FIELD: &str = "file";
/// What a picture becomes: lossless, so that a second upload of the same picture is the same asset.
const CONTENT_TYPE: &str = "image/png";

/// An uploaded picture.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Asset)]
pub(super) struct AssetView {
    /// Its id.
    pub id: AssetId,
    /// Width in pixels, after the camera's orientation was applied.
    #[schema(example = 1200)]
    pub width: u32,
    /// Height in pixels, after the camera's orientation was applied.
    #[schema(example = 1600)]
    pub height: u32,
    /// Media type of the stored picture.
    #[schema(example = "image/png")]
    pub content_type: String,
    /// Length of the stored picture.
    #[schema(example = 3_145_728)]
    pub bytes: u64,
    /// SHA-256 of the stored picture, in hexadecimal.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Digest,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

impl From<Asset> for AssetView {
    fn from(asset: Asset) -> Self {
        Self {
            id: asset.id,
            width: asset.width,
            height: asset.height,
            content_type: asset.content_type,
            bytes: asset.bytes,
            sha256: asset.sha256,
            created_at: asset.created_at,
        }
    }
}

/// The form that an upload sends.
#[expect(dead_code, reason = "describes the request for OpenAPI; its fields are read one by one")]
#[derive(Debug, ToSchema)]
pub(super) struct UploadForm {
    /// A PNG, JPEG or WebP file.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    pub file: Vec<u8>,
}

/// Uploads a picture.
///
/// A still PNG, JPEG or WebP of at most 20 MB, 64 to 8,192 pixels a side, at most 40 megapixels and at most
/// 1:8. The orientation is applied and all metadata is removed. Uploading the same picture again answers
/// with the same asset.
#[utoipa::path(
    post, path = "/v1/assets", tag = "assets", operation_id = "upload_asset", security(("api_key" = [])),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = CREATED, description = "The asset.", body = AssetView,
            headers(("Location" = String, description = "Where the asset is"))),
        (status = OK, description = "The same request was sent before under this key: its asset.", body = AssetView),
    ),
)]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let turn = api.turns.upload().await?;
    let headers = request.headers().clone();
    let received = tokio::time::timeout(BODY_TIME_MAX, receive(request)).await;
    let file = received.map_err(|_| too_slow())??;
    api.app.metrics.asset_upload_bytes.inc_by(file.len() as u64);
    let ticket = match idempotency::begin(&api, caller, &headers, "/v1/assets", &file).await? {
        Begun::Fresh(ticket) => ticket,
        Begun::Done(Resource::Asset(id)) => {
            return Ok(Json(AssetView::from(find(&api, caller.org, id).await?)).into_response());
        }
        Begun::Done(_) => return Err(idempotency::reused()),
    };
    let work = {
        let (api, ticket) = (Arc::clone(&api), ticket.clone());
        async move {
            let stored = keep(&api, caller.org, file, ticket).await;
            drop(turn);
            stored
        }
    };
    let asset = idempotency::finish(&api, ticket, work).await?;
    let location = [(header::LOCATION, format!("/v1/assets/{}", asset.id))];
    Ok((StatusCode::CREATED, location, Json(AssetView::from(asset))).into_response())
}

/// The bytes of the form's one file, never more than the limit.
pub(super) async fn receive(request: Request) -> Result<Bytes, Problem> {
    require_form(request.headers())?;
    if announced_bytes(request.headers())
        .is_some_and(|bytes| bytes > (ASSET_BYTES_MAX + FORM_OVERHEAD_MAX) as u64)
    {
        return Err(too_large());
    }
    let mut form =
        Multipart::from_request(request, &()).await.map_err(|rejection| malformed(&rejection.body_text()))?;
    let mut file = None;
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        match field.name() {
            Some(FIELD) if file.is_none() => file = Some(receive_file(field).await?),
            Some(FIELD) => {
                return Err(Problem::field(
                    Code::InvalidField,
                    FIELD,
                    "is given more than once; upload one file at a time",
                ));
            }
            name => {
                let message = "is not known here; send the picture in one field named `file`";
                return Err(Problem::field(Code::UnknownField, name.unwrap_or_default(), message));
            }
        }
    }
    let missing =
        || Problem::field(Code::MissingField, FIELD, "is missing; send the picture in a field named `file`");
    file.ok_or_else(missing)
}

async fn receive_file(mut field: Field<'_>) -> Result<Bytes, Problem> {
    let mut file = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        if file.len() + chunk.len() > ASSET_BYTES_MAX {
            return Err(too_large());
        }
        file.extend_from_slice(&chunk);
    }
    Ok(file.into())
}

fn require_form(headers: &HeaderMap) -> Result<(), Problem> {
    let announced =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = announced.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("multipart/form-data") {
        return Ok(());
    }
    let message = "must be multipart/form-data; send the picture as a form upload in a field named `file`";
    Err(Problem::field(Code::UnsupportedMediaType, "Content-Type", message))
}

fn too_large() -> Problem {
    let message = format!("is larger than {ASSET_BYTES_MAX} bytes; scale the picture down or compress it");
    Problem::field(Code::ImageTooLarge, FIELD, message)
}

fn broken(error: &MultipartError) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE { too_large() } else { malformed(&error.body_text()) }
}

fn malformed(what: &str) -> Problem {
    let message = format!("is not a complete multipart form: {what}");
    Problem::field(Code::MalformedMultipart, "body", message)
}

/// A decoded picture, ready to be stored.
struct Normalised {
    png: Bytes,
    sha256: Digest,
    width: u32,
    height: u32,
}

/// Stores the picture, unless the org has it already.
async fn keep(api: &Api, org: OrgId, file: Bytes, ticket: Option<Ticket>) -> Result<Asset, Problem> {
    let turn = api.turns.decode().await?;
    let picture =
        tokio::task::spawn_blocking(move || normalise(&file)).await.map_err(Problem::internal)??;
    drop(turn);
    let store = &api.app.store;
    if let Some(known) = store.asset_by_digest(org, picture.sha256).await? {
        if let Some(ticket) = &ticket {
            // A lapsed reservation changes nothing: the same content is the same asset.
            store.complete_idempotent(ticket, Resource::Asset(known.id)).await?;
        }
        return Ok(known);
    }
    let id = AssetId(api.app.ids.uuid(api.app.clock.now()));
    let object_key = asset_key(org, id);
    let new = NewAsset {
        id,
        org,
        object_key: object_key.clone(),
        sha256: picture.sha256,
        content_type: CONTENT_TYPE.to_owned(),
        width: picture.width,
        height: picture.height,
        bytes: picture.png.len() as u64,
    };
    api.app.blobs.put(&object_key, picture.png, CONTENT_TYPE).await?;
    let inserted = store.insert_asset(&new, ticket.as_ref()).await;
    if !inserted.as_ref().is_ok_and(|asset| asset.id == id)
        && let Err(error) = api.app.blobs.delete(&object_key).await
    {
        tracing::error!(%error, object.key = object_key, "an object without a row could not be erased");
    }
    Ok(inserted?)
}

/// Decodes within the limits, upright and without metadata, and encodes anew.
fn normalise(file: &[u8]) -> Result<Normalised, Problem> {
    let limits = Limits {
        bytes_max: ASSET_BYTES_MAX,
        side_min: ASSET_SIDE_MIN,
        side_max: ASSET_SIDE_MAX,
        pixels_max: ASSET_PIXELS_MAX,
        aspect_max: ASSET_ASPECT_MAX,
    };
    let picture = kraftr_imaging::decode(file, &limits).map_err(|error| refused(&error))?.image;
    let (width, height) = picture.dimensions();
    let png = kraftr_imaging::encode(&picture, Encoding::Png).map_err(Problem::internal)?;
    Ok(Normalised { sha256: Digest::of(&png), png: png.into(), width, height })
}

pub(super) fn refused(error: &ImagingError) -> Problem {
    let code = match error {
        ImagingError::Empty => Code::ImageEmpty,
        ImagingError::TooLarge { .. } => Code::ImageTooLarge,
        ImagingError::FormatUnsupported => Code::ImageFormatUnsupported,
        ImagingError::Unreadable { .. } => Code::ImageUnreadable,
        ImagingError::Dimensions { .. } | ImagingError::Pixels { .. } => Code::ImageDimensions,
        ImagingError::Aspect { .. } => Code::ImageAspect,
        ImagingError::Animated { .. } => Code::ImageAnimated,
        ImagingError::ColourUnsupported { .. } => Code::ImageColourUnsupported,
        ImagingError::Unencodable { .. } | ImagingError::Quality(_) | ImagingError::Unscalable { .. } => {
            return Problem::internal(error);
        }
    };
    Problem::field(code, FIELD, error.to_string())
}

async fn find(api: &Api, org: OrgId, id: AssetId) -> Result<Asset, Problem> {
    api.app.store.asset(org, id).await?.ok_or_else(|| Problem::not_found(AssetId::NOUN))
}

/// Lists assets, newest first.
#[utoipa::path(
    get, path = "/v1/assets", tag = "assets", operation_id = "list_assets", security(("api_key" = [])),
    params(Window),
    responses((status = OK, description = "A page of assets.", body = Listing<AssetView>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Listing<AssetView>>, Problem> {
    let mut fields = Fields::from_query(query.as_deref());
    let page = Window::read(&mut fields, |id: AssetId| id.0);
    fields.finish()?;
    let rows = api.app.store.assets(caller.org, &one_more(page)).await?;
    Ok(Json(listing(page, rows, |asset| asset.id, AssetView::from)))
}

/// Reads an asset.
#[utoipa::path(
    get, path = "/v1/assets/{id}", tag = "assets", operation_id = "read_asset", security(("api_key" = [])),
    params(("id" = AssetId, Path, description = "The asset.")),
    responses((status = OK, description = "The asset.", body = AssetView)),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<AssetId>,
) -> Result<Json<AssetView>, Problem> {
    Ok(Json(find(&api, caller.org, id).await?.into()))
}

/// Deletes an asset and its picture.
///
/// Refused while a live render needs it. Renders that have ended keep their pictures.
#[utoipa::path(
    delete, path = "/v1/assets/{id}", tag = "assets", operation_id = "delete_asset", security(("api_key" = [])),
    params(("id" = AssetId, Path, description = "The asset.")),
    responses((status = NO_CONTENT, description = "It is gone; its picture is being erased.")),
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<AssetId>,
) -> Result<StatusCode, Problem> {
    let outcome = api.app.store.delete_asset(caller.org, id).await?;
    match outcome {
        DeleteOutcome::Deleted => Ok(StatusCode::NO_CONTENT),
        DeleteOutcome::NotFound => Err(Problem::not_found(AssetId::NOUN)),
        DeleteOutcome::InUse => Err(Problem::field(
            Code::AssetInUse,
            "id",
            "a live render needs this asset; cancel the render or wait until it has ended, then delete the asset",
        )),
    }
}
