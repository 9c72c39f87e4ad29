//! Renders: submitting, reading, cancelling, deleting.

use axum::http::{Method, StatusCode, header};
use kraftr_protocol::Credits;
use kraftr_protocol::limits::{JSON_DEPTH_MAX, SEED_MAX};
use serde_json::{Value, json};

use super::server::{CREDITS, MODEL, Server};
use super::worker::TestWorker;

fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[field] = value;
    body
}

#[tokio::test]
async fn a_render_is_accepted_with_its_defaults() {
    let server = Server::start().await;
    let body = server.body().await;
    let answer = server.post("/v1/renders", &body).await;
    let render = answer.is(StatusCode::CREATED).json();
    let id = render["id"].as_str().unwrap();
    assert_eq!(answer.header(header::LOCATION), format!("/v1/renders/{id}"));
    for (field, value) in [
        ("status", json!("queued")),
        ("model", json!(MODEL)),
        ("release", json!(MODEL)),
        ("category", json!("tops")),
        ("garment_photo", json!("flat-lay")),
        ("inputs", json!({ "person": body["person"], "garment": body["garment"] })),
        ("samples", json!(1)),
        ("steps", json!(20)),
        ("quality", json!("balanced")),
        ("format", json!("png")),
        ("class", json!("interactive")),
        ("progress", json!({ "step": 0, "steps": 20 })),
        ("price", json!(1)),
        ("charged", Value::Null),
        ("artifacts", json!([])),
        ("error", Value::Null),
        ("cancellation", Value::Null),
        ("attempts", json!(0)),
        ("metadata", Value::Null),
        ("started_at", Value::Null),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(render[field], value, "{field}");
    }
    assert!(render["seed"].as_u64().unwrap() <= SEED_MAX);
    assert_eq!(server.get(&format!("/v1/renders/{id}")).await.json()["id"], id);
    assert_eq!(
        server.get("/v1/balance").await.json(),
        json!({ "posted": CREDITS, "held": 1, "available": CREDITS - 1 })
    );
    server.finish().await;
}

#[tokio::test]
async fn everything_asked_for_is_kept() {
    let server = Server::start().await;
    let mut body = server.body().await;
    let asked = json!({
        "category": "one-pieces", "garment_photo": "model", "quality": "fast", "samples": 4, "seed": SEED_MAX,
        "steps": 100, "format": "webp", "class": "batch", "webhook": "https://1.1.1.1/hook",
        "metadata": { "order": "A-1", "nested": [1, { "x": null }] },
    });
    body.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
    body["scene"] = Value::Null;
    let render = server.post("/v1/renders", &body).await.is(StatusCode::CREATED).json();
    for (field, value) in asked.as_object().unwrap() {
        assert_eq!(&render[field], value, "{field}");
    }
    assert_eq!(render["price"], 4);
    let fast = server.post("/v1/renders", &with(&server.body().await, "quality", json!("fast"))).await.json();
    assert_eq!((&fast["steps"], fast["seed"] == render["seed"]), (&json!(8), false));
    server.finish().await;
}

#[tokio::test]
async fn a_garment_photo_that_the_model_cannot_read_is_refused() {
    let server = Server::start_with_flat_garments().await;
    let body = server.body().await;
    let answer = server.post("/v1/renders", &with(&body, "garment_photo", json!("model"))).await;
    answer.is_problem(422, "garment_photo_unsupported", &["garment_photo"]);
    let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("expected one of: flat-lay"), "{message}");
    server
        .post("/v1/renders", &with(&body, "garment_photo", json!("flat-lay")))
        .await
        .is(StatusCode::CREATED);
    let models = server.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["garment_photos"], json!(["flat-lay"]));
    server.finish().await;
}

