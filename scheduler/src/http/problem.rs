//! Every refusal of the API, as a problem document (RFC 9457).

use std::fmt::Display;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::app::SubmissionFailed;
use crate::blobs::BlobError;
use crate::store::StoreError;

/// Media type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// Field errors of one document; a body of a thousand mistakes gets the first of them.
const ERRORS_MAX: usize = 50;
/// Characters of a caller's own word that a document repeats.
const ECHO_CHARS_MAX: usize = 64;

macro_rules! codes {
    ($($(#[doc = $remedy:literal])+ $variant:ident = $status:ident $word:literal $title:literal,)+) => {
        /// What can go wrong, by its stable name. The description is the remedy that /docs shows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $remedy])+ $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            const fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
                match self {
                    $(Self::$variant => (StatusCode::$status, $word, $title, concat!($($remedy),+)),)+
                }
            }
        }
    };
}

codes! {
    /// Send the whole body, and a well-formed request.
    MalformedRequest = BAD_REQUEST "malformed_request" "The request is malformed",
    /// Correct the syntax; the message says where it breaks.
    MalformedJson = BAD_REQUEST "malformed_json" "The body is not JSON",
    /// Nest at most 64 levels.
    JsonTooDeep = BAD_REQUEST "json_too_deep" "The JSON is nested too deeply",
    /// Send a complete multipart/form-data body, as an HTTP client's form upload does.
    MalformedMultipart = BAD_REQUEST "malformed_multipart" "The body is not a complete multipart form",
    /// Send `Authorization: Bearer krf_…`.
    ApiKeyMissing = UNAUTHORIZED "api_key_missing" "An API key is needed",
    /// Send the key exactly as it was shown: krf_ and 64 hexadecimal digits, after the word Bearer.
    ApiKeyMalformed = UNAUTHORIZED "api_key_malformed" "The Authorization header holds no API key",
    /// Use a key of this installation.
    ApiKeyUnknown = UNAUTHORIZED "api_key_unknown" "The API key is not known",
    /// Make a new key and use that.
    ApiKeyRevoked = UNAUTHORIZED "api_key_revoked" "The API key was revoked",
    /// Add credits, wait until renders that hold credits have ended, or ask for fewer samples.
    InsufficientCredits = PAYMENT_REQUIRED "insufficient_credits" "Not enough credits",
    /// Ask for a new link.
    LinkExpired = FORBIDDEN "link_expired" "The link has expired",
    /// Use the link exactly as it was given, with its method.
    LinkInvalid = FORBIDDEN "link_invalid" "The link's signature does not fit",
    /// Check the id: there is none in this organisation, or it was deleted.
    NotFound = NOT_FOUND "not_found" "There is no such thing",
    /// See /docs for what there is.
    UnknownPath = NOT_FOUND "unknown_path" "There is nothing at this path",
    /// Use one of the methods in the Allow header.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed" "The path does not take this method",
    /// Send the body faster.
    BodyTimeout = REQUEST_TIMEOUT "body_timeout" "The body did not arrive in time",
    /// Cancel the renders that use it, or wait until they have ended; then delete it.
    AssetInUse = CONFLICT "asset_in_use" "A live render needs this asset",
    /// Cancel it or wait until it has ended; then delete it.
    RenderLive = CONFLICT "render_live" "The render has not ended",
    /// Nothing is left to cancel: read the render to see how it ended.
    RenderEnded = CONFLICT "render_ended" "The render has already ended",
    /// Wait for the seconds in Retry-After and send the same request again.
    IdempotencyInFlight = CONFLICT "idempotency_in_flight" "The request under this idempotency key is under way",
    /// Send at most 1,000,000 bytes.
    BodyTooLarge = PAYLOAD_TOO_LARGE "body_too_large" "The body is too large",
    /// Send a picture file of at most 20,000,000 bytes.
    ImageTooLarge = PAYLOAD_TOO_LARGE "image_too_large" "The file is too large",
    /// Send the body with the media type that the message names.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body has the wrong media type",
    /// Convert the picture to PNG, JPEG or WebP.
    ImageFormatUnsupported = UNSUPPORTED_MEDIA_TYPE "image_format_unsupported" "The file is no picture of a known format",
    /// Correct every field that `errors` names.
    InvalidRequest = UNPROCESSABLE_ENTITY "invalid_request" "Some fields are not acceptable",
    /// Add the field.
    MissingField = UNPROCESSABLE_ENTITY "missing_field" "A field is missing",
    /// Remove the field, or correct its name.
    UnknownField = UNPROCESSABLE_ENTITY "unknown_field" "A field is not known",
    /// Give the field a value as the message says.
    InvalidField = UNPROCESSABLE_ENTITY "invalid_field" "A field's value is not acceptable",
    /// Use one of the models that GET /v1/models lists.
    UnknownModel = UNPROCESSABLE_ENTITY "unknown_model" "There is no such model",
    /// Upload the picture first and use the id of the answer.
    UnknownAsset = UNPROCESSABLE_ENTITY "unknown_asset" "There is no such asset",
    /// Use two different pictures.
    SamePicture = UNPROCESSABLE_ENTITY "same_picture" "Person and garment are the same picture",
    /// Use one of the model's `garment_photos`.
    GarmentPhotoUnsupported = UNPROCESSABLE_ENTITY "garment_photo_unsupported" "The model takes no such garment photo",
    /// Leave the field out, or use a model whose `scene` is true.
    SceneUnsupported = UNPROCESSABLE_ENTITY "scene_unsupported" "The model takes no scene",
    /// Use an https URL whose host is a public address.
    WebhookRefused = UNPROCESSABLE_ENTITY "webhook_refused" "The webhook's address is not acceptable",
    /// Send the file's bytes.
    ImageEmpty = UNPROCESSABLE_ENTITY "image_empty" "The file is empty",
    /// Scale the picture to 64 to 8,192 pixels a side and at most 40 megapixels.
    ImageDimensions = UNPROCESSABLE_ENTITY "image_dimensions" "The picture has too few or too many pixels",
    /// Crop the picture so that the longer side is at most 8 times the shorter.
    ImageAspect = UNPROCESSABLE_ENTITY "image_aspect" "The picture is too long for its width",
    /// Send a single still picture.
    ImageAnimated = UNPROCESSABLE_ENTITY "image_animated" "The picture is animated",
    /// Convert the picture to sRGB.
    ImageColourUnsupported = UNPROCESSABLE_ENTITY "image_colour_unsupported" "The colour space is not supported",
    /// Export the picture again: the file is damaged or incomplete.
    ImageUnreadable = UNPROCESSABLE_ENTITY "image_unreadable" "The picture cannot be decoded",
    /// Use a new key for a new request.
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency_key_reused" "Another request was sent under this key",
    /// The bytes must be those that were announced when the link was asked for.
    UploadMismatch = UNPROCESSABLE_ENTITY "upload_mismatch" "The bytes are not those that were announced",
    /// Wait for the seconds in Retry-After.
    RateLimited = TOO_MANY_REQUESTS "rate_limited" "Too many requests from this address",
    /// Report the request id; trying again may help.
    Internal = INTERNAL_SERVER_ERROR "internal_error" "Something went wrong on our side",
    /// Try again after the seconds in Retry-After.
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "The service is not available for the moment",
    /// Try again later; an operator must make room.
    StorageFull = SERVICE_UNAVAILABLE "storage_full" "The object store is full",
    /// Try again after the seconds in Retry-After.
    Busy = SERVICE_UNAVAILABLE "busy" "Too many uploads at once",
    /// Wait: the server starts or stops.
    NotReady = SERVICE_UNAVAILABLE "not_ready" "The server does not take requests",
}

