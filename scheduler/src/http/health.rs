//! Health and metrics, for load balancers and operators. No key is needed.

use std::fmt::Display;
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

/// How long a service may take to answer before it counts as missing: balancers ask every few seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// When the ledger was last audited for the metrics page.
#[derive(Debug, Default)]
pub(super) struct LastAudit(Mutex<Option<Timestamp>>);

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
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

/// Whether requests can be served, and what is missing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready`: the database answers, so that nothing is refused which others would take.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Services that do not answer although requests are served: `objects`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<&'static str>,
}

/// Answers when requests can be served.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz",
    responses((status = OK, description = "The database answers and the server is not stopping.", body = Readiness)),
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Readiness>, Problem> {
    let app = &*api.app;
    if app.stopping.is_cancelled() {
        return Err(Problem::new(Code::NotReady, "The server is stopping; use another one.").retry_after(5));
    }
    let (database, objects) = tokio::join!(
        answers("database", ANSWER_WITHIN, app.store.ping()),
        // Whether there is such an object does not matter: an answer is what counts.
        answers("objects", ANSWER_WITHIN, app.blobs.len("readyz")),
    );
    if !database {
        return Err(Problem::new(Code::NotReady, "The database does not answer.").retry_after(5));
    }
    let missing = [("objects", objects)].into_iter().filter_map(|(what, answers)| (!answers).then_some(what));
    Ok(Json(Readiness { status: "ready", missing: missing.collect() }))
}

/// Whether a service answers soon enough to be of use.
async fn answers<T, E: Display>(
    what: &str,
    within: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> bool {
    match tokio::time::timeout(within, call).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "readiness: {what} does not answer");
            false
        }
        Err(_) => {
            tracing::warn!("readiness: {what} does not answer in time");
            false
        }
    }
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_service_answers_well_and_in_time_or_is_missing() {
        assert!(answers("it", ANSWER_WITHIN, async { Ok::<_, &str>(()) }).await);
        assert!(!answers("it", ANSWER_WITHIN, async { Err::<(), _>("refused") }).await);
        assert!(!answers("it", Duration::ZERO, pending::<Result<(), &str>>()).await);
    }
}