#[tokio::test]
async fn bad_fields_are_refused_by_name() {
    let server = Server::start().await;
    let body = server.body().await;
    let gone = "ast_01h455vb4pex5vsknk084sn02q";
    let large: String = "x".repeat(4_090);
    for (field, value, code) in [
        ("model", json!("nonsense"), "unknown_model"),
        ("model", json!("noop"), "unknown_model"),
        ("model", json!(7), "invalid_field"),
        ("model", Value::Null, "missing_field"),
        ("person", json!(gone), "unknown_asset"),
        ("person", json!("x"), "unknown_asset"),
        ("person", json!({}), "invalid_field"),
        ("garment", json!(gone), "unknown_asset"),
        ("garment", body["person"].clone(), "same_picture"),
        ("category", json!("hats"), "invalid_field"),
        ("category", json!("Tops"), "invalid_field"),
        ("garment_photo", json!("flat"), "invalid_field"),
        ("quality", json!("ultra"), "invalid_field"),
        ("samples", json!(0), "invalid_field"),
        ("samples", json!(5), "invalid_field"),
        ("samples", json!(-1), "invalid_field"),
        ("samples", json!(1.5), "invalid_field"),
        ("samples", json!("1"), "invalid_field"),
        ("seed", json!(-1), "invalid_field"),
        ("seed", json!(SEED_MAX + 1), "invalid_field"),
        ("seed", json!(1e300), "invalid_field"),
        ("steps", json!(0), "invalid_field"),
        ("steps", json!(101), "invalid_field"),
        ("steps", json!(1_000_000), "invalid_field"),
        ("format", json!("gif"), "invalid_field"),
        ("class", json!("urgent"), "invalid_field"),
        ("scene", json!("on a beach"), "scene_unsupported"),
        ("scene", json!("x".repeat(2_001)), "invalid_field"),
        ("scene", json!(7), "invalid_field"),
        ("scene", json!(" \n"), "invalid_field"),
        ("webhook", json!("http://example.com/"), "webhook_refused"),
        ("webhook", json!("https://127.0.0.1/"), "webhook_refused"),
        ("webhook", json!("https://169.254.169.254/latest"), "webhook_refused"),
        ("webhook", json!("https://localhost:8443/"), "webhook_refused"),
        ("webhook", json!("nonsense"), "webhook_refused"),
        ("metadata", json!([]), "invalid_field"),
        ("metadata", json!("x"), "invalid_field"),
        ("metadata", json!({ "x": large }), "invalid_field"),
        ("prompt", json!("x"), "unknown_field"),
        ("Model", json!(MODEL), "unknown_field"),
    ] {
        let answer = server.post("/v1/renders", &with(&body, field, value)).await;
        answer.is_problem(422, code, &[field]);
    }
    let unknown = server.post("/v1/renders", &with(&body, "model", json!("x"))).await.json();
    assert!(unknown["detail"].as_str().unwrap().contains(MODEL), "the known models are named: {unknown}");
    assert_eq!(server.balance().await.held, Credits(0));
    assert_eq!(server.get("/v1/renders").await.json()["data"], json!([]));
    server.finish().await;
}

#[tokio::test]
async fn a_scene_is_priced_kept_and_shown() {
    let server = Server::start_with_scenes().await;
    let body = with(&server.body().await, "quality", json!("fast"));
    for (scene, code) in [("x".repeat(2_001), "invalid_field"), ("a\0b".to_owned(), "invalid_field")] {
        server.post("/v1/renders", &with(&body, "scene", json!(scene))).await.is_problem(
            422,
            code,
            &["scene"],
        );
    }
    let plain = server.post("/v1/renders", &body).await.is(StatusCode::CREATED).json();
    assert_eq!(
        (&plain["scene"], &plain["price"], &plain["progress"]["steps"]),
        (&Value::Null, &json!(1), &json!(8))
    );
    let words = "é".repeat(2_000);
    let placed = server.post("/v1/renders", &with(&body, "scene", json!(words))).await;
    let placed = placed.is(StatusCode::CREATED).json();
    assert_eq!((&placed["scene"], &placed["price"]), (&json!(words), &json!(3)));
    assert_eq!((&placed["steps"], &placed["progress"]["steps"]), (&json!(8), &json!(8 + 3)));
    assert_eq!(
        server.get(&format!("/v1/renders/{}", placed["id"].as_str().unwrap())).await.json()["scene"],
        words
    );
    assert_eq!(server.balance().await.held, Credits(4));
    server.finish().await;
}

#[tokio::test]
async fn all_mistakes_are_named_at_once() {
    let server = Server::start().await;
    let answer =
        server.post("/v1/renders", &json!({ "samples": 9, "colour": "red", "category": "hats" })).await;
    answer.is_problem(
        422,
        "invalid_request",
        &["model", "person", "garment", "category", "samples", "colour"],
    );
    server.post("/v1/renders", &json!({})).await.is_problem(
        422,
        "missing_field",
        &["model", "person", "garment", "category"],
    );
    server.finish().await;
}

