//! A whole scheduler for one test, and what must hold when the test ends: the books are right, nothing
//! waits in the outbox, and every object belongs to a row.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use kraftr_protocol::{ApiKeyId, Credits, OrgId, ReleaseManifest};
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::http;
use kraftr_scheduler::http::auth::new_secret;
use kraftr_scheduler::provenance::Provenance;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{Balance, Page, Store};
use kraftr_scheduler::{App, Config, Parts, Scheduler, SchedulerError};
use kraftr_transport::Transport;
use kraftr_transport::in_process::{Bounds, InProcess};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::contract::Contract;
use super::pictures;

/// How long a test waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const POOL: &str = "test";
pub(super) const MODEL: &str = "test-model";
pub(super) const CREDITS: i64 = 10;

const MANIFEST: &str = r#"
name = "test-model"
title = "A model for tests"
caution = "Paints nothing"
task = "try-on"
architecture = "fashn-vton"
size = [96, 144]
output_scale = 4
categories = ["tops", "bottoms", "one-pieces"]
price = 1
device_time_ms = 1000
licence = "Apache-2.0"
[defaults]
guidance = 1.5
[quality.fast]
steps = 8
[quality.balanced]
steps = 20
[quality.best]
steps = 40
[limits]
steps_min = 1
steps_max = 100
samples_max = 4
"#;

