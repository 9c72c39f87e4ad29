//! The event stream of a render.

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, StatusCode, header};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::server::{PATIENCE, Server};
use super::worker::TestWorker;

/// One event: id (empty when it has none), name and data.
#[derive(Debug, Clone, PartialEq)]
struct Happening {
    id: String,
    name: String,
    data: Value,
}

/// Reads the events of one answer.
struct Reader {
    body: BodyDataStream,
    text: String,
}

impl Reader {
    async fn open(server: &Server, render: &str, last_event_id: Option<&str>) -> Self {
        let answer = server.stream(&format!("/v1/renders/{render}/events"), last_event_id).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
        Self { body: answer.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event, or `None` when the stream has ended.
    async fn next(&mut self) -> Option<Happening> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                // A comment keeps the connection open and says nothing.
                if event.starts_with(':') {
                    continue;
                }
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().trim_start_matches(": ").to_owned()
                };
                let data =
                    serde_json::from_str(&field("data")).unwrap_or_else(|error| panic!("{error}: {event}"));
                return Some(Happening { id: field("id"), name: field("event"), data });
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("an event comes")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// The next event, whose name must be this.
    async fn expect(&mut self, name: &str) -> Happening {
        let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    async fn rest(mut self) -> Vec<Happening> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn names(events: &[Happening]) -> Vec<String> {
    let state = |event: &Happening| event.data["status"].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| if event.name == "state" { state(event) } else { event.name.clone() }).collect()
}

#[tokio::test]
async fn a_render_is_followed_from_start_to_end() {
    let server = Server::start().await;
    let render = server.submit().await;
    let mut events = Reader::open(&server, &render, None).await;
    let queued = events.expect("state").await;
    assert_eq!(
        (&*queued.id, &queued.data["status"], &queued.data["revision"]),
        ("1.0", &json!("queued"), &json!(1))
    );
    assert!(queued.data["at"].is_string() && queued.data["reason"].is_string());

    let mut worker = TestWorker::start(&server).await;
    let running = worker.take().await;
    assert_eq!(events.expect("state").await.data["status"], "dispatched");
    let state = events.expect("state").await;
    assert_eq!((&*state.id, &state.data["status"]), ("3.0", &json!("running")));
    running.step(1);
    let step = events.expect("step").await;
    assert_eq!((&*step.id, step.data), ("3.1", json!({ "step": 1, "steps": 20 })));
    running.preview(2, b"small picture");
    let preview = events.expect("preview").await;
    assert_eq!((&*preview.id, &preview.data["step"], &preview.data["sample"]), ("", &json!(2), &json!(0)));
    assert_eq!(preview.data["data"], BASE64_STANDARD.encode(b"small picture"));
    assert_eq!(preview.data["content_type"], "image/jpeg");
    running.succeed(&[b"picture"]).await;
    let rest = events.rest().await;
    assert_eq!(names(&rest), ["succeeded", "done"]);
    assert_eq!(rest[1].data, server.get(&format!("/v1/renders/{render}")).await.json());
    server.finish().await;
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_id() {
    let server = Server::start().await;
    let render = server.submit().await;
    let mut worker = TestWorker::start(&server).await;
    let running = worker.take().await;
    let mut events = Reader::open(&server, &render, None).await;
    for status in ["queued", "dispatched", "running"] {
        assert_eq!(events.expect("state").await.data["status"], status);
    }
    running.step(4);
    let seen = events.expect("step").await.id;
    drop(events);
    running.step(5);
    server
        .until("step 5 arrives", async || {
            let render = server.get(&format!("/v1/renders/{render}")).await.json();
            (render["progress"]["step"] == 5).then_some(())
        })
        .await;
    let mut resumed = Reader::open(&server, &render, Some(&seen)).await;
    assert_eq!(resumed.expect("step").await.data["step"], 5, "no state and no step comes twice");
    running.succeed(&[b"picture"]).await;
    let rest = resumed.rest().await;
    assert_eq!(names(&rest), ["succeeded", "done"]);

    let last = rest.last().unwrap();
    let again = Reader::open(&server, &render, Some(&last.id)).await.rest().await;
    assert_eq!(again, std::slice::from_ref(last), "an ended render says so again");
    let all = Reader::open(&server, &render, None).await.rest().await;
    assert_eq!(names(&all), ["queued", "dispatched", "running", "succeeded", "done"]);
    let middle = Reader::open(&server, &render, Some("2.0")).await.rest().await;
    assert_eq!(names(&middle), ["running", "succeeded", "done"]);
    let foreign = Reader::open(&server, &render, Some("99.7")).await.rest().await;
    assert_eq!(foreign, all, "an id of another stream begins at the start");
    server.finish().await;
}

#[tokio::test]
async fn a_cancelled_render_ends_its_stream() {
    let server = Server::start().await;
    let render = server.submit().await;
    let events = Reader::open(&server, &render, Some("")).await;
    server.call(Method::POST, &format!("/v1/renders/{render}/cancel")).await.is(StatusCode::OK);
    let events = events.rest().await;
    assert_eq!(names(&events), ["queued", "cancelled", "done"]);
    assert_eq!(events[2].data["cancellation"]["released"], 1);
    server.finish().await;
}

#[tokio::test]
async fn a_malformed_last_event_id_is_refused() {
    let server = Server::start().await;
    let path = format!("/v1/renders/{}/events", server.submit().await);
    for id in ["x", "1", "1.x", "-1.0", "1.0.0"] {
        let request =
            server.request(Method::GET, &path).header("Last-Event-ID", id).body(Body::empty()).unwrap();
        server.send(request).await.is_problem(422, "invalid_field", &["Last-Event-ID"]);
    }
    server.finish().await;
}

#[tokio::test]
async fn streams_are_closed_when_the_server_stops() {
    let server = Server::start().await;
    let render = server.submit().await;
    let mut events = Reader::open(&server, &render, None).await;
    events.expect("state").await;
    server
        .until("the job is on its way or waits", async || {
            (server.app.store.gauges().await.unwrap().outbox_pending == 0).then_some(())
        })
        .await;
    assert_eq!(server.app.metrics.http_event_streams.get(), 1);
    server.app.stopping.cancel();
    assert_eq!(events.rest().await, []);
    assert_eq!(server.app.metrics.http_event_streams.get(), 0);
    server.finish().await;
}
