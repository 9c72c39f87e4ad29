//! Health and metrics, for load balancers and operators. No key is needed.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use kraftr_protocol::Timestamp;
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::Api;
use super::problem::{Code, Problem};
use crate::app::App;
use crate::metrics::CONTENT_TYPE;

/// How old the figures of an audit may be; an audit reads every row of the ledger.
const AUDIT_EVERY: Duration = Duration::from_mins(5);

/// When the ledger was last audited for the metrics page.
#[derive(Debug, Default)]
pub(super) struct LastAudit(Mutex<Option<Timestamp>>);

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `ready`.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Answers as long as the process does.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = OK, description = "The process runs.", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Answers when requests can be served.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz",
    responses((status = OK, description = "The database answers and the server is not stopping.", body = Health)),
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Health>, Problem> {
    if api.app.stopping.is_cancelled() {
        return Err(Problem::new(Code::NotReady, "The server is stopping; use another one.").retry_after(5));
    }
    api.app.store.ping().await?;
    Ok(Json(Health { status: "ready" }))
}

/// Figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = OK, description = "The figures, in the OpenMetrics text format.", body = String,
        content_type = "application/openmetrics-text")),
)]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let app = &*api.app;
    match app.store.gauges().await {
        Ok(gauges) => app.metrics.set_gauges(Some(&gauges)),
        Err(error) => {
            tracing::error!(%error, "gauges could not be computed");
            app.metrics.set_gauges(None);
        }
    }
    audit_if_due(app, &api.last_audit).await;
    let page = app.metrics.page().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response())
}

/// Audits at most once in a while and one at a time: a scrape that comes meanwhile shows the last figures.
async fn audit_if_due(app: &App, last: &LastAudit) {
    let Ok(mut last) = last.0.try_lock() else { return };
    let now = app.clock.now();
    if last.is_some_and(|last| now < last.plus(AUDIT_EVERY)) {
        return;
    }
    *last = Some(now);
    match app.store.audit().await {
        Ok(audit) => app.metrics.set_audit(&audit),
        Err(error) => tracing::error!(%error, "the ledger could not be audited"),
    }
}
