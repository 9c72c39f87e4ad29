//! A client of the HTTP API, as small as the demo needs it: what any program outside would do.

use std::fmt;

use futures::StreamExt;
use kraftr_protocol::{ArtifactId, AssetId, Category, Credits, Failure, RenderId, Status, Timestamp};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::sse::{self, SseError};

/// Streams of one render that may end early before we give up.
const STREAMS_MAX: u32 = 5;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a problem document.
    #[error("{call}: {problem}")]
    Refused {
        /// Method and path.
        call: String,
        /// What the server said.
        problem: Box<Problem>,
    },
    /// The server could not be reached, or answered something else than its contract says.
    #[error("{call}: {source}")]
    Http {
        /// Method and path.
        call: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The event stream is malformed.
    #[error("the event stream: {0}")]
    Stream(#[from] SseError),
    /// The event stream ended again and again before the render did.
    #[error("the event stream of {0} ended {STREAMS_MAX} times before the render did")]
    StreamEnded(RenderId),
}

/// An RFC 9457 problem document.
#[derive(Debug, Deserialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable name of the problem.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub title: String,
    /// For people, about this request.
    #[serde(default)]
    pub detail: String,
    /// The fields that are wrong.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// One wrong field.
#[derive(Debug, Deserialize)]
pub struct FieldError {
    /// Which.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{text} ({}, {})", self.status, self.code)?;
        // A single wrong field is what the text is about.
        for error in self.errors.iter().skip(usize::from(self.errors.len() == 1)) {
            write!(f, "; {}: {}", error.field, error.message)?;
        }
        Ok(())
    }
}

/// A model on offer.
#[derive(Debug, Deserialize)]
pub struct Model {
    /// What a render asks for.
    pub id: String,
    /// What it cannot do.
    pub caution: Option<String>,
}

/// What a render asks for; everything else is left to the server's defaults.
#[derive(Debug, Clone, Copy)]
pub struct RenderRequest<'a> {
    /// A model that `GET /v1/models` lists.
    pub model: &'a str,
    /// The person's picture.
    pub person: AssetId,
    /// The garment's picture.
    pub garment: AssetId,
    /// Where the garment is worn.
    pub category: Category,
}

/// A render, as far as it is read here.
#[derive(Debug, Deserialize)]
pub struct Render {
    /// Its id.
    pub id: RenderId,
    /// Where it stands.
    pub status: Status,
    /// The release that ran it.
    pub release: String,
    /// What was delivered.
    pub artifacts: Vec<Artifact>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// When a worker began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// A picture that was delivered.
#[derive(Debug, Deserialize)]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
}

/// A line of the ledger.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// What happened: `grant`, `hold`, `capture`, `void` or `refund`.
    pub kind: String,
    /// The render it belongs to.
    pub render: Option<RenderId>,
    /// Credits.
    pub amount: Credits,
    /// The account's `posted` after it.
    pub posted_after: Credits,
    /// The account's `held` after it.
    pub held_after: Credits,
}

/// What an org has.
#[derive(Debug, Deserialize)]
pub struct Balance {
    /// Credits that are the org's.
    pub posted: Credits,
    /// The part that open renders reserve.
    pub held: Credits,
    /// What can be spent.
    pub available: Credits,
}

/// What a watcher of a render sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Its state changed.
    State(Status),
    /// A denoise step is done.
    Step {
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
    },
}

/// The API under one URL, for one key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// The beginning of every HTTP client of this program: it does not look at proxy settings, since it talks
/// to its own machine, and finds the cryptography that the HTTP library leaves to its user.
pub fn http() -> reqwest::ClientBuilder {
    // Whoever installed one first is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy()
}

impl Client {
    /// A client of the fleet at `url`.
    pub fn new(url: &str, key: &str) -> Result<Self, ClientError> {
        let http =
            http().build().map_err(|source| ClientError::Http { call: "set up HTTP".to_owned(), source })?;
        Ok(Self { http, url: url.to_owned(), key: key.to_owned() })
    }

