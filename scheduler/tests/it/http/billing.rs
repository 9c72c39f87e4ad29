//! The balance and the ledger.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::server::{CREDITS, Server};
use super::worker::TestWorker;

#[tokio::test]
async fn the_ledger_tells_what_happened() {
    let server = Server::start().await;
    let mut worker = TestWorker::start(&server).await;
    assert_eq!(
        server.get("/v1/balance").await.json(),
        json!({ "posted": CREDITS, "held": 0, "available": CREDITS })
    );
    let charged = server.submit().await;
    worker.take().await.succeed(&[b"picture"]).await;
    server
        .until("the capture", async || {
            let balance = server.get("/v1/balance").await.json();
            (balance["posted"] == CREDITS - 1).then_some(())
        })
        .await;
    let given_back = server.submit().await;
    worker.take().await.fail().await;
    let entries = server
        .until("five entries", async || {
            let data =
                server.get("/v1/ledger").await.is(StatusCode::OK).json()["data"].as_array().unwrap().clone();
            (data.len() == 5).then_some(data)
        })
        .await;
    let lines: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!([
                entry["kind"],
                entry["render"],
                entry["amount"],
                entry["posted_after"],
                entry["held_after"]
            ])
        })
        .collect();
    assert_eq!(
        lines,
        [
            json!(["void", given_back, 1, CREDITS - 1, 0]),
            json!(["hold", given_back, 1, CREDITS - 1, 1]),
            json!(["capture", charged, 1, CREDITS - 1, 0]),
            json!(["hold", charged, 1, CREDITS, 1]),
            json!(["grant", null, CREDITS, CREDITS, 0]),
        ]
    );
    assert!(entries.iter().all(|entry| entry["id"].as_str().unwrap().starts_with("ent_")));

    let first = server.get("/v1/ledger?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/ledger?limit=3&cursor={cursor}")).await.json();
    assert_eq!(
        (rest["data"].as_array().unwrap(), &rest["next_cursor"]),
        (&entries[3..].to_vec(), &Value::Null)
    );
    server.finish().await;
}

#[tokio::test]
async fn the_ledger_s_window_is_checked() {
    let server = Server::start().await;
    for (query, code, field) in [
        ("limit=0", "invalid_field", "limit"),
        ("limit=101", "invalid_field", "limit"),
        ("cursor=x", "invalid_field", "cursor"),
        ("kind=hold", "unknown_field", "kind"),
    ] {
        server.get(&format!("/v1/ledger?{query}")).await.is_problem(422, code, &[field]);
    }
    server.finish().await;
}
