//! The HTTP API as tests call it.

use std::collections::BTreeMap;
use std::time::Instant;

use reqwest::multipart::{Form, Part};
use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::program::{LOOK_AGAIN, PATIENCE};

/// The API as a client uses it that must survive the server's death.
pub(crate) struct Api {
    http: Client,
    url: String,
    key: String,
}

impl Api {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        Self { http: kraftr::client::http().build().unwrap(), url: url.to_owned(), key: key.to_owned() }
    }

    /// Asks again while the server says that it cannot answer now.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let started = Instant::now();
        loop {
            let call = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key);
            let response = call.send().await.unwrap();
            if response.status().is_success() {
                return response.json().await.unwrap();
            }
            let busy = response.status() == StatusCode::SERVICE_UNAVAILABLE && started.elapsed() < PATIENCE;
            assert!(busy, "{path}: {}", response.text().await.unwrap());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(crate) async fn upload(&self, bytes: &'static [u8]) -> String {
        let form = Form::new().part("file", Part::bytes(bytes).file_name("picture.png"));
        let call = self.http.post(format!("{}/v1/assets", self.url)).bearer_auth(&self.key).multipart(form);
        let response = call.send().await.unwrap();
        assert_eq!(response.status(), 201);
        response.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// The id of the render under that key, or `None` when the server died before it answered or wants to be asked
    /// again.
    pub(crate) async fn submit(&self, body: &Value, key: &str) -> Option<String> {
        let call = self.http.post(format!("{}/v1/renders", self.url)).bearer_auth(&self.key).json(body);
        let response = call.header("Idempotency-Key", key).send().await.ok()?;
        let status = response.status();
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT].contains(&status) {
            return None;
        }
        let render: Value = response.json().await.ok()?;
        assert!(status.is_success(), "{status} {render}");
        Some(render["id"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn wait_ended(&self, id: &str) -> Value {
        let started = Instant::now();
        loop {
            let render = self.get(&format!("/v1/renders/{id}")).await;
            if ["succeeded", "failed", "cancelled", "expired"].contains(&render["status"].as_str().unwrap()) {
                return render;
            }
            assert!(started.elapsed() < PATIENCE, "{render} does not end");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The picture, wherever the API sends for it.
    pub(crate) async fn picture(&self, artifact: &str) -> Vec<u8> {
        let call = self.http.get(format!("{}/v1/artifacts/{artifact}", self.url)).bearer_auth(&self.key);
        let response = call.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
        response.bytes().await.unwrap().to_vec()
    }

    /// Captures for each render that has any.
    pub(crate) async fn captures(&self) -> BTreeMap<String, usize> {
        let ledger = self.get("/v1/ledger?limit=100").await;
        assert!(ledger["next_cursor"].is_null(), "one page holds everything that this test does");
        let mut captures = BTreeMap::new();
        for entry in ledger["data"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "capture") {
            *captures.entry(entry["render"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        captures
    }
}
