//! Artifacts: fetching what was delivered.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use kraftr_protocol::Digest;

use super::server::Server;
use super::worker::{TestWorker, path_of};

#[tokio::test]
async fn a_picture_is_fetched_by_its_url() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    let render = server.submit().await;
    // Longer than what is read from a file at once.
    let picture: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    worker.take().await.succeed(&[&picture]).await;
    let artifact = server
        .until("it succeeds", async || {
            let artifact = server.get(&format!("/v1/renders/{render}")).await.json()["artifacts"][0].clone();
            artifact.is_object().then_some(artifact)
        })
        .await;
    let url = artifact["url"].as_str().unwrap();
    assert_eq!(url, format!("http://{}/v1/artifacts/{}", server.address, artifact["id"].as_str().unwrap()));
    assert_eq!((&artifact["width"], &artifact["height"]), (&384.into(), &576.into()));
    let path = path_of(url);
    let answer = server.get(path).await;
    assert_eq!(answer.is(StatusCode::OK).body, picture);
    assert_eq!(answer.header(header::CONTENT_TYPE), "image/png");
    assert_eq!(answer.header(header::CONTENT_LENGTH), "200000");
    let etag = format!("\"{}\"", Digest::of(&picture));
    assert_eq!(answer.header(header::ETAG), etag);
    assert_eq!(artifact["sha256"], Digest::of(&picture).to_string());
    assert_eq!(answer.header(header::CONTENT_DISPOSITION), format!("inline; filename=\"{render}-0.png\""));

    let head = server.call(Method::HEAD, path).await;
    assert_eq!(
        (head.status, head.body.len(), head.header(header::CONTENT_LENGTH)),
        (StatusCode::OK, 0, "200000")
    );
    let request =
        server.request(Method::GET, path).header(header::IF_NONE_MATCH, &etag).body(Body::empty()).unwrap();
    assert_eq!(server.send(request).await.is(StatusCode::NOT_MODIFIED).body.len(), 0);
    server.finish().await;
}