pub(super) struct Server {
    pub app: Arc<App>,
    pub org: OrgId,
    pub key: String,
    pub key_id: ApiKeyId,
    /// Another org's key.
    pub stranger: String,
    pub address: SocketAddr,
    router: Router,
    contract: Contract,
    orgs: [OrgId; 2],
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), SchedulerError>>,
    _folder: TempDir,
    finished: bool,
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn header(&self, name: impl axum::http::header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and code of a refusal that names these fields.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, code: &str, fields: &[&str]) {
        let document = self.json();
        let named: Vec<&str> = document["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert_eq!(
            (self.status.as_u16(), document["code"].as_str().unwrap(), &*named),
            (status, code, fields),
            "{document}"
        );
    }

    #[track_caller]
    pub(super) fn is(&self, status: StatusCode) -> &Self {
        assert_eq!(self.status, status, "{:?}", String::from_utf8_lossy(&self.body));
        self
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// One that bends its configuration.
    pub(super) async fn start_with(bend: impl FnOnce(&mut Config)) -> Self {
        Self::start_of(&[ReleaseManifest::parse("test", MANIFEST).unwrap()], bend).await
    }

    /// One whose model takes scenes, which cost two credits more.
    pub(super) async fn start_with_scenes() -> Self {
        let model = MANIFEST.replace("price", "scene = \"painter\"\nprice");
        let painter = MANIFEST
            .replace(MODEL, "painter")
            .replace("try-on", "text-to-image")
            .replace("price = 1", "price = 2")
            .replace("steps = 8", "steps = 3");
        let manifests = [model, painter].map(|text| ReleaseManifest::parse("test", &text).unwrap());
        Self::start_of(&manifests, |_| {}).await
    }

    /// One whose model takes garments that lie flat only.
    pub(super) async fn start_with_flat_garments() -> Self {
        let model = MANIFEST.replace("price", "garment_photos = [\"flat-lay\"]\nprice");
        Self::start_of(&[ReleaseManifest::parse("test", &model).unwrap()], |_| {}).await
    }

    async fn start_of(manifests: &[ReleaseManifest], bend: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, ids) = (Arc::new(SystemClock), Arc::new(SystemIds));
        let store =
            SqliteStore::open(&folder.path().join("kraftr.db"), clock.clone(), ids.clone()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let public_url = format!("http://{address}");
        let blobs = Arc::new(
            DirectoryBlobs::new(folder.path().join("objects"), public_url.clone(), [9; 32], clock.clone())
                .unwrap(),
        );
        let mut config =
            Config { public_url, allow_private_webhooks: false, pool: POOL.to_owned(), proxies: 0 };
        bend(&mut config);
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new(Bounds::default()));
        let catalog = Catalog::new(manifests);
        let parts = Parts {
            store: store.clone(),
            blobs: blobs.clone(),
            directory: Some(blobs),
            transport,
            catalog,
            clock: clock.clone(),
            ids,
            provenance: Arc::new(Provenance::development(&*store, &*clock).await.unwrap()),
        };
        let scheduler = Scheduler::new(parts, config);
        let app = Arc::clone(scheduler.app());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(scheduler.run(listener, shutdown.clone()));

        let (org, other) =
            (store.create_org("test").await.unwrap().id, store.create_org("other").await.unwrap().id);
        store.grant(org, Credits(CREDITS), "welcome").await.unwrap();
        let (key, digest) = new_secret(&SystemIds);
        let key_id = store.create_key(org, "test", digest).await.unwrap().id;
        let (stranger, digest) = new_secret(&SystemIds);
        store.create_key(other, "other", digest).await.unwrap();
        let router = http::router(Arc::clone(&app));
        let mut server = Self {
            app,
            org,
            key,
            key_id,
            stranger,
            address,
            router,
            contract: Contract::new(Value::Null),
            orgs: [org, other],
            shutdown,
            running,
            _folder: folder,
            finished: false,
        };
        let document = server.raw(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
        server.contract = Contract::new(document.json());
        server
    }

    /// Sends a request as it is, past the contract.
    async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request as it is and holds the answer against the contract.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.raw(request).await;
        self.contract.check(&method, &path, answer.status, &answer.headers, &answer.body);
        answer
    }

    /// Starts a request whose answer is read piece by piece.
    pub(super) async fn stream(&self, path: &str, last_event_id: Option<&str>) -> axum::response::Response {
        let mut request = Request::get(path).header(header::AUTHORIZATION, self.bearer());
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    pub(super) fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(path).header(header::AUTHORIZATION, self.bearer())
    }

    pub(super) async fn call(&self, method: Method, path: &str) -> Answer {
        self.send(self.request(method, path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, None, body.to_string()).await
    }

    pub(super) async fn post_text(&self, path: &str, key: Option<&str>, body: impl Into<Body>) -> Answer {
        let mut request = self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn upload(&self, file: &[u8]) -> Answer {
        self.upload_form(None, &[("file", file)]).await
    }

    pub(super) async fn upload_form(&self, key: Option<&str>, fields: &[(&str, &[u8])]) -> Answer {
        let mut request =
            self.request(Method::POST, "/v1/assets").header(header::CONTENT_TYPE, pictures::FORM_TYPE);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request.body(pictures::form(fields).into()).unwrap()).await
    }

    /// Uploads two different pictures; answers their ids, person first.
    pub(super) async fn pair(&self) -> (String, String) {
        let mut ids = Vec::new();
        for seed in [1, 2] {
            let answer = self.upload(&pictures::png(96, 144, seed)).await;
            ids.push(answer.is(StatusCode::CREATED).json()["id"].as_str().unwrap().to_owned());
        }
        (ids[0].clone(), ids[1].clone())
    }

    /// A body that `POST /v1/renders` accepts.
    pub(super) async fn body(&self) -> Value {
        let (person, garment) = self.pair().await;
        json!({ "model": MODEL, "person": person, "garment": garment, "category": "tops" })
    }

    /// Submits a render; answers its id.
    pub(super) async fn submit(&self) -> String {
        let body = self.body().await;
        let answer = self.post("/v1/renders", &body).await;
        answer.is(StatusCode::CREATED).json()["id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn balance(&self) -> Balance {
        self.app.store.balance(self.org).await.unwrap()
    }

    /// Waits until `done` answers something.
    pub(super) async fn until<T>(&self, what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(value) = done().await {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }

    /// Stops it and checks what must hold at the end of every test.
    pub(super) async fn finish(mut self) {
        self.until("the outbox drains", async || {
            (self.app.store.gauges().await.unwrap().outbox_pending == 0).then_some(())
        })
        .await;
        self.shutdown.cancel();
        (&mut self.running).await.unwrap().unwrap();
        let audit = self.app.store.audit().await.unwrap();
        assert!(audit.ok(), "{audit:?}");
        let page = Page { limit: 1_000, before: None };
        let mut owned = BTreeSet::new();
        for org in self.orgs {
            owned.extend(
                self.app.store.assets(org, &page).await.unwrap().into_iter().map(|asset| asset.object_key),
            );
            for render in self.app.store.renders(org, None, &page).await.unwrap() {
                owned.extend(render.artifacts.into_iter().map(|artifact| artifact.object_key));
            }
        }
        let objects: BTreeSet<String> = self
            .app
            .blobs
            .list("", None, 1_000)
            .await
            .unwrap()
            .into_iter()
            .map(|object| object.key)
            .collect();
        assert_eq!(objects, owned, "objects and rows differ");
        self.finished = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        assert!(self.finished || std::thread::panicking(), "the test did not call finish()");
    }
}
