//! What every [`BlobStore`] must do, as functions that a test calls with its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use kraftr_protocol::Digest;
use kraftr_protocol::message::Link;

use super::{BlobError, BlobStore, PutTerms};

/// Follows a link with a method and a body; answers status and body.
pub type Follow = Box<dyn Fn(&'static str, Link, Bytes) -> BoxFuture<'static, (u16, Bytes)> + Send + Sync>;

/// A store and what a test needs beside it.
pub struct Bench {
    /// An empty store.
    pub store: Arc<dyn BlobStore>,
    /// An HTTP client for the store's links.
    pub follow: Follow,
    /// How long the suite's links are good for.
    pub ttl: Duration,
    /// Lets time pass for links.
    pub advance: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

async fn put(bench: &Bench, key: &str, bytes: &'static [u8]) {
    bench
        .store
        .put(key, Bytes::from_static(bytes), "image/png")
        .await
        .unwrap_or_else(|error| panic!("{key}: {error}"));
}

async fn read(bench: &Bench, key: &str) -> Option<Bytes> {
    bench.store.get(key).await.unwrap_or_else(|error| panic!("{key}: {error}"))
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// What was put is read back; putting again replaces; an empty object is an object.
pub async fn put_is_read_back_and_replaced(bench: &Bench) {
    for bytes in [&b"one"[..], b"two, longer", b""] {
        put(bench, "a/b.png", bytes).await;
        assert_eq!(read(bench, "a/b.png").await.as_deref(), Some(bytes));
        assert_eq!(bench.store.len("a/b.png").await.ok(), Some(Some(bytes.len() as u64)));
    }
}

/// What is absent is `None`, also where the key is part of another or goes on behind one.
pub async fn absent_is_none(bench: &Bench) {
    put(bench, "a/b", b"x").await;
    for key in ["c", "a", "a/b/c", "a/b.png", "a/c/d"] {
        assert_eq!(read(bench, key).await, None, "{key}");
        assert_eq!(bench.store.len(key).await.ok(), Some(None), "{key}");
    }
}

/// A deleted object is gone; deleting what is absent succeeds and hurts nothing.
pub async fn delete_is_repeatable(bench: &Bench) {
    put(bench, "a/b", b"x").await;
    put(bench, "a/c", b"y").await;
    for key in ["a/b", "a/b", "never/there", "a/c/below"] {
        assert!(bench.store.delete(key).await.is_ok(), "{key}");
    }
    assert_eq!(read(bench, "a/b").await, None);
    assert_eq!(read(bench, "a/c").await.as_deref(), Some(&b"y"[..]));
}

/// Keys that could mean something else than an object are refused everywhere.
pub async fn keys_are_checked(bench: &Bench) {
    let terms = PutTerms { sha256: Digest::of(b"x"), bytes: 1, content_type: "image/png".into() };
    for key in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "A", "a b", "a\0b"] {
        let refusals = [
            bench.store.put(key, Bytes::from_static(b"x"), "image/png").await.err(),
            bench.store.get(key).await.err(),
            bench.store.len(key).await.err(),
            bench.store.delete(key).await.err(),
            bench.store.presign_get(key, bench.ttl).await.err(),
            bench.store.presign_put(key, &terms, bench.ttl).await.err(),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Some(BlobError::InvalidKey(_))), "{key:?}: {refusal:?}");
        }
    }
}