    /// Uploads a picture.
    pub async fn upload(&self, file_name: &str, bytes: Vec<u8>) -> Result<AssetId, ClientError> {
        #[derive(Deserialize)]
        struct Asset {
            id: AssetId,
        }
        let part = reqwest::multipart::Part::bytes(bytes).file_name(file_name.to_owned());
        let form = reqwest::multipart::Form::new().part("file", part);
        let asset: Asset = self.call(Method::POST, "/v1/assets", |request| request.multipart(form)).await?;
        Ok(asset.id)
    }

    /// What is on offer, the default first.
    pub async fn models(&self) -> Result<Vec<Model>, ClientError> {
        let page: Page<Model> = self.get("/v1/models").await?;
        Ok(page.data)
    }

    /// Submits a render; the same `idempotency_key` never submits it twice.
    pub async fn submit(
        &self,
        request: &RenderRequest<'_>,
        idempotency_key: &str,
    ) -> Result<Render, ClientError> {
        let body = json!({
            "model": request.model,
            "person": request.person,
            "garment": request.garment,
            "category": request.category,
        });
        self.call(Method::POST, "/v1/renders", |call| {
            call.header("Idempotency-Key", idempotency_key).json(&body)
        })
        .await
    }

    /// The render as it is now.
    pub async fn render(&self, id: RenderId) -> Result<Render, ClientError> {
        self.get(&format!("/v1/renders/{id}")).await
    }

    /// Watches a render until it has ended; resumes where a stream broke off.
    pub async fn watch(&self, id: RenderId, mut on: impl FnMut(Happening)) -> Result<(), ClientError> {
        let mut last_id = String::new();
        for _ in 0..STREAMS_MAX {
            let path = format!("/v1/renders/{id}/events");
            let response = self.send(Method::GET, &path, |call| match last_id.as_str() {
                "" => call,
                id => call.header("Last-Event-ID", id),
            });
            let mut stream = response.await?.bytes_stream();
            let mut parser = sse::Parser::default();
            // A stream that breaks off is resumed; one that cannot be opened again is an error above.
            while let Some(Ok(chunk)) = stream.next().await {
                for event in parser.push(&chunk)? {
                    if event.name == "done" {
                        return Ok(());
                    }
                    if let Some(happening) = read_happening(&event) {
                        on(happening);
                    }
                    last_id = event.id;
                }
            }
        }
        Err(ClientError::StreamEnded(id))
    }

    /// Downloads a picture.
    pub async fn download(&self, id: ArtifactId) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/artifacts/{id}");
        let response = self.send(Method::GET, &path, |call| call).await?;
        let bytes = response.bytes().await.map_err(|source| ClientError::Http { call: path, source })?;
        Ok(bytes.into())
    }

    /// The newest lines of the ledger, newest first.
    pub async fn ledger(&self) -> Result<Vec<Entry>, ClientError> {
        let page: Page<Entry> = self.get("/v1/ledger").await?;
        Ok(page.data)
    }

    /// What the org has.
    pub async fn balance(&self) -> Result<Balance, ClientError> {
        self.get("/v1/balance").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, |request| request).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<T, ClientError> {
        let call = format!("{method} {path}");
        let response = self.send(method, path, build).await?;
        response.json().await.map_err(|source| ClientError::Http { call, source })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let call = format!("{method} {path}");
        let failed = |source| ClientError::Http { call: call.clone(), source };
        let url = format!("{}{path}", self.url);
        let request = self.http.request(method, url).bearer_auth(&self.key);
        let response = build(request).send().await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let problem = response.json().await.map_err(failed)?;
        Err(ClientError::Refused { call, problem })
    }
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
}

/// What an event of a render's stream says, or `None` for one that is not watched here.
fn read_happening(event: &sse::Event) -> Option<Happening> {
    #[derive(Deserialize)]
    struct State {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Step {
        step: u32,
        steps: u32,
    }
    match event.name.as_str() {
        "state" => {
            serde_json::from_str::<State>(&event.data).ok().map(|state| Happening::State(state.status))
        }
        "step" => {
            let Step { step, steps } = serde_json::from_str(&event.data).ok()?;
            Some(Happening::Step { step, steps })
        }
        _ => None,
    }
}
