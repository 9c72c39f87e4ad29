//! Verifying pictures, with and without a key, and what strangers may not learn.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures::{FutureExt as _, stream};
use kraftr_imaging::{Encoding, Limits, RgbImage, decode, encode};
use kraftr_protocol::message::{Held, Reply, Request as Ask, SignRequest};
use kraftr_provenance::credentials::{Chain, Facts, Signature};
use kraftr_provenance::{Key, Marked};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use super::pictures;
use super::server::{Answer, Server};
use super::worker::{Running, TestWorker};

/// Addresses of those who never send a whole picture.
const SLOW: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

fn painted() -> RgbImage {
    RgbImage::from_fn(256, 384, |x, y| [(x / 2) as u8, (y / 3) as u8, ((x + y) / 4) as u8].into())
}

async fn verify(server: &Server, key: Option<&str>, file: &[u8]) -> Answer {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/v1/verify")
        .header(header::CONTENT_TYPE, pictures::FORM_TYPE);
    if let Some(key) = key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let form = pictures::form(&[("file", file)]);
    server.send(request.body(Body::from(form)).unwrap()).await
}

/// What the scheduler answers to a request for a signature.
fn ask(server: &Server, held: Held, sample: u32, message: &[u8]) -> Reply {
    let request = Ask::Sign(SignRequest { held, sample, message: message.to_vec() });
    block_in_place(|| Handle::current().block_on(server.app.transport.call(request))).unwrap()
}

/// What a worker makes of one image: marked, and signed by the scheduler.
fn delivered(server: &Server, running: &Running<'_, '_>) -> Vec<u8> {
    let grant = &running.grant;
    let marked = Marked::seal(&painted(), grant.watermark.0, &Key::development(), Encoding::Png).unwrap();
    let made_at = grant.signing.at.to_string();
    let facts = Facts {
        version: "1",
        release: &grant.spec.release,
        scene_release: None,
        made_at: &made_at,
        inputs: &[],
    };
    let chain = Chain::from_pem(&grant.signing.chain).unwrap();
    let held = Held { render: grant.render, epoch: grant.epoch };
    let sign = |message: &[u8]| match ask(server, held, 0, message) {
        Reply::Signed { signature } => Ok(Signature::parse(&signature).unwrap()),
        other => Err(other),
    };
    marked.sign(&facts, &chain, sign).unwrap().into_bytes()
}