/// A list has every object of its prefix once, goes on after any key of it, and keeps to its limit.
pub async fn lists_go_on_where_they_ended(bench: &Bench) {
    // `-` and `.` sort before `/`, and `0` after it: some stores order whole keys, some by folder.
    let keys = ["a-b/x", "a.png", "a/b-c", "a/b/c", "a0", "b"];
    for key in keys.iter().rev() {
        put(bench, key, b"x").await;
    }
    let listed = async |prefix: &str, after: Option<&str>, limit: usize| {
        let objects = bench.store.list(prefix, after, limit).await;
        let objects = objects.unwrap_or_else(|error| panic!("{prefix}: {error}"));
        assert!(objects.iter().all(|object| object.bytes == 1 && object.modified.0 > 0), "{objects:?}");
        objects.into_iter().map(|object| object.key).collect::<Vec<_>>()
    };
    let all = listed("", None, 100).await;
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(sorted(all.clone()), keys);
    for (at, key) in all.iter().enumerate() {
        assert_eq!(listed("", Some(key), 100).await, all[at + 1..], "after {key}");
    }
    let inside = listed("a/", None, 100).await;
    assert_eq!(sorted(inside.clone()), ["a/b-c", "a/b/c"]);
    assert_eq!(listed("a/b", Some(&inside[0]), 100).await, inside[1..]);
    assert_eq!(listed("nothing", None, 100).await, Vec::<String>::new());
    // Page by page is the same as all at once.
    let (mut paged, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = listed("", after.as_deref(), 1).await;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

/// Whoever reads while others write sees one whole object or another.
pub async fn nobody_sees_half_an_object(bench: &Bench) {
    let whole = |fill: u8| Bytes::from(vec![fill; 200_000]);
    put(bench, "race/object", b"").await;
    let writers: Vec<_> = (1..5u8)
        .map(|fill| {
            let store = Arc::clone(&bench.store);
            tokio::spawn(async move {
                for _ in 0..5 {
                    store.put("race/object", whole(fill), "image/png").await?;
                }
                Ok::<_, BlobError>(())
            })
        })
        .collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let bytes = read(bench, "race/object").await.unwrap_or_default();
        assert!(bytes.first().is_none_or(|fill| bytes == whole(*fill)), "half an object");
    }
    for writer in writers {
        assert!(matches!(writer.await, Ok(Ok(()))));
    }
    assert_eq!(bench.store.len("race/object").await.ok(), Some(Some(200_000)));
    let left = bench.store.list("race/", None, 10).await;
    let left: Vec<String> = left.into_iter().flatten().map(|object| object.key).collect();
    assert_eq!(left, ["race/object"]);
}

/// A link reads its object until it expires, and nothing else.
pub async fn a_link_reads_until_it_expires(bench: &Bench) {
    put(bench, "a/b.png", b"picture").await;
    let link = async |key: &str| {
        bench.store.presign_get(key, bench.ttl).await.unwrap_or_else(|error| panic!("{error}"))
    };
    let (status, body) = (bench.follow)("GET", link("a/b.png").await, Bytes::new()).await;
    assert_eq!((status, &body[..]), (200, &b"picture"[..]));
    let (status, _) = (bench.follow)("GET", link("a/absent.png").await, Bytes::new()).await;
    assert_eq!(status, 404);
    let bent = Link { url: link("a/b.png").await.url.replace("a/b.png", "a/c.png"), headers: Vec::new() };
    put(bench, "a/c.png", b"other").await;
    assert_eq!((bench.follow)("GET", bent, Bytes::new()).await.0, 403);
    assert!(!is_success((bench.follow)("PUT", link("a/b.png").await, Bytes::from_static(b"x")).await.0));
    let old = link("a/b.png").await;
    (bench.advance)(bench.ttl).await;
    assert_eq!((bench.follow)("GET", old, Bytes::new()).await.0, 403);
    assert_eq!(read(bench, "a/b.png").await.as_deref(), Some(&b"picture"[..]));
}

/// A link stores what was announced, again if need be, until it expires; nothing else passes for it.
pub async fn a_link_stores_what_was_announced(bench: &Bench) {
    let terms = PutTerms { sha256: Digest::of(b"picture"), bytes: 7, content_type: "image/png".into() };
    let link = async || {
        let link = bench.store.presign_put("a/b.png", &terms, bench.ttl).await;
        link.unwrap_or_else(|error| panic!("{error}"))
    };
    let holds = async || bench.store.holds("a/b.png", &terms).await.ok();
    assert_eq!(holds().await, Some(false), "nothing is there yet");
    for wrong in [&b"PICTURE"[..], b"pictur", b"pictures", b""] {
        (bench.follow)("PUT", link().await, Bytes::from_static(wrong)).await;
        assert_eq!(holds().await, Some(false), "{wrong:?} passes for what was announced");
    }
    for _ in 0..2 {
        let (status, _) = (bench.follow)("PUT", link().await, Bytes::from_static(b"picture")).await;
        assert!(is_success(status), "{status}");
        assert_eq!(read(bench, "a/b.png").await.as_deref(), Some(&b"picture"[..]));
        assert_eq!(holds().await, Some(true));
    }
    assert!(!is_success((bench.follow)("GET", link().await, Bytes::new()).await.0));
    let old = link().await;
    (bench.advance)(bench.ttl).await;
    assert!(bench.store.delete("a/b.png").await.is_ok());
    assert_eq!((bench.follow)("PUT", old, Bytes::from_static(b"picture")).await.0, 403);
    assert_eq!(read(bench, "a/b.png").await, None);
}
