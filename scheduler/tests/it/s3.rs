//! The object store's conformance suite over a real S3 server, each promise under a prefix of its own, and
//! what a server can do wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use kraftr_protocol::message::Link;
use kraftr_protocol::{Ids as _, Timestamp};
use kraftr_scheduler::blobs::conformance::{self, Bench};
use kraftr_scheduler::blobs::s3::{Encryption, S3Blobs, S3Config};
use kraftr_scheduler::blobs::{BlobError, BlobStore};
use kraftr_scheduler::clock::SystemIds;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::services::required;

/// The bucket that the variables name, under a fresh prefix.
fn config() -> S3Config {
    let secret = |name| SecretString::from(required(name));
    let mut config = S3Config::new(
        required("KRAFTR_S3_REGION"),
        required("KRAFTR_S3_BUCKET"),
        secret("KRAFTR_S3_ACCESS_KEY_ID"),
        secret("KRAFTR_S3_SECRET_ACCESS_KEY"),
    );
    config.endpoint = Some(required("KRAFTR_S3_ENDPOINT"));
    config.path_style = required("KRAFTR_S3_PATH_STYLE") == "true";
    config.prefix = format!("test/{}/", SystemIds.uuid(Timestamp(0)).simple());
    config
}

async fn follow(method: &'static str, link: Link, body: Bytes) -> (u16, Bytes) {
    // Whoever comes second finds it installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), link.url);
    for (name, value) in link.headers {
        request = request.header(name, value);
    }
    let request = if method == "PUT" { request.body(body) } else { request };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap())
}

fn bench() -> Bench {
    Bench {
        store: Arc::new(S3Blobs::new(config())),
        follow: Box::new(|method, link, body| follow(method, link, body).boxed()),
        // The server's clock cannot be moved: time really passes, and a second more.
        ttl: Duration::from_secs(3),
        advance: Box::new(|by| tokio::time::sleep(by + Duration::from_secs(1)).boxed()),
    }
}

async fn clean(store: &dyn BlobStore) {
    for object in store.list("", None, 1_000).await.unwrap() {
        store.delete(&object.key).await.unwrap();
    }
}

macro_rules! suite {
    ($($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let bench = bench();
            conformance::$promise(&bench).await;
            clean(&*bench.store).await;
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

/// A large object goes up in parts and comes back whole.
#[tokio::test]
async fn a_large_object_is_read_back() {
    let store = S3Blobs::new(config());
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let bytes = Bytes::from(bytes);
    store.put("large/object", bytes.clone(), "image/png").await.unwrap();
    assert_eq!(store.len("large/object").await.unwrap(), Some(bytes.len() as u64));
    assert!(store.get("large/object").await.unwrap() == Some(bytes), "other bytes came back");
    clean(&store).await;
}

#[tokio::test]
async fn a_wrong_bucket_and_a_wrong_secret_are_named() {
    let bucket = S3Config { bucket: "nobody-made-this".into(), ..config() };
    let said = S3Blobs::new(bucket).check().await.unwrap_err();
    assert!(matches!(&said, BlobError::Refused(why) if why.contains("bucket")), "{said}");
    let secret = S3Config { secret_access_key: SecretString::from("wrong"), ..config() };
    assert!(!format!("{secret:?}").contains("wrong"));
    let said = S3Blobs::new(secret).check().await.unwrap_err();
    assert!(matches!(&said, BlobError::Refused(why) if why.contains("secret")), "{said}");
}

/// A server that answers every request with `answer`, or never; the heads of the requests it got.
async fn server(answer: Option<&'static str>) -> (S3Config, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 8_192];
                let length = connection.read(&mut head).await.unwrap();
                heads.send(String::from_utf8_lossy(&head[..length]).to_lowercase()).ok();
                match answer {
                    Some(answer) => connection.write_all(answer.as_bytes()).await.unwrap(),
                    None => std::future::pending().await,
                }
            });
        }
    });
    let secret = || SecretString::from("test");
    let mut config = S3Config::new("us-east-1", "bucket", secret(), secret());
    config.endpoint = Some(endpoint);
    config.path_style = true;
    config.attempt_timeout = Duration::from_millis(300);
    (config, seen)
}

#[tokio::test]
async fn a_server_that_is_busy_or_silent_is_unavailable() {
    const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for answer in [Some(SLOW_DOWN), None] {
        let (config, mut seen) = server(answer).await;
        let store = S3Blobs::new(config);
        let refused = tokio::time::timeout(Duration::from_secs(20), store.put("a", Bytes::new(), "")).await;
        let refused = refused.expect("it gives up").unwrap_err();
        assert!(matches!(refused, BlobError::Unavailable(_)), "{refused}");
        assert!(!refused.is_permanent());
        let mut tries = 0;
        while seen.try_recv().is_ok() {
            tries += 1;
        }
        assert_eq!(tries, 3, "it is tried again, and not for ever");
    }
}

#[tokio::test]
async fn objects_are_encrypted_as_configured() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for (encryption, expected) in [
        (Encryption::Store, vec!["x-amz-server-side-encryption: aes256"]),
        (
            Encryption::Kms { key: Some("key-1".into()) },
            vec![
                "x-amz-server-side-encryption: aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id: key-1",
            ],
        ),
        (Encryption::BucketDefault, vec![]),
    ] {
        let (mut config, mut seen) = server(Some(OK)).await;
        config.encryption = encryption.clone();
        let store = S3Blobs::new(config);
        store.put("a", Bytes::from_static(b"x"), "image/png").await.unwrap();
        let head = seen.recv().await.unwrap();
        assert!(head.contains("x-amz-checksum-sha256: "), "{head}");
        let terms = kraftr_scheduler::blobs::PutTerms {
            sha256: kraftr_protocol::Digest::of(b"x"),
            bytes: 1,
            content_type: "image/png".into(),
        };
        let link = store.presign_put("a", &terms, Duration::from_mins(1)).await.unwrap();
        for line in &expected {
            assert!(head.contains(line), "{line} is not in\n{head}");
            let name = line.split(':').next().unwrap_or_default();
            assert!(link.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name)), "{link:?}");
        }
        assert_eq!(head.contains("server-side-encryption"), encryption != Encryption::BucketDefault);
    }
}
