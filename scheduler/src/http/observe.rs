//! The outermost layer: names each request, counts it, logs it, and makes every refusal a problem document.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::Api;
use super::problem::{self, Code, Problem};
use crate::app::App;
use crate::metrics::{RequestLabels, RouteLabels};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a request id that a caller chose.
const REQUEST_ID_CHARS_MAX: usize = 64;
/// What requests without a route are counted under.
const UNMATCHED: &str = "unmatched";

/// Wraps every request. Paths and queries are not logged: they may hold signatures.
pub(super) async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&api.app, &request);
    let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let method = method_word(request.method());
    let span = tracing::info_span!("request", http.method = method, http.route = route, request.id = id);
    let response = next.run(request).instrument(span.clone()).await;
    let entered = span.enter();
    let mut response = as_problem(response, &id);
    log(&response, started.elapsed());
    drop(entered);
    count(&api.app, method, route, response.status(), started.elapsed());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The caller's own id when it is plain, else a new one.
fn request_id(app: &App, request: &Request) -> String {
    let plain = |id: &&str| {
        (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain);
    given.map_or_else(|| format!("req_{}", app.ids.uuid(app.clock.now()).simple()), str::to_owned)
}

/// Adds the request id to a problem, and makes one of a refusal that a library answered in its own words.
fn as_problem(mut response: Response, id: &str) -> Response {
    let found = response.extensions_mut().remove::<Problem>().or_else(|| foreign(&response));
    let Some(problem) = found else { return response };
    if let Some(cause) = problem.cause() {
        tracing::error!(cause, code = problem.code().as_str(), "a request failed");
    }
    let (mut parts, _) = response.into_parts();
    let (own, body) = problem.respond(Some(id)).into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(own.headers);
    parts.status = own.status;
    Response::from_parts(parts, body)
}

fn foreign(response: &Response) -> Option<Problem> {
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    let media_type = response.headers().get(header::CONTENT_TYPE);
    if !refused || media_type.is_some_and(|value| value == problem::CONTENT_TYPE) {
        return None;
    }
    if status.is_server_error() {
        return Some(Problem::internal(format_args!("a library answered {status}")));
    }
    // The first code of a status is its most general one.
    let code =
        Code::ALL.iter().copied().find(|code| code.status() == status).unwrap_or(Code::MalformedRequest);
    Some(Problem::new(code, code.remedy()))
}

fn log(response: &Response<Body>, took: Duration) {
    let (status, millis) = (response.status().as_u16(), took.as_millis() as u64);
    if status >= 400 {
        tracing::info!(http.status = status, http.duration_ms = millis, "refused");
    } else {
        tracing::debug!(http.status = status, http.duration_ms = millis, "answered");
    }
}

fn count(app: &App, method: &'static str, route: String, status: StatusCode, took: Duration) {
    let class = match status.as_u16() {
        500.. => "5xx",
        400.. => "4xx",
        300.. => "3xx",
        _ => "2xx",
    };
    let labels = RequestLabels { method, route: route.clone(), status: class };
    app.metrics.http_requests.get_or_create(&labels).inc();
    app.metrics.http_request_seconds.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
}

/// A bounded set of words: a caller can send any method.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    #[test]
    fn a_library_s_refusal_becomes_a_problem() {
        let code =
            |status: StatusCode| foreign(&(status, "words").into_response()).map(|problem| problem.code());
        assert_eq!(code(StatusCode::OK), None);
        assert_eq!(code(StatusCode::BAD_REQUEST), Some(Code::MalformedRequest));
        assert_eq!(code(StatusCode::PAYLOAD_TOO_LARGE), Some(Code::BodyTooLarge));
        assert_eq!(code(StatusCode::UNSUPPORTED_MEDIA_TYPE), Some(Code::UnsupportedMediaType));
        assert_eq!(code(StatusCode::UNPROCESSABLE_ENTITY), Some(Code::InvalidRequest));
        assert_eq!(code(StatusCode::IM_A_TEAPOT), Some(Code::MalformedRequest));
        assert_eq!(code(StatusCode::BAD_GATEWAY), Some(Code::Internal));
        let own = Problem::new(Code::NotFound, "gone").into_response();
        assert!(foreign(&own).is_none());
    }

    #[tokio::test]
    async fn a_problem_keeps_its_headers_and_gets_the_request_id() {
        let problem = Problem::new(Code::Busy, "wait").retry_after(5);
        let mut response = problem.into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        let response = as_problem(response, "req_7");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (&response.headers()[header::ALLOW], &response.headers()[header::RETRY_AFTER]),
            (&HeaderValue::from_static("GET"), &HeaderValue::from_static("5"))
        );
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("\"request_id\":\"req_7\""));
    }
}
