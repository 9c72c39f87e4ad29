//! The contract itself, and the page that shows it.

use axum::http::{Method, header};
use serde_json::Value;

use super::server::Server;

/// Every route that clients use.
const OPERATIONS: [(&str, &str); 18] = [
    ("delete", "/v1/assets/{id}"),
    ("delete", "/v1/renders/{id}"),
    ("get", "/healthz"),
    ("get", "/metrics"),
    ("get", "/readyz"),
    ("get", "/v1/artifacts/{id}"),
    ("get", "/v1/assets"),
    ("get", "/v1/assets/{id}"),
    ("get", "/v1/balance"),
    ("get", "/v1/ledger"),
    ("get", "/v1/models"),
    ("get", "/v1/renders"),
    ("get", "/v1/renders/{id}"),
    ("get", "/v1/renders/{id}/events"),
    ("post", "/v1/assets"),
    ("post", "/v1/renders"),
    ("post", "/v1/renders/{id}/cancel"),
    ("post", "/v1/verify"),
];

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_whole() {
    let server = Server::start().await;
    let answer = server.get("/openapi.json").await;
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["servers"][0]["url"], format!("http://{}", server.address));
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");

    let mut operations: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.clone(), path.clone()));
            let what = format!("{method} {path}");
            for text in ["operationId", "summary"] {
                assert!(
                    operation[text].as_str().is_some_and(|text| !text.is_empty()),
                    "{what} has no {text}"
                );
            }
            let open = ["/healthz", "/readyz", "/metrics", "/v1/verify"].contains(&path.as_str());
            assert_eq!(operation["security"].is_null(), open, "{what}");
            // A key is not asked for there, and a wrong one is refused all the same.
            let refuses = !open || path == "/v1/verify";
            assert_eq!(operation["responses"]["401"].is_null(), !refuses, "{what}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let keyed = parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key");
            assert_eq!(keyed, method == "post" && !open, "{what}");
            assert_eq!(
                path.contains("{id}"),
                parameters.iter().any(|parameter| parameter["in"] == "path"),
                "{what}"
            );
        }
    }
    operations.sort();
    let expected: Vec<(String, String)> =
        OPERATIONS.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(operations, expected);

    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    server.finish().await;
}

#[tokio::test]
async fn the_documented_words_are_the_real_ones() {
    let server = Server::start().await;
    let schemas = server.get("/openapi.json").await.json()["components"]["schemas"].clone();
    assert_eq!(schemas["RenderRequest"]["additionalProperties"], false);
    let required = schemas["RenderRequest"]["required"].as_array().unwrap();
    assert_eq!(required, &["model", "person", "garment", "category"]);
    let words = |name: &str| {
        schemas[name]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(words("Category"), ["tops", "bottoms", "one-pieces"]);
    assert_eq!(words("GarmentPhoto"), ["flat-lay", "model"]);
    assert_eq!(words("Quality"), ["fast", "balanced", "best"]);
    assert_eq!(words("Class"), ["interactive", "batch"]);
    assert_eq!(words("Format"), ["png", "jpeg", "webp"]);
    assert_eq!(words("EntryKind"), ["grant", "hold", "capture", "void", "refund"]);
    assert_eq!(
        words("Status"),
        ["queued", "dispatched", "running", "succeeded", "failed", "cancelled", "expired"]
    );
    server.finish().await;
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.call(Method::GET, "/docs").await;
    assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert!(page.header(header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(html.contains("/openapi.json"));
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "import("] {
        assert!(!html.contains(outside), "{outside}");
    }
    server.finish().await;
}
