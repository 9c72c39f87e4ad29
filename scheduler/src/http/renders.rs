//! Renders: submit, read, list, cancel, delete.

mod request;
pub(super) mod view;
mod webhook_url;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kraftr_protocol::{AssetId, OrgId, RenderId, Status};

use super::Api;
use super::auth::Caller;
use super::fields::{Fields, word_of};
use super::idempotency::{self, Begun};
use super::limits::read_body;
use super::page::{Listing, Window, listing, one_more};
use super::path::{Id, Noun};
use super::problem::{Code, Problem};
use crate::store::{CancelOutcome, DeleteOutcome, NewRender, Render, Resource, SubmitError, Ticket};
use request::RenderRequest;
use view::RenderView;

/// How long a cancel waits for the worker to stop.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);
/// How often it looks without being woken.
const CANCEL_POLL: Duration = Duration::from_millis(200);

/// Submits a render.
///
/// Holds its price at once: one image costs what `GET /v1/models` says. The credits are taken when the
/// render has succeeded and given back when it has not. All mistakes of the body are named at once.
#[utoipa::path(
    post, path = "/v1/renders", tag = "renders", operation_id = "submit_render", security(("api_key" = [])),
    request_body(content = RenderRequest, content_type = "application/json"),
    responses(
        (status = CREATED, description = "The render, queued.", body = RenderView,
            headers(("Location" = String, description = "Where the render is"))),
        (status = OK, description = "The same request was sent before under this key: its render as it is now.",
            body = RenderView),
    ),
)]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = read_body(body).await?;
    let ticket = match idempotency::begin(&api, caller, &headers, "/v1/renders", &body).await? {
        Begun::Fresh(ticket) => ticket,
        Begun::Done(resource) => return repeat(&api, caller.org, resource).await,
    };
    let work = {
        let (api, ticket) = (Arc::clone(&api), ticket.clone());
        async move {
            let new = request::read(&api, caller.org, &headers, &body, ticket).await?;
            accept(&api, new).await
        }
    };
    let render = idempotency::finish(&api, ticket, work).await?;
    let location = [(header::LOCATION, format!("/v1/renders/{}", render.id))];
    let view = RenderView::new(&api.app, render);
    Ok((StatusCode::CREATED, location, Json(view)).into_response())
}

async fn accept(api: &Api, new: NewRender) -> Result<Render, Problem> {
    let (person, samples) = (new.person, new.spec.samples);
    let outcome = api.app.submit(new).await?;
    outcome.map_err(|refusal| refused(&refusal, person, samples))
}

fn refused(refusal: &SubmitError, person: AssetId, samples: u32) -> Problem {
    match refusal {
        SubmitError::InsufficientCredits { available, price } => {
            let message = format!(
                "{samples} cost {price} credits and {available} are available; add credits, wait until renders that \
                 hold credits have ended, or ask for fewer samples"
            );
            Problem::field(Code::InsufficientCredits, "samples", message).with_credits(available.0, price.0)
        }
        SubmitError::AssetGone(asset) => {
            let field = if *asset == person { "person" } else { "garment" };
            Problem::field(
                Code::UnknownAsset,
                field,
                format!("{asset} was deleted meanwhile; upload it again"),
            )
        }
        SubmitError::TicketLost => idempotency::in_flight(),
    }
}

/// The answer to a request that was done before under its key.
async fn repeat(api: &Api, org: OrgId, made: Resource) -> Result<Response, Problem> {
    let (Resource::Render(id) | Resource::Cancellation(id)) = made else { return Err(idempotency::reused()) };
    Ok(Json(RenderView::new(&api.app, find(api, org, id).await?)).into_response())
}

async fn find(api: &Api, org: OrgId, id: RenderId) -> Result<Render, Problem> {
    api.app.store.render(org, id).await?.ok_or_else(|| Problem::not_found(RenderId::NOUN))
}

