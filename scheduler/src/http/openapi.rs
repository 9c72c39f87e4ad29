//! The contract at `/openapi.json`, and the page at `/docs` that shows it.
//!
//! Success answers are described beside their handlers; the problems of every operation are listed
//! here, so that each has its document, its example and its remedy.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::problem::{self, Code, Document, FieldError, Problem};
use super::sse::{PreviewEvent, StateEvent, StepEvent};

/// What the document says beside the operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Kraftr render API",
        description = "Upload a picture of a person and of a garment, ask for a render, follow it, fetch the result.\n\n\
            Every call about your own things needs an API key: `Authorization: Bearer krf_…`. Every POST that makes something takes an `Idempotency-Key`: the same \
            request under the same key happens once. Every refusal is a problem document (RFC 9457) whose `code` is \
            stable and whose `errors` name the fields and what to do.",
    ),
    components(schemas(Document, FieldError, StateEvent, StepEvent, PreviewEvent)),
    tags(
        (name = "assets", description = "The pictures that renders are made from."),
        (name = "renders", description = "Ask for pictures, follow them, fetch them."),
        (name = "credits", description = "What there is to spend and where it went."),
        (name = "models", description = "What can be rendered, and for how much."),
        (name = "verification", description = "Where a picture comes from; no key needed. Try it at `/verify`."),
        (name = "operations", description = "Health and figures; no key needed."),
    ),
)]
pub(super) struct Description;

const AUTH: &[Code] = &[Code::ApiKeyMissing, Code::ApiKeyMalformed, Code::ApiKeyUnknown, Code::ApiKeyRevoked];
const LIST: &[Code] = &[Code::InvalidField, Code::UnknownField, Code::InvalidRequest];
const KEYED: &[Code] = &[
    Code::MalformedRequest,
    Code::BodyTimeout,
    Code::IdempotencyInFlight,
    Code::IdempotencyKeyReused,
    Code::InvalidField,
    Code::UnknownField,
    Code::UnsupportedMediaType,
];
const JSON: &[Code] = &[Code::MalformedJson, Code::JsonTooDeep, Code::BodyTooLarge, Code::InvalidRequest];
const STORE: &[Code] = &[Code::Internal, Code::Unavailable];

/// The problems of an operation, by its id.
fn problems(operation: &str) -> Option<Vec<&'static [Code]>> {
    Some(match operation {
        "upload_asset" => vec![
            AUTH,
            KEYED,
            STORE,
            &[
                Code::NotFound,
                Code::MalformedMultipart,
                Code::MissingField,
                Code::ImageTooLarge,
                Code::ImageFormatUnsupported,
                Code::ImageEmpty,
                Code::ImageDimensions,
                Code::ImageAspect,
                Code::ImageAnimated,
                Code::ImageColourUnsupported,
                Code::ImageUnreadable,
                Code::StorageFull,
                Code::Busy,
            ],
        ],
        "submit_render" => vec![
            AUTH,
            KEYED,
            JSON,
            STORE,
            &[
                Code::NotFound,
                Code::InsufficientCredits,
                Code::MissingField,
                Code::UnknownModel,
                Code::UnknownAsset,
                Code::SamePicture,
                Code::GarmentPhotoUnsupported,
                Code::SceneUnsupported,
                Code::WebhookRefused,
            ],
        ],
        "verify" => vec![
            AUTH,
            STORE,
            &[
                Code::RateLimited,
                Code::Busy,
                Code::BodyTimeout,
                Code::UnsupportedMediaType,
                Code::MalformedMultipart,
                Code::MissingField,
                Code::UnknownField,
                Code::InvalidField,
                Code::ImageTooLarge,
                Code::ImageFormatUnsupported,
                Code::ImageEmpty,
                Code::ImageDimensions,
                Code::ImageAnimated,
                Code::ImageColourUnsupported,
                Code::ImageUnreadable,
            ],
        ],
        "cancel_render" => vec![AUTH, KEYED, JSON, STORE, &[Code::NotFound, Code::RenderEnded]],
        "list_assets" | "list_renders" | "list_ledger" => vec![AUTH, LIST, STORE],
        "read_asset" | "read_render" | "read_artifact" => vec![AUTH, STORE, &[Code::NotFound]],
        "follow_render" => vec![AUTH, STORE, &[Code::NotFound, Code::InvalidField]],
        "delete_asset" => vec![AUTH, STORE, &[Code::NotFound, Code::AssetInUse]],
        "delete_render" => vec![AUTH, STORE, &[Code::NotFound, Code::RenderLive]],
        "read_balance" | "list_models" => vec![AUTH, STORE],
        "readyz" => vec![STORE, &[Code::NotReady]],
        "metrics" => vec![&[Code::Internal]],
        "healthz" => vec![],
        _ => return None,
    })
}

/// The document as it is served: with problems, the key, idempotency and the server's address.
pub(super) fn finish(document: utoipa::openapi::OpenApi, public_url: &str) -> Value {
    let mut document = serde_json::to_value(document).expect("an OpenAPI document is JSON");
    document["info"]["version"] = json!("1");
    document["servers"] = json!([{ "url": public_url }]);
    document["components"]["securitySchemes"] = json!({
        "api_key": { "type": "http", "scheme": "bearer", "bearerFormat": "krf_…",
            "description": "An API key. It is shown once, when it is made." }
    });
    document["x-problems"] = Code::ALL
        .iter()
        .map(|code| {
            json!({ "code": code.as_str(), "status": code.status().as_u16(), "title": code.title(),
                "remedy": code.remedy() })
        })
        .collect();
    for item in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            let codes = problems(&id).unwrap_or_else(|| panic!("{id} says which problems it answers with"));
            add_problems(operation, &codes.concat());
            // What makes nothing can be sent again without a key.
            if method == "post" && id != "verify" {
                add_idempotency(operation);
            }
        }
    }
    document
}

fn add_problems(operation: &mut Value, codes: &[Code]) {
    for code in codes {
        let status = code.status();
        let response = &mut operation["responses"][status.as_str()];
        if response.is_null() {
            *response = json!({
                "description": status.canonical_reason(),
                "content": { problem::CONTENT_TYPE: {
                    "schema": { "$ref": "#/components/schemas/Problem" }, "examples": {}
                } },
            });
        }
        let document = Problem::field(*code, "field", code.remedy()).document(Some("req_0190"));
        response["content"][problem::CONTENT_TYPE]["examples"][code.as_str()] =
            json!({ "summary": code.title(), "value": document });
    }
}

fn add_idempotency(operation: &mut Value) {
    let parameter = json!({
        "name": super::idempotency::HEADER, "in": "header", "required": false,
        "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        "example": "2f1c9d6e-7a55-4a0c-9d6b-0b8f0f4f5a11",
        "description": "Any word of your own. The same request under the same key happens once: repeated, it answers 200 \
            with what it made. Another request under the key gets 422; while the first is under way, 409.",
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

/// The document.
pub(super) fn serve(document: bytes::Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], document)
        .into_response()
}

/// The page that shows the document; it needs nothing from anywhere else.
pub(super) async fn docs() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
        img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, include_str!("../../web/docs.html")).into_response()
}
