//! The HTTP API as tests call it.

use std::collections::BTreeMap;
use std::time::Instant;

use reqwest::multipart::{Form, Part};
use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::program::{LOOK_AGAIN, PATIENCE};

/// The API as a client uses it that must survive the server's death.
#[derive(Clone)]
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

    /// The same client at another replica.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// The answer to a submission, whatever it is.
    pub(crate) async fn answer(&self, body: &Value, key: &str) -> (StatusCode, Value) {
        let call = self.http.post(format!("{}/v1/renders", self.url)).bearer_auth(&self.key).json(body);
        let response = call.header("Idempotency-Key", key).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
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

    /// Everything that a list holds, page by page.
    pub(crate) async fn list(&self, path: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut page = self.get(&format!("{path}?limit=100")).await;
        loop {
            rows.extend(page["data"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return rows };
            page = self.get(&format!("{path}?limit=100&cursor={cursor}")).await;
        }
    }

    /// Entries of that kind for each render that has any.
    pub(crate) async fn entries(&self, kind: &str) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for entry in self.list("/v1/ledger").await.iter().filter(|entry| entry["kind"] == kind) {
            *found.entry(entry["render"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        found
    }
}