#[tokio::test]
async fn bad_bodies_are_refused() {
    let server = Server::start().await;
    let good = server.body().await;
    let deep = |levels: usize| format!("{{\"metadata\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    for (body, status, code, field) in [
        (String::new(), 400, "malformed_json", "body"),
        ("{".into(), 400, "malformed_json", "body"),
        ("{'model': 1}".into(), 400, "malformed_json", "body"),
        ("[]".into(), 400, "malformed_json", "body"),
        ("null".into(), 400, "malformed_json", "body"),
        (format!("{good} trailing"), 400, "malformed_json", "body"),
        (deep(JSON_DEPTH_MAX), 400, "json_too_deep", "body"),
        (deep(100_000), 400, "json_too_deep", "body"),
        ("{\"a\":".repeat(100_000), 400, "json_too_deep", "body"),
        (format!("{{\"model\":\"{}\"}}", "x".repeat(1_000_000)), 413, "body_too_large", "body"),
    ] {
        server.post_text("/v1/renders", None, body).await.is_problem(status, code, &[field]);
    }
    server.post_text("/v1/renders", None, vec![b'{', b'"', 0xff, b'"', b'}']).await.is_problem(
        400,
        "malformed_json",
        &["body"],
    );
    let twice = format!("{{\"samples\":1,{}", &good.to_string()[1..].replace('}', ",\"samples\":2}"));
    server.post_text("/v1/renders", None, twice).await.is_problem(422, "invalid_field", &["samples"]);
    for media_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = server.request(Method::POST, "/v1/renders");
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        let answer = server.send(request.body(good.to_string().into()).unwrap()).await;
        answer.is_problem(415, "unsupported_media_type", &["Content-Type"]);
    }
    server.finish().await;
}

#[tokio::test]
async fn without_credits_nothing_is_accepted() {
    let server = Server::start().await;
    let body = with(&server.body().await, "samples", json!(4));
    for _ in 0..2 {
        server.post("/v1/renders", &body).await.is(StatusCode::CREATED);
    }
    let answer = server.post("/v1/renders", &body).await;
    answer.is_problem(402, "insufficient_credits", &["samples"]);
    assert_eq!((&answer.json()["available"], &answer.json()["price"]), (&json!(2), &json!(4)));
    assert_eq!(server.balance().await.held, Credits(8));
    server.post("/v1/renders", &with(&body, "samples", json!(2))).await.is(StatusCode::CREATED);
    server.finish().await;
}

#[tokio::test]
async fn a_render_succeeds_and_is_charged() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    let body = with(&server.body().await, "samples", json!(2));
    let id = server.post("/v1/renders", &body).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/renders/{id}");
    let running = worker.take().await;
    running.step(7);
    let render = server
        .until("step 7 shows", async || {
            Some(server.get(&path).await.json()).filter(|render| render["progress"]["step"] == 7)
        })
        .await;
    assert_eq!((&render["status"], &render["attempts"]), (&json!("running"), &json!(1)));
    assert!(render["started_at"].is_string() && render["finished_at"].is_null());
    for input in [&running.grant.person, &running.grant.garment] {
        let fetched = running.follow("GET", &input.link, axum::body::Body::empty()).await;
        assert_eq!(kraftr_protocol::Digest::of(&fetched.is(StatusCode::OK).body), input.sha256);
        assert_eq!(fetched.header(header::CONTENT_TYPE), "image/png");
    }
    running.succeed(&[b"first", b"second"]).await;
    let render = server
        .until("it succeeds", async || {
            Some(server.get(&path).await.json()).filter(|render| render["status"] == "succeeded")
        })
        .await;
    assert_eq!((&render["charged"], &render["progress"]["step"]), (&json!(2), &json!(20)));
    assert_eq!(render["artifacts"].as_array().unwrap().len(), 2);
    assert!(render["finished_at"].is_string());
    assert_eq!(
        server.get("/v1/balance").await.json(),
        json!({ "posted": CREDITS - 2, "held": 0, "available": CREDITS - 2 })
    );

    server.call(Method::POST, &format!("{path}/cancel")).await.is_problem(409, "render_ended", &["id"]);
    let artifact = render["artifacts"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.call(Method::DELETE, &path).await.status, 204);
    server.get(&path).await.is_problem(404, "not_found", &["id"]);
    server.get(&format!("/v1/artifacts/{artifact}")).await.is_problem(404, "not_found", &["id"]);
    server.call(Method::DELETE, &path).await.is_problem(404, "not_found", &["id"]);
    assert_eq!(server.balance().await.posted, Credits(CREDITS - 2), "deleting gives nothing back");
    server.finish().await;
}

