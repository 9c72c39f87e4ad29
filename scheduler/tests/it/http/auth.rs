//! Keys: who gets in, and who sees what.

use axum::body::Body;
use axum::http::{Method, Request, header};

use super::server::Server;
use super::worker::TestWorker;

/// Every call that needs a key.
const CALLS: [(&str, &str); 15] = [
    ("POST", "/v1/assets"),
    ("GET", "/v1/assets"),
    ("GET", "/v1/assets/ast_01h455vb4pex5vsknk084sn02q"),
    ("DELETE", "/v1/assets/ast_01h455vb4pex5vsknk084sn02q"),
    ("POST", "/v1/renders"),
    ("GET", "/v1/renders"),
    ("GET", "/v1/renders/rnd_01h455vb4pex5vsknk084sn02q"),
    ("DELETE", "/v1/renders/rnd_01h455vb4pex5vsknk084sn02q"),
    ("POST", "/v1/renders/rnd_01h455vb4pex5vsknk084sn02q/cancel"),
    ("GET", "/v1/renders/rnd_01h455vb4pex5vsknk084sn02q/events"),
    ("GET", "/v1/artifacts/art_01h455vb4pex5vsknk084sn02q"),
    ("GET", "/v1/balance"),
    ("GET", "/v1/ledger"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models?x"),
];

#[tokio::test]
async fn every_call_needs_a_key() {
    let server = Server::start().await;
    let unknown = format!("Bearer krf_{}", "0".repeat(64));
    for (method, path) in CALLS {
        for (given, code) in [
            (None, "api_key_missing"),
            (Some("Bearer"), "api_key_malformed"),
            (Some("Basic a3JmOmtyZg=="), "api_key_malformed"),
            (Some("Bearer krf_short"), "api_key_malformed"),
            (Some(&*unknown), "api_key_unknown"),
        ] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(value) = given {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = server.send(request.body(Body::empty()).unwrap()).await;
            answer.is_problem(401, code, &["Authorization"]);
            assert!(answer.header(header::WWW_AUTHENTICATE).starts_with("Bearer realm="), "{method} {path}");
        }
    }
    server.finish().await;
}

#[tokio::test]
async fn a_revoked_key_says_so() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/balance").await.status, 200);
    assert!(server.app.store.revoke_key(server.key_id).await.unwrap());
    for (method, path) in CALLS {
        let answer = server.call(Method::from_bytes(method.as_bytes()).unwrap(), path).await;
        answer.is_problem(401, "api_key_revoked", &["Authorization"]);
    }
    server.finish().await;
}

#[tokio::test]
async fn what_belongs_to_another_org_is_not_there() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    let body = server.body().await;
    let (person, garment) = (body["person"].as_str().unwrap(), body["garment"].as_str().unwrap());
    let render = server.post("/v1/renders", &body).await.json()["id"].as_str().unwrap().to_owned();
    worker.take().await.succeed(&[b"picture"]).await;
    let artifact = server
        .until("the render succeeds", async || {
            let render = server.get(&format!("/v1/renders/{render}")).await.json();
            render["artifacts"][0]["id"].as_str().map(str::to_owned)
        })
        .await;

    let as_stranger = async |method: &str, path: &str, body: String| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", server.stranger))
            .header(header::CONTENT_TYPE, "application/json");
        server.send(request.body(body.into()).unwrap()).await
    };
    for (method, path) in [
        ("GET", format!("/v1/assets/{person}")),
        ("DELETE", format!("/v1/assets/{garment}")),
        ("GET", format!("/v1/renders/{render}")),
        ("DELETE", format!("/v1/renders/{render}")),
        ("POST", format!("/v1/renders/{render}/cancel")),
        ("GET", format!("/v1/renders/{render}/events")),
        ("GET", format!("/v1/artifacts/{artifact}")),
    ] {
        as_stranger(method, &path, String::new()).await.is_problem(404, "not_found", &["id"]);
    }
    let answer = as_stranger("POST", "/v1/renders", body.to_string()).await;
    answer.is_problem(422, "unknown_asset", &["person", "garment"]);
    for list in ["/v1/assets", "/v1/renders", "/v1/ledger"] {
        assert_eq!(as_stranger("GET", list, String::new()).await.json()["data"].as_array().unwrap().len(), 0);
    }
    assert_eq!(server.get(&format!("/v1/assets/{person}")).await.status, 200);
    server.finish().await;
}

#[tokio::test]
async fn a_malformed_id_is_not_there() {
    let server = Server::start().await;
    for id in [
        "x",
        "ast_",
        "rnd_01H455VB4PEX5VSKNK084SN02Q",
        "art_zzzzzzzzzzzzzzzzzzzzzzzzzz",
        "%00",
        "%FF",
        "a%2Fb",
        "rnd_01h455vb4pex5vsknk084sn02q%20",
    ] {
        for (method, path) in [
            (Method::GET, format!("/v1/assets/{id}")),
            (Method::DELETE, format!("/v1/assets/{id}")),
            (Method::GET, format!("/v1/renders/{id}")),
            (Method::DELETE, format!("/v1/renders/{id}")),
            (Method::POST, format!("/v1/renders/{id}/cancel")),
            (Method::GET, format!("/v1/renders/{id}/events")),
            (Method::GET, format!("/v1/artifacts/{id}")),
        ] {
            server.call(method, &path).await.is_problem(404, "not_found", &["id"]);
        }
    }
    server.finish().await;
}