/// The same picture without anything beside its pixels.
fn stripped(file: &[u8]) -> Vec<u8> {
    let picture = decode(file, &Limits::exactly(256, 384, file.len())).unwrap().image;
    encode(&picture, Encoding::Jpeg { quality: 90 }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_recognised_by_its_credentials_and_without_them_by_its_mark() {
    let server = Server::start().await;
    let id = server.submit().await;
    let mut worker = TestWorker::start(&server).await;
    let running = worker.take().await;
    let file = delivered(&server, &running);
    running.succeed(&[&file]).await;
    server
        .until("it ends", async || {
            (server.get(&format!("/v1/renders/{id}")).await.json()["status"] == "succeeded").then_some(())
        })
        .await;

    let found = verify(&server, None, &file).await.is(StatusCode::OK).json();
    assert_eq!(found["verdict"], "kraftr");
    assert_eq!((&found["watermark"]["found"], &found["watermark"]["key"]), (&true.into(), &"dev".into()));
    assert!(found["watermark"]["false_positive_bound"].as_f64().unwrap() < 1e-9);
    assert_eq!(
        (&found["credentials"]["status"], &found["credentials"]["source"]),
        (&"valid".into(), &"file".into())
    );
    assert_eq!(found["credentials"]["development"], true);
    assert_eq!(found["release"], "test-model");
    assert!(found["created_at"].is_string());
    assert_eq!((&found["render"], &found["org"]), (&Value::Null, &Value::Null), "strangers learn neither");

    let copy = stripped(&file);
    let stranger = verify(&server, Some(&server.stranger), &copy).await.is(StatusCode::OK).json();
    assert_eq!(stranger["verdict"], "kraftr");
    assert_eq!(stranger["credentials"]["source"], "store", "the mark leads back to them");
    assert_eq!(stranger["credentials"]["status"], "valid");
    assert_eq!((&stranger["render"], &stranger["org"]), (&Value::Null, &Value::Null));
    let own = verify(&server, Some(&server.key), &copy).await.json();
    assert_eq!(
        (own["render"].as_str().unwrap(), own["org"].as_str().unwrap()),
        (&*id, &*server.org.to_string())
    );

    // Whoever deletes a render takes its credentials along; the mark is still one of ours.
    server.call(Method::DELETE, &format!("/v1/renders/{id}")).await.is(StatusCode::NO_CONTENT);
    let gone = verify(&server, Some(&server.key), &copy).await.json();
    assert_eq!((&gone["verdict"], &gone["credentials"]["status"]), (&"kraftr".into(), &"absent".into()));
    assert_eq!(gone["render"], Value::Null, "what was deleted is shown to nobody");
    server.finish().await;
}

#[tokio::test]
async fn marks_without_a_row_and_pictures_without_a_mark_are_told_apart() {
    let server = Server::start().await;
    let marked = Marked::seal(&painted(), [7; 8], &Key::development(), Encoding::Png).unwrap();
    let found = verify(&server, None, marked.bytes()).await.is(StatusCode::OK).json();
    assert_eq!(
        (&found["verdict"], &found["credentials"]["status"]),
        (&"unknown_reference".into(), &"absent".into())
    );
    let foreign = Key::from_hex("other", &"5a".repeat(32)).unwrap();
    let foreign = Marked::seal(&painted(), [7; 8], &foreign, Encoding::Png).unwrap();
    for plain in [foreign.bytes(), &pictures::png(96, 144, 1), &pictures::png(1, 1, 1)] {
        let found = verify(&server, None, plain).await.is(StatusCode::OK).json();
        assert_eq!((&found["verdict"], &found["watermark"]["found"]), (&"not_found".into(), &false.into()));
    }
    server.finish().await;
}

#[tokio::test]
async fn what_cannot_be_verified_is_refused_with_a_reason() {
    let server = Server::start().await;
    verify(&server, None, b"").await.is_problem(422, "image_empty", &["file"]);
    verify(&server, None, b"GIF89a").await.is_problem(415, "image_format_unsupported", &["file"]);
    verify(&server, None, &pictures::animated_webp()).await.is_problem(422, "image_animated", &["file"]);
    verify(&server, None, &pictures::cmyk_jpeg()).await.is_problem(
        422,
        "image_colour_unsupported",
        &["file"],
    );
    verify(&server, None, &pictures::png_header(9_000, 9_000)).await.is_problem(
        422,
        "image_dimensions",
        &["file"],
    );
    let whole = pictures::png(96, 144, 1);
    verify(&server, None, &whole[..whole.len() / 2]).await.is_problem(422, "image_unreadable", &["file"]);
    let revoked = format!("krf_{}", "0".repeat(64));
    verify(&server, Some(&revoked), &whole).await.is_problem(401, "api_key_unknown", &["Authorization"]);
    server.finish().await;
}

#[tokio::test]
async fn one_address_cannot_ask_without_end() {
    let server = Server::start().await;
    let picture = pictures::png(96, 144, 1);
    let mut refused = None;
    for _ in 0..30 {
        let answer = verify(&server, None, &picture).await;
        if answer.status != StatusCode::OK {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("thirty at once are too many");
    refused.is_problem(429, "rate_limited", &[]);
    assert!(refused.header(header::RETRY_AFTER).parse::<u32>().unwrap() >= 1);
    server.finish().await;
}

#[tokio::test]
async fn those_who_send_slowly_do_not_keep_the_others_out() {
    let server = Server::start_with(|config| config.proxies = 1).await;
    let ask = async |address: &str, body: Body| {
        let request = Request::post("/v1/verify")
            .header(header::CONTENT_TYPE, pictures::FORM_TYPE)
            .header("X-Forwarded-For", address);
        server.send(request.body(body).unwrap()).await
    };
    let picture = pictures::form(&[("file", &pictures::png(96, 144, 1))]);
    let never = || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    let mut slow: Vec<_> = (0..8).map(|n| Box::pin(ask(SLOW[n / 2], never()))).collect();
    for one in &mut slow[..2] {
        assert!(one.as_mut().now_or_never().is_none());
    }
    ask(SLOW[0], Body::from(picture.clone())).await.is_problem(429, "rate_limited", &[]);
    ask("192.0.2.99", Body::from(picture.clone())).await.is(StatusCode::OK);
    for one in &mut slow[2..] {
        assert!(one.as_mut().now_or_never().is_none());
    }
    let busy = ask("192.0.2.99", Body::from(picture.clone())).await;
    busy.is_problem(503, "busy", &[]);
    assert!(busy.header(header::RETRY_AFTER).parse::<u32>().unwrap() >= 1);
    drop(slow);
    ask("192.0.2.99", Body::from(picture)).await.is(StatusCode::OK);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_holds_the_claim_gets_a_signature_and_only_for_a_claim_of_ours() {
    let server = Server::start().await;
    server.submit().await;
    let mut worker = TestWorker::start(&server).await;
    let running = worker.take().await;
    let held = Held { render: running.grant.render, epoch: running.grant.epoch };
    assert!(matches!(ask(&server, held, 0, b"pay me"), Reply::NotSigned { .. }));
    assert_eq!(ask(&server, held, 9, b"pay me"), Reply::Fenced, "an image that the render does not have");
    let mut late = held;
    late.epoch.0 -= 1;
    assert_eq!(ask(&server, late, 0, b"pay me"), Reply::Fenced);
    running.fail().await;
    server
        .until("it ends", async || {
            let list = server.get("/v1/renders").await.json();
            list.to_string().contains("\"failed\"").then_some(())
        })
        .await;
    assert_eq!(ask(&server, held, 0, b"pay me"), Reply::Fenced);
    server.finish().await;
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.call(Method::GET, "/verify").await;
    assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert!(page.header(header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "import("] {
        assert!(!html.contains(outside), "{outside}");
    }
    server.finish().await;
}