#[tokio::test]
async fn a_failed_render_costs_nothing() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    let path = format!("/v1/renders/{}", server.submit().await);
    worker.take().await.fail().await;
    let render = server
        .until("it fails", async || {
            Some(server.get(&path).await.json()).filter(|render| render["status"] == "failed")
        })
        .await;
    assert_eq!(render["error"]["code"], "input_invalid");
    assert_eq!(render["error"]["class"], "permanent");
    assert_eq!(render["charged"], 0);
    assert_eq!(server.balance().await.available(), Credits(CREDITS));
    server.finish().await;
}

#[tokio::test]
async fn a_waiting_render_is_cancelled_at_once() {
    let server = Server::start().await;
    let path = format!("/v1/renders/{}", server.submit().await);
    server.call(Method::DELETE, &path).await.is_problem(409, "render_live", &["id"]);
    for _ in 0..2 {
        let render = server.call(Method::POST, &format!("{path}/cancel")).await.is(StatusCode::OK).json();
        assert_eq!(render["status"], "cancelled");
        let cancellation = &render["cancellation"];
        assert!(cancellation["requested_at"].is_string());
        assert_eq!((&cancellation["stopped_at_step"], &cancellation["released"]), (&json!(0), &json!(1)));
        assert_eq!(render["charged"], 0);
    }
    assert_eq!(server.balance().await.available(), Credits(CREDITS));
    assert_eq!(server.call(Method::DELETE, &path).await.status, 204);
    server.finish().await;
}

#[tokio::test]
async fn a_running_render_says_where_it_stopped() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    let path = format!("/v1/renders/{}/cancel", server.submit().await);
    let running = worker.take().await;
    let (answer, ()) = tokio::join!(server.call(Method::POST, &path), running.stop_when_told(5));
    let render = answer.is(StatusCode::OK).json();
    assert_eq!((&render["status"], &render["progress"]["step"]), (&json!("cancelled"), &json!(5)));
    assert_eq!(
        (&render["cancellation"]["stopped_at_step"], &render["cancellation"]["released"]),
        (&json!(5), &json!(1))
    );
    assert_eq!(server.balance().await.available(), Credits(CREDITS));
    server.finish().await;
}

#[tokio::test]
async fn a_cancel_takes_no_fields() {
    let server = Server::start().await;
    let path = format!("/v1/renders/{}/cancel", server.submit().await);
    server.post_text(&path, None, "{\"force\":true}").await.is_problem(422, "unknown_field", &["force"]);
    server.post_text(&path, None, "nonsense").await.is_problem(400, "malformed_json", &["body"]);
    server.post_text(&path, None, "{}").await.is(StatusCode::OK);
    server.finish().await;
}

#[tokio::test]
async fn renders_are_listed_by_state_and_in_pages() {
    let server = Server::start().await;
    let body = server.body().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(server.post("/v1/renders", &body).await.json()["id"].as_str().unwrap().to_owned());
    }
    server.call(Method::POST, &format!("/v1/renders/{}/cancel", ids[1])).await.is(StatusCode::OK);
    let listed = async |query: &str| -> Vec<Value> {
        let page = server.get(&format!("/v1/renders?{query}")).await.is(StatusCode::OK).json();
        page["data"].as_array().unwrap().iter().map(|render| render["id"].clone()).collect()
    };
    ids.reverse();
    assert_eq!(listed("").await, ids);
    assert_eq!(listed("status=cancelled").await, [&*ids[2]]);
    assert_eq!(listed("status=queued&limit=2").await, ids[..2]);
    let first = server.get("/v1/renders?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/renders?limit=3&cursor={cursor}")).await.json();
    assert_eq!((rest["data"][0]["id"].as_str(), &rest["next_cursor"]), (Some(&*ids[3]), &Value::Null));
    for query in ["status=done", "status=", "status=Queued", "status=queued&status=queued"] {
        server.get(&format!("/v1/renders?{query}")).await.is_problem(422, "invalid_field", &["status"]);
    }
    server.get(&format!("/v1/assets?cursor={cursor}")).await.is_problem(422, "invalid_field", &["cursor"]);
    server.finish().await;
}

#[tokio::test]
async fn development_may_send_webhooks_to_itself() {
    let server = Server::start_with(|config| config.allow_private_webhooks = true).await;
    let body = with(&server.body().await, "webhook", json!("http://127.0.0.1:9/hook"));
    server.post("/v1/renders", &body).await.is(StatusCode::CREATED);
    server.finish().await;
}
