//! Where a picture comes from, for everybody who asks; and the page on which one may ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use kraftr_imaging::{Limits, SourceFormat};
use kraftr_protocol::limits::{ASSET_BYTES_MAX, ASSET_PIXELS_MAX, ASSET_SIDE_MAX};
use kraftr_protocol::{OrgId, RenderId, Timestamp, WatermarkRef};
use kraftr_provenance::credentials::{Reading, Status, read};
use kraftr_provenance::{Evidence, Verdict, examine};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::assets::{UploadForm, receive, refused};
use super::auth::Caller;
use super::limits::{BODY_TIME_MAX, too_slow};
use super::problem::{Code, Problem};
use super::rate::client;
use crate::store::Traced;

const PAGE: &str = include_str!("../../web/verify.html");
/// What the page may do: run what it holds, ask this server, show the picture that was dropped.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Any picture within the bounds of an asset, also the smallest.
const LIMITS: Limits = Limits {
    bytes_max: ASSET_BYTES_MAX,
    side_min: 1,
    side_max: ASSET_SIDE_MAX,
    pixels_max: ASSET_PIXELS_MAX,
    aspect_max: ASSET_SIDE_MAX,
};

/// Where a picture comes from.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verification)]
pub(super) struct View {
    /// What is made of the evidence: `kraftr` (the mark leads to a picture made here), `unknown_reference` (a mark that
    /// nothing here knows), `credentials_only` (no mark, but a manifest that says so), `not_found`.
    #[schema(value_type = String, example = "kraftr")]
    verdict: Verdict,
    watermark: Watermark,
    credentials: Credentials,
    /// The release that made it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo-tryon-1")]
    release: Option<String>,
    /// When it was made, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    /// The render that made it; shown to its own organisation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    render: Option<RenderId>,
    /// The organisation; shown to itself only.
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<OrgId>,
}

/// What the pixels say.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WatermarkEvidence)]
struct Watermark {
    /// Whether they carry a mark of this installation's keys.
    found: bool,
    /// How well the mark agrees with the pixels, in deviations of what chance agrees: 40 and more just after it was made,
    /// 10 at the end of what can be read.
    #[schema(example = 41.2)]
    score: f64,
    /// The name of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// How probable it is at most that an unmarked picture is taken for a marked one.
    #[schema(example = 2.9e-11)]
    false_positive_bound: f64,
}

/// What the Content Credentials (C2PA) say.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CredentialsEvidence)]
struct Credentials {
    /// `absent`, `invalid` (damaged, or of another picture), `valid` (signed by somebody who is not trusted here) or
    /// `trusted`.
    #[schema(value_type = String, example = "trusted")]
    status: Status,
    /// Where they were: in the `file`, or, where the file has none, in the `store` that the mark led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "file")]
    source: Option<&'static str>,
    /// Whether they were signed with a certificate for development, which proves nothing.
    development: bool,
    /// The organisation in the signer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
    /// C2PA's codes of what is wrong.
    problems: Vec<String>,
}

impl Credentials {
    fn new(reading: &Reading, source: &'static str) -> Self {
        Self {
            status: reading.status,
            source: (reading.status != Status::Absent).then_some(source),
            development: reading.development,
            signer: reading.signer.clone(),
            problems: reading.problems.clone(),
        }
    }
}

/// Verifies a picture.
///
/// Says whether a picture comes from here: by the invisible mark in its pixels, which survives when metadata is stripped,
/// and by its Content Credentials. A still PNG, JPEG or WebP of at most 20 MB and 40 megapixels. Nothing is kept. No key
/// is needed; render and organisation are shown only to a key of that organisation. Each address may ask ten times in a
/// burst, thirty times a minute, and for two at once.
#[utoipa::path(
    post, path = "/v1/verify", tag = "verification", operation_id = "verify",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = OK, description = "The verdict and its evidence.", body = View)),
)]
pub(super) async fn verify(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let address = client(&parts, api.app.config.proxies);
    let visit = api.rate.take(address, api.app.clock.now()).map_err(|seconds| {
        let message = format!("Too many pictures from this address. Wait {seconds} seconds.");
        Problem::new(Code::RateLimited, message).retry_after(seconds)
    })?;
    let caller = if parts.headers.contains_key(header::AUTHORIZATION) {
        Some(Caller::from_request_parts(&mut parts, &api).await?)
    } else {
        None
    };
    let turn = api.turns.verify()?;
    let received = tokio::time::timeout(BODY_TIME_MAX, receive(Request::from_parts(parts, body))).await;
    let file = received.map_err(|_| too_slow())??;
    let examining = {
        let (app, examined) = (Arc::clone(&api.app), api.turns.examine().await?);
        // Who goes away does not make room before the work for them has ended.
        tokio::task::spawn_blocking(move || {
            let _examined = examined;
            let evidence = examine(&file, &LIMITS, &app.provenance.keys, &app.provenance.anchors);
            (evidence, turn, visit)
        })
    };
    let (evidence, _turn, _visit) = examining.await.map_err(Problem::internal)?;
    let view = judge(&api, evidence.map_err(|error| refused(&error))?, caller).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

async fn judge(api: &Api, evidence: Evidence, caller: Option<Caller>) -> Result<View, Problem> {
    let found = match evidence.mark.payload {
        Some(payload) => api.app.store.trace(WatermarkRef(payload)).await?,
        None => None,
    };
    let verdict = evidence.verdict(Some(found.is_some()));
    let mut credentials = Credentials::new(&evidence.credentials, "file");
    if let Some(traced) = &found
        && evidence.credentials.status == Status::Absent
        && let Some(kept) = kept(api, traced).await?
    {
        credentials = Credentials::new(&kept, "store");
    }
    let said = evidence.credentials.is_ours().then_some(evidence.credentials.release).flatten();
    let own = found.as_ref().filter(|traced| {
        !traced.deleted && caller.as_ref().is_some_and(|caller| caller.org == traced.render.org)
    });
    let (shown, org) = (own.map(|traced| traced.render.id), own.map(|traced| traced.render.org));
    let render = found.map(|traced| traced.render);
    Ok(View {
        verdict,
        watermark: Watermark {
            found: evidence.mark.payload.is_some(),
            score: evidence.mark.score,
            key: evidence.mark.key,
            false_positive_bound: evidence.mark.false_positive_bound,
        },
        credentials,
        created_at: render.as_ref().map(|render| render.finished_at.unwrap_or(render.created_at)),
        release: render.map(|render| render.spec.release).or(said),
        render: shown,
        org,
    })
}

/// The credentials of what was delivered: a picture whose own were stripped leads back to them.
async fn kept(api: &Api, traced: &Traced) -> Result<Option<Reading>, Problem> {
    let Some(artifact) = traced.render.artifacts.iter().find(|artifact| artifact.sample == traced.sample)
    else {
        return Ok(None);
    };
    let Some(file) = api.app.blobs.get(&artifact.object_key).await? else { return Ok(None) };
    let app = Arc::clone(&api.app);
    let reading = tokio::task::spawn_blocking(move || {
        SourceFormat::sniff(&file).map(|format| read(&file, format, &app.provenance.anchors))
    });
    reading.await.map_err(Problem::internal)
}

/// The page at `/verify`.
pub(super) async fn page() -> Response {
    let mut response = PAGE.into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
