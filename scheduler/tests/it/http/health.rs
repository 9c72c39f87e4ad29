//! Health, metrics, and what every answer has.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::json;

use super::server::Server;

fn bare(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn health_needs_no_key() {
    let server = Server::start().await;
    let healthy = server.send(bare(Method::GET, "/healthz")).await;
    assert_eq!((healthy.status.as_u16(), healthy.json()), (200, json!({ "status": "ok" })));
    let ready = server.send(bare(Method::GET, "/readyz")).await;
    assert_eq!((ready.status.as_u16(), ready.json()), (200, json!({ "status": "ready" })));
    server.app.stopping.cancel();
    server.send(bare(Method::GET, "/readyz")).await.is_problem(503, "not_ready", &[]);
    assert_eq!(server.send(bare(Method::GET, "/healthz")).await.status, 200);
    server.finish().await;
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let server = Server::start().await;
    server.submit().await;
    server.get("/v1/renders/x").await;
    server.get("/nowhere/secret-path").await;
    let page = server.send(bare(Method::GET, "/metrics")).await;
    assert!(page.header(header::CONTENT_TYPE).starts_with("application/openmetrics-text"));
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    for line in [
        "kraftr_http_requests_total{method=\"POST\",route=\"/v1/assets\",status=\"2xx\"} 2",
        "kraftr_http_requests_total{method=\"POST\",route=\"/v1/renders\",status=\"2xx\"} 1",
        "kraftr_http_requests_total{method=\"GET\",route=\"/v1/renders/{id}\",status=\"4xx\"} 1",
        "kraftr_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"4xx\"} 1",
        "kraftr_renders_submitted_total 1",
        "kraftr_renders{status=\"queued\"} 1",
        "kraftr_renders{status=\"running\"} 0",
        "kraftr_ledger_violations{invariant=\"entries_sum_to_zero\"} 0",
        "kraftr_worker_slots 0",
        "kraftr_store_up 1",
        "kraftr_http_event_streams 0",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
    assert!(!text.contains("secret-path") && !text.contains(&server.key));
    assert!(text.ends_with("# EOF\n"));
    server.finish().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let server = Server::start().await;
    for path in ["/", "/v1", "/v1/", "/v1/render", "/v2/renders", "/v1/renders/", "/v1/batches"] {
        server.get(path).await.is_problem(404, "unknown_path", &[]);
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/renders", "GET,HEAD,POST"),
        (Method::PATCH, "/v1/assets/x", "DELETE,GET,HEAD"),
        (Method::GET, "/v1/renders/x/cancel", "POST"),
        (Method::POST, "/v1/balance", "GET,HEAD"),
        (Method::DELETE, "/healthz", "GET,HEAD"),
        (Method::POST, "/openapi.json", "GET,HEAD"),
    ] {
        let answer = server.call(method, path).await;
        answer.is_problem(405, "method_not_allowed", &[]);
        let mut methods: Vec<&str> = answer.header(header::ALLOW).split(',').collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{path}");
    }
    server.finish().await;
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let server = Server::start().await;
    let own = server.get("/healthz").await;
    assert!(own.header("x-request-id").starts_with("req_"));
    assert_ne!(own.header("x-request-id"), server.get("/healthz").await.header("x-request-id"));
    let with_id = |id: &str| {
        server.request(Method::GET, "/nowhere").header("x-request-id", id).body(Body::empty()).unwrap()
    };
    let given = server.send(with_id("trace-7.a_B")).await;
    assert_eq!(
        (given.header("x-request-id"), &given.json()["request_id"]),
        ("trace-7.a_B", &json!("trace-7.a_B"))
    );
    for odd in ["a b", "", "<script>", &"x".repeat(65)] {
        assert!(server.send(with_id(odd)).await.header("x-request-id").starts_with("req_"), "{odd:?}");
    }
    server.finish().await;
}
