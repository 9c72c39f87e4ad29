//! The object store's conformance suite over a directory whose links the API serves.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures::FutureExt as _;
use kraftr_protocol::Timestamp;
use kraftr_protocol::message::Link;
use kraftr_scheduler::blobs::conformance::{self, Bench};
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::catalog::Catalog;
use kraftr_scheduler::clock::{ManualClock, SeededIds};
use kraftr_scheduler::provenance::Provenance;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::{App, Config, Parts, http};
use kraftr_transport::in_process::{Bounds, InProcess};
use tempfile::TempDir;
use tower::ServiceExt as _;

const URL: &str = "http://objects.test";

async fn bench() -> (Bench, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
    let ids = Arc::new(SeededIds::new(1));
    let store = Arc::new(SqliteStore::in_memory(clock.clone(), ids.clone()).await.unwrap());
    let blobs =
        DirectoryBlobs::new(folder.path().to_owned(), URL.to_owned(), [3; 32], clock.clone()).unwrap();
    let blobs = Arc::new(blobs);
    let provenance = Arc::new(Provenance::development(&*store, &*clock).await.unwrap());
    let parts = Parts {
        store,
        provenance,
        blobs: blobs.clone(),
        directory: Some(blobs.clone()),
        transport: Arc::new(InProcess::new(Bounds::default())),
        catalog: Catalog::default(),
        clock: clock.clone(),
        ids,
    };
    let config = Config {
        public_url: URL.to_owned(),
        allow_private_webhooks: false,
        pool: "test".to_owned(),
        proxies: 0,
    };
    let router = http::router(Arc::new(App::new(parts, config)));
    let follow = move |method: &'static str, link: Link, body: Bytes| {
        let router = router.clone();
        async move {
            let mut request = Request::builder().method(method).uri(link.url.strip_prefix(URL).unwrap());
            for (name, value) in link.headers {
                request = request.header(name, value);
            }
            let answer = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
            let status = answer.status().as_u16();
            (status, axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap())
        }
        .boxed()
    };
    let advance = move |by| {
        clock.advance(by);
        futures::future::ready(()).boxed()
    };
    let (follow, advance) = (Box::new(follow), Box::new(advance));
    (Bench { store: blobs, follow, ttl: Duration::from_mins(1), advance }, folder)
}

macro_rules! suite {
    ($($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let (bench, _folder) = bench().await;
            conformance::$promise(&bench).await;
        }
    )+};
}

suite! {
    put_is_read_back_and_replaced
    absent_is_none
    delete_is_repeatable
    keys_are_checked
    lists_go_on_where_they_ended
    nobody_sees_half_an_object
    a_link_reads_until_it_expires
    a_link_stores_what_was_announced
}
