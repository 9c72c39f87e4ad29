//! Links of the embedded object store.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use bytes::Bytes;
use kraftr_protocol::Digest;
use kraftr_scheduler::blobs::{BlobStore as _, PutTerms};

use super::server::{Answer, Server};
use super::worker::path_of;

const TTL: Duration = Duration::from_secs(30);

async fn send(server: &Server, method: Method, url: &str, media_type: &str, body: &'static [u8]) -> Answer {
    let request =
        Request::builder().method(method).uri(path_of(url)).header(header::CONTENT_TYPE, media_type);
    server.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn links_are_refused_with_a_reason() {
    let server = Server::start().await;
    let blobs = server.app.directory.clone().unwrap();
    let terms = PutTerms { sha256: Digest::of(b"abc"), bytes: 3, content_type: "image/png".into() };
    let put = blobs.presign_put("tests/a.png", &terms, TTL).await.unwrap().url;
    for (body, media_type, code) in [
        (&b"abd"[..], "image/png", "upload_mismatch"),
        (b"abcd", "image/png", "upload_mismatch"),
        (b"ab", "image/png", "upload_mismatch"),
        (b"abc", "image/jpeg", "upload_mismatch"),
    ] {
        let answer = send(&server, Method::PUT, &put, media_type, body).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (422, Some(code)));
    }
    let expired = blobs.presign_put("tests/a.png", &terms, Duration::ZERO).await.unwrap().url;
    send(&server, Method::PUT, &expired, "image/png", b"abc").await.is_problem(403, "link_expired", &[]);
    let get = blobs.presign_get("tests/a.png", TTL).await.unwrap().url;
    for bent in [
        get.replace("a.png", "b.png"),
        get.replace("signature=", "signature=00"),
        get.split('?').next().unwrap().to_owned(),
        put.clone(),
    ] {
        send(&server, Method::GET, &bent, "image/png", b"").await.is_problem(403, "link_invalid", &[]);
    }
    send(&server, Method::PUT, &get, "image/png", b"abc").await.is_problem(403, "link_invalid", &[]);
    send(&server, Method::GET, &get, "image/png", b"").await.is_problem(404, "not_found", &["id"]);
    let large = PutTerms { bytes: 64_000_001, ..terms.clone() };
    let url = blobs.presign_put("tests/a.png", &large, TTL).await.unwrap().url;
    send(&server, Method::PUT, &url, "image/png", b"abc").await.is_problem(413, "body_too_large", &[]);
    server.finish().await;
}

#[tokio::test]
async fn a_link_moves_an_object() {
    let server = Server::start().await;
    let blobs = server.app.directory.clone().unwrap();
    let terms = PutTerms { sha256: Digest::of(b"abc"), bytes: 3, content_type: "image/png".into() };
    let put = blobs.presign_put("tests/a.png", &terms, TTL).await.unwrap().url;
    assert_eq!(send(&server, Method::PUT, &put, "image/png", b"abc").await.status, 204);
    let get = blobs.presign_get("tests/a.png", TTL).await.unwrap().url;
    let answer = send(&server, Method::GET, &get, "", b"").await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, Bytes::from_static(b"abc")));
    blobs.delete("tests/a.png").await.unwrap();
    server.finish().await;
}