/// Lists renders, newest first.
#[utoipa::path(
    get, path = "/v1/renders", tag = "renders", operation_id = "list_renders", security(("api_key" = [])),
    params(Window, ("status" = Option<Status>, Query, description = "Only renders in this state.")),
    responses((status = OK, description = "A page of renders.", body = Listing<RenderView>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Listing<RenderView>>, Problem> {
    let mut fields = Fields::from_query(query.as_deref());
    let page = Window::read(&mut fields, |id: RenderId| id.0);
    let status = fields.optional("status", |value| word_of(value, &Status::ALL, Status::as_str));
    fields.finish()?;
    let rows = api.app.store.renders(caller.org, status, &one_more(page)).await?;
    Ok(Json(listing(page, rows, |render| render.id, |render| RenderView::new(&api.app, render))))
}

/// Reads a render.
#[utoipa::path(
    get, path = "/v1/renders/{id}", tag = "renders", operation_id = "read_render", security(("api_key" = [])),
    params(("id" = RenderId, Path, description = "The render.")),
    responses((status = OK, description = "The render as it is now.", body = RenderView)),
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<RenderId>,
) -> Result<Json<RenderView>, Problem> {
    Ok(Json(RenderView::new(&api.app, find(&api, caller.org, id).await?)))
}

/// Deletes an ended render and its pictures.
///
/// The ledger keeps what it cost. A live render is cancelled first.
#[utoipa::path(
    delete, path = "/v1/renders/{id}", tag = "renders", operation_id = "delete_render", security(("api_key" = [])),
    params(("id" = RenderId, Path, description = "The render.")),
    responses((status = NO_CONTENT, description = "It is gone; its pictures are being erased.")),
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<RenderId>,
) -> Result<StatusCode, Problem> {
    let outcome = api.app.store.delete_render(caller.org, id).await?;
    match outcome {
        DeleteOutcome::Deleted => {
            api.app.hub.forget(id);
            Ok(StatusCode::NO_CONTENT)
        }
        DeleteOutcome::NotFound => Err(Problem::not_found(RenderId::NOUN)),
        DeleteOutcome::InUse => Err(Problem::field(
            Code::RenderLive,
            "id",
            "the render has not ended; cancel it or wait until it has ended, then delete it",
        )),
    }
}

/// Cancels a render.
///
/// A waiting render is cancelled at once. A running one is stopped within a step, which is waited for: the
/// answer's `cancellation` says at which step it stopped and how many credits were released. Cancelling
/// again answers the same. Takes no body.
#[utoipa::path(
    post, path = "/v1/renders/{id}/cancel", tag = "renders", operation_id = "cancel_render",
    security(("api_key" = [])),
    params(("id" = RenderId, Path, description = "The render.")),
    responses(
        (status = OK, description = "It is cancelled.", body = RenderView),
        (status = ACCEPTED, description = "The worker was told and has not stopped yet.", body = RenderView),
    ),
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<RenderId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    if !body.is_empty() {
        Fields::from_json(&parts.headers, &body)?.finish()?;
    }
    let path = format!("/v1/renders/{id}/cancel");
    let ticket = match idempotency::begin(&api, caller, &parts.headers, &path, &body).await? {
        Begun::Fresh(ticket) => ticket,
        Begun::Done(resource) => return repeat(&api, caller.org, resource).await,
    };
    let work = {
        let (api, ticket) = (Arc::clone(&api), ticket.clone());
        async move { stop(&api, caller.org, id, ticket).await }
    };
    let render = idempotency::finish(&api, ticket, work).await?;
    let status = if render.status.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(RenderView::new(&api.app, render))).into_response())
}

async fn stop(api: &Api, org: OrgId, id: RenderId, ticket: Option<Ticket>) -> Result<Render, Problem> {
    let mut watch = api.app.hub.watch(id);
    let outcome = api.app.store.cancel_render(org, id).await?;
    let mut render = match outcome {
        CancelOutcome::NotFound => return Err(Problem::not_found(RenderId::NOUN)),
        CancelOutcome::AlreadyEnded(render) if render.status != Status::Cancelled => {
            return Err(ended(render.status));
        }
        CancelOutcome::AlreadyEnded(render)
        | CancelOutcome::Cancelled(render)
        | CancelOutcome::Requested(render) => *render,
    };
    if let Some(ticket) = &ticket {
        // A lapsed reservation changes nothing: the cancel stands, and cancelling again answers the same.
        api.app.store.complete_idempotent(ticket, Resource::Cancellation(id)).await?;
    }
    let deadline = tokio::time::Instant::now() + CANCEL_TIME_MAX;
    while !render.status.is_terminal() && tokio::time::Instant::now() < deadline {
        tokio::select! {
            () = watch.changed() => {}
            () = tokio::time::sleep(CANCEL_POLL) => {}
            () = api.app.stopping.cancelled() => return Ok(render),
        }
        render = find(api, org, id).await?;
    }
    Ok(render)
}

fn ended(status: Status) -> Problem {
    let message =
        format!("the render has already ended: it is {}; there is nothing left to cancel", status.as_str());
    Problem::field(Code::RenderEnded, "id", message)
}
