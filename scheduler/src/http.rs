//! The HTTP API, noun by noun; `/openapi.json` is its contract.
//!
//! Handlers read and check, call one [`Store`](crate::store::Store) method, and show the outcome; rules live in `domain` and SQL.

mod artifacts;
mod assets;
pub mod auth;
mod billing;
mod blobs;
mod fields;
mod health;
mod idempotency;
mod limits;
mod models;
mod observe;
mod openapi;
mod page;
mod path;
pub mod problem;
mod rate;
mod renders;
mod sse;
mod verify;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kraftr_protocol::limits::ASSET_BYTES_MAX;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use health::LastAudit;
use limits::Turns;
use problem::{Code, Problem};
use rate::Rate;

/// What every handler can reach.
pub struct Api {
    app: Arc<App>,
    turns: Turns,
    rate: Rate,
    last_audit: LastAudit,
}

/// The whole API over `app`.
pub fn router(app: Arc<App>) -> Router {
    let api = Arc::new(Api {
        app,
        turns: Turns::default(),
        rate: Rate::default(),
        last_audit: LastAudit::default(),
    });
    let (router, document) = documented().split_for_parts();
    let document = Bytes::from(openapi::finish(document, &api.app.config.public_url).to_string());
    router
        .route("/blobs/{*key}", get(blobs::read).put(blobs::store))
        .route("/openapi.json", get(async move || openapi::serve(document.clone())))
        .route("/docs", get(openapi::docs))
        .route("/verify", get(verify::page))
        .fallback(async || {
            Problem::new(Code::UnknownPath, "There is nothing at this path; /docs shows what there is.")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(
                Code::MethodNotAllowed,
                "The path does not take this method; the Allow header names those it does.",
            )
        })
        // For multipart forms; JSON bodies are bounded where they are read.
        .layer(DefaultBodyLimit::max(ASSET_BYTES_MAX + limits::FORM_OVERHEAD_MAX))
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(middleware::from_fn(limits::drain_refused))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), observe::observe))
        .with_state(api)
}

/// The routes that the OpenAPI document shows.
fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(assets::upload, assets::list))
        .routes(routes!(assets::read, assets::delete))
        .routes(routes!(renders::submit, renders::list))
        .routes(routes!(renders::read, renders::delete))
        .routes(routes!(renders::cancel))
        .routes(routes!(sse::events))
        .routes(routes!(artifacts::read))
        .routes(routes!(billing::balance))
        .routes(routes!(billing::ledger))
        .routes(routes!(models::list))
        .routes(routes!(verify::verify))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (_, Some(message)) => message.as_str(),
        _ => "without a message",
    };
    Problem::internal(format_args!("a handler panicked: {message}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_answered_without_its_message() {
        for panic in
            [Box::new("at a secret") as Box<dyn Any + Send>, Box::new("a secret".to_owned()), Box::new(7)]
        {
            let response = answer_panic(panic);
            assert_eq!(response.status(), 500);
            let problem = response.extensions().get::<Problem>().unwrap();
            assert_eq!(problem.code(), Code::Internal);
            let shown = serde_json::to_string(&problem.document(None)).unwrap();
            assert!(!shown.contains("secret") && problem.cause().unwrap().contains("panicked"));
        }
    }
}
