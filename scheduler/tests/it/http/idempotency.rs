//! Idempotency keys: twice under one key is once.

use axum::http::{Method, StatusCode};
use kraftr_protocol::Credits;
use serde_json::json;

use super::pictures;
use super::server::Server;

#[tokio::test]
async fn a_repeated_submission_is_one_render() {
    let server = Server::start().await;
    let body = server.body().await.to_string();
    let first = server.post_text("/v1/renders", Some("k"), body.clone()).await.is(StatusCode::CREATED).json();
    let path = format!("/v1/renders/{}", first["id"].as_str().unwrap());
    let again = server.post_text("/v1/renders", Some("k"), body.clone()).await.is(StatusCode::OK).json();
    assert_eq!(again["id"], first["id"]);
    server.call(Method::POST, &format!("{path}/cancel")).await.is(StatusCode::OK);
    let now = server.post_text("/v1/renders", Some("k"), body.clone()).await.is(StatusCode::OK).json();
    assert_eq!(now["status"], "cancelled", "the resource as it is now");
    let other = server.post_text("/v1/renders", Some("l"), body.clone()).await.is(StatusCode::CREATED).json();
    assert_ne!(other["id"], first["id"]);
    assert_eq!(server.balance().await.held, Credits(1));
    assert_eq!(server.call(Method::DELETE, &path).await.status, 204);
    server.post_text("/v1/renders", Some("k"), body).await.is_problem(404, "not_found", &["id"]);
    server.finish().await;
}

#[tokio::test]
async fn racing_repetitions_are_one_render() {
    let server = Server::start().await;
    let body = server.body().await.to_string();
    let calls = (0..8).map(|_| server.post_text("/v1/renders", Some("k"), body.clone()));
    let answers = futures::future::join_all(calls).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    for answer in answers.iter().filter(|answer| !answer.status.is_success()) {
        answer.is_problem(409, "idempotency_in_flight", &["Idempotency-Key"]);
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(server.balance().await.held, Credits(1));
    server.finish().await;
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() {
    let server = Server::start().await;
    let body = server.body().await;
    server.post_text("/v1/renders", Some("k"), body.to_string()).await.is(StatusCode::CREATED);
    let mut other = body.clone();
    other["samples"] = json!(2);
    let reused = &["Idempotency-Key"];
    server.post_text("/v1/renders", Some("k"), other.to_string()).await.is_problem(
        422,
        "idempotency_key_reused",
        reused,
    );
    let png = pictures::png(64, 64, 9);
    let upload = server.upload_form(Some("k"), &[("file", &png)]).await;
    upload.is_problem(422, "idempotency_key_reused", reused);
    assert_eq!(server.balance().await.held, Credits(1));
    server.finish().await;
}

#[tokio::test]
async fn a_refused_request_frees_its_key() {
    let server = Server::start().await;
    let mut body = server.body().await;
    let good = body.to_string();
    body["samples"] = json!(9);
    server.post_text("/v1/renders", Some("k"), body.to_string()).await.is_problem(
        422,
        "invalid_field",
        &["samples"],
    );
    server.post_text("/v1/renders", Some("k"), "{").await.is_problem(400, "malformed_json", &["body"]);
    server.post_text("/v1/renders", Some("k"), good).await.is(StatusCode::CREATED);

    server.upload_form(Some("u"), &[("file", b"text")]).await.is_problem(
        415,
        "image_format_unsupported",
        &["file"],
    );
    server.upload_form(Some("u"), &[("file", &pictures::png(64, 64, 9))]).await.is(StatusCode::CREATED);
    server.finish().await;
}

#[tokio::test]
async fn a_repeated_upload_is_one_asset() {
    let server = Server::start().await;
    let png = pictures::png(64, 64, 9);
    let first = server.upload_form(Some("k"), &[("file", &png)]).await.is(StatusCode::CREATED).json();
    assert_eq!(server.upload_form(Some("k"), &[("file", &png)]).await.is(StatusCode::OK).json(), first);
    let same = server.upload_form(Some("l"), &[("file", &png)]).await.is(StatusCode::CREATED).json();
    assert_eq!(same, first);
    assert_eq!(server.upload_form(Some("l"), &[("file", &png)]).await.is(StatusCode::OK).json(), first);
    let other = pictures::png(64, 64, 8);
    let refused = server.upload_form(Some("k"), &[("file", &other)]).await;
    refused.is_problem(422, "idempotency_key_reused", &["Idempotency-Key"]);
    server.finish().await;
}

#[tokio::test]
async fn a_repeated_cancel_answers_the_same() {
    let server = Server::start().await;
    let id = server.submit().await;
    let path = format!("/v1/renders/{id}/cancel");
    let first = server.post_text(&path, Some("k"), "").await.is(StatusCode::OK).json();
    assert_eq!(server.post_text(&path, Some("k"), "").await.is(StatusCode::OK).json(), first);
    let other = format!("/v1/renders/{}/cancel", server.submit().await);
    let refused = server.post_text(&other, Some("k"), "").await;
    refused.is_problem(422, "idempotency_key_reused", &["Idempotency-Key"]);
    server.finish().await;
}

#[tokio::test]
async fn keys_are_checked() {
    let server = Server::start().await;
    let body = server.body().await.to_string();
    for key in ["", " ", "a b", &"k".repeat(256)] {
        let answer = server.post_text("/v1/renders", Some(key), body.clone()).await;
        answer.is_problem(422, "invalid_field", &["Idempotency-Key"]);
    }
    server.post_text("/v1/renders", Some(&"k".repeat(255)), body).await.is(StatusCode::CREATED);
    server.finish().await;
}