impl Code {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> StatusCode {
        self.facts().0
    }

    /// The word in `code`.
    pub const fn as_str(self) -> &'static str {
        self.facts().1
    }

    /// One line for people.
    pub const fn title(self) -> &'static str {
        self.facts().2
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        self.facts().3.trim()
    }

    /// The problem type: a reference relative to the server, which leads to its description.
    pub fn type_uri(self) -> String {
        format!("/docs#problem-{}", self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Name of the field, header or parameter.
    #[schema(example = "samples")]
    pub field: String,
    /// Stable name of what is wrong with it.
    #[schema(value_type = String, example = "invalid_field")]
    pub code: Code,
    /// What is wrong, and what to do.
    #[schema(example = "must be a whole number from 1 to 4")]
    pub message: String,
}

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document {
    /// Reference to the description of the problem type.
    #[serde(rename = "type")]
    #[schema(example = "/docs#problem-invalid_field")]
    pub kind: String,
    /// One line for people, the same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// For people, about this request; says what to do.
    pub detail: String,
    /// Stable name of the problem, for programs.
    #[schema(example = "invalid_field")]
    pub code: String,
    /// The fields that are wrong, all at once.
    pub errors: Vec<FieldError>,
    /// Credits that can be spent; with `insufficient_credits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// Credits that the render costs; with `insufficient_credits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<i64>,
    /// Names this request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Why a request is refused, with everything the answer says.
#[derive(Debug, Clone)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    /// Available credits and price.
    credits: Option<(i64, i64)>,
    headers: HeaderMap,
    /// For the log only.
    cause: Option<String>,
}

impl Problem {
    /// A problem of that code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            credits: None,
            headers: HeaderMap::new(),
            cause: None,
        }))
    }

    /// A problem of one field; the message is the detail too.
    pub fn field(code: Code, field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(code, format!("{field}: {message}")).with_error(code, field, message)
    }

    /// Fields that are wrong: the problem is named after them when they agree.
    pub fn fields(mut errors: Vec<FieldError>) -> Self {
        let first = errors.first().map_or(Code::InvalidRequest, |error| error.code);
        let agree = errors.iter().all(|error| error.code == first);
        let code = if agree { first } else { Code::InvalidRequest };
        let detail = match errors.as_slice() {
            [only] => format!("{}: {}", only.field, only.message),
            several => format!("{} fields are wrong; see errors", several.len()),
        };
        errors.truncate(ERRORS_MAX);
        let mut problem = Self::new(code, detail);
        problem.0.errors = errors;
        problem
    }

    /// Nothing of that kind under this id, in this org.
    pub fn not_found(noun: &str) -> Self {
        Self::field(Code::NotFound, "id", format!("there is no such {noun}, or it was deleted; check the id"))
    }

    /// A bug or a broken part of ours; `cause` goes to the log, once, with the request id.
    pub fn internal(cause: impl Display) -> Self {
        let detail = "The request could not be completed. Report the request_id if it happens again.";
        Self::new(Code::Internal, detail).because(cause)
    }

    /// Names a wrong field.
    #[must_use]
    pub fn with_error(mut self, code: Code, field: &str, message: impl Into<String>) -> Self {
        self.0.errors.push(FieldError { field: echo(field), code, message: message.into() });
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Says when trying again makes sense.
    #[must_use]
    pub fn retry_after(self, seconds: u16) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Says what is there and what is needed.
    #[must_use]
    pub fn with_credits(mut self, available: i64, price: i64) -> Self {
        self.0.credits = Some((available, price));
        self
    }

    fn because(mut self, cause: impl Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// What it is.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the log must know.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The document, for the request of that id.
    pub fn document(&self, request_id: Option<&str>) -> Document {
        let inner = &self.0;
        Document {
            kind: inner.code.type_uri(),
            title: inner.code.title().to_owned(),
            status: inner.code.status().as_u16(),
            detail: inner.detail.clone(),
            code: inner.code.as_str().to_owned(),
            errors: inner.errors.clone(),
            available: inner.credits.map(|(available, _)| available),
            price: inner.credits.map(|(_, price)| price),
            request_id: request_id.map(str::to_owned),
        }
    }

    /// The answer, for the request of that id.
    pub fn respond(&self, request_id: Option<&str>) -> Response {
        let body = serde_json::to_vec(&self.document(request_id)).expect("a document has string keys only");
        let mut response = (self.0.code.status(), self.0.headers.clone(), body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

/// The problem itself travels as an extension, so that the outermost layer can log it and add the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.respond(None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<&StoreError> for Problem {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                Self::new(Code::Unavailable, "The database does not answer; nothing was changed. Try again.")
                    .retry_after(2)
                    .because(error)
            }
            StoreError::Corrupt(_) | StoreError::Refused(_) | StoreError::Migration(_) => {
                Self::internal(error)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<SubmissionFailed> for Problem {
    fn from(error: SubmissionFailed) -> Self {
        match error {
            SubmissionFailed::Store(error) => Self::from(&*error),
            SubmissionFailed::Crashed => Self::internal(error),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::new(Code::StorageFull, "The file could not be stored. Try again later.")
                .retry_after(60)
                .because(error),
            BlobError::Unavailable(_) | BlobError::Refused(_) => {
                Self::new(Code::Unavailable, "The object store does not answer. Try again.")
                    .retry_after(2)
                    .because(error)
            }
            BlobError::InvalidKey(_) => Self::not_found("object"),
            BlobError::Mismatch => Self::new(Code::UploadMismatch, error.to_string()),
        }
    }
}

/// A caller's own word, cut to a length that an answer may repeat.
pub fn echo(word: &str) -> String {
    match word.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words_with_a_remedy() {
        let mut words: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{code:?}");
            assert!(!code.title().ends_with('.') && code.remedy().ends_with('.'), "{code:?}");
        }
    }

    #[test]
    fn fields_that_agree_name_the_problem() {
        let error = |code| FieldError { field: "f".into(), code, message: "m".into() };
        let code = |errors| Problem::fields(errors).code();
        assert_eq!(code(vec![error(Code::UnknownModel)]), Code::UnknownModel);
        assert_eq!(code(vec![error(Code::UnknownField), error(Code::UnknownField)]), Code::UnknownField);
        assert_eq!(code(vec![error(Code::UnknownField), error(Code::UnknownModel)]), Code::InvalidRequest);
    }

    #[test]
    fn a_document_never_shows_the_cause() {
        let problem = Problem::internal("secret table is gone");
        let text = serde_json::to_string(&problem.document(Some("r-1"))).unwrap();
        assert!(!text.contains("secret") && text.contains("r-1"), "{text}");
        assert_eq!(problem.cause(), Some("secret table is gone"));
    }

    #[test]
    fn a_long_word_is_cut_at_a_character() {
        assert_eq!(echo("tops"), "tops");
        let long = echo(&"é".repeat(1_000));
        assert_eq!(long.chars().count(), ECHO_CHARS_MAX + 1);
    }
}
