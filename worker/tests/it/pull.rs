//! Weights over HTTP and from folders, from a server that behaves like the hub, and all that goes wrong on the way.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kraftr_protocol::manifest::{Hub, ManifestFile, Source};
use kraftr_protocol::{Clock, Digest, Timestamp};
use kraftr_worker::pull::hub::HubSettings;
use kraftr_worker::pull::s3::{S3Credentials, S3Settings};
use kraftr_worker::pull::{Progress, PullError, PullSettings, Pulled, Puller};

use crate::hub::{CDN_PATH, MockHub, Trick};

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp(1_790_000_000_000_000)
    }
}

/// Bytes that no two offsets have in common, more than fit into one piece of anything.
fn content() -> Vec<u8> {
    (0..700_000u32).flat_map(u32::to_le_bytes).collect()
}

fn file(bytes: &[u8], source: Source) -> ManifestFile {
    let (role, name) = ("weights".to_owned(), "model.safetensors".to_owned());
    let (sha256, bytes) = (Digest::of(bytes), bytes.len() as u64);
    ManifestFile { role, name, sha256, bytes, licence: None, noncommercial: false, source: Some(source) }
}

fn on_hub() -> Source {
    let (repository, path) = ("shop/try-on".to_owned(), "a b/model.safetensors".to_owned());
    Source::Hub(Hub { repository, revision: REVISION.to_owned(), path })
}

/// A hub with one file, and a folder to pull it into.
struct Fixture {
    hub: MockHub,
    folder: tempfile::TempDir,
    settings: PullSettings,
    file: ManifestFile,
}

impl Fixture {
    async fn new() -> Self {
        let hub = MockHub::start(content(), REVISION).await;
        let settings = PullSettings {
            hub: HubSettings { endpoint: hub.url(), ..HubSettings::default() },
            ..PullSettings::default()
        };
        Self { hub, folder: tempfile::tempdir().unwrap(), settings, file: file(&content(), on_hub()) }
    }

    async fn pull(&self) -> (Result<Pulled, PullError>, Vec<Progress>) {
        let puller = Puller::new(self.settings.clone(), Arc::new(Noon)).unwrap();
        let mut heard = Vec::new();
        let pulled = puller.pull(&self.file, self.folder.path(), &mut |progress| heard.push(progress)).await;
        (pulled, heard)
    }

    async fn refusal(&self) -> String {
        self.pull().await.0.unwrap_err().to_string()
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    /// The file is whole, and nothing of the way there is left but the receipt.
    fn assert_whole(&self) {
        assert!(fs::read(self.target()).unwrap() == content());
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".model.safetensors.receipt", "model.safetensors"]);
    }
}

fn bytes_heard(heard: &[Progress]) -> u64 {
    let bytes = |progress: &Progress| if let Progress::Bytes(bytes) = progress { *bytes } else { 0 };
    heard.iter().map(bytes).sum()
}

#[tokio::test]
async fn a_file_of_the_hub_is_pulled_once_and_its_token_stays_there() {
    let mut fixture = Fixture::new().await;
    fixture.settings.hub.token = Some("hf_secret".to_owned());
    let (pulled, heard) = fixture.pull().await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    assert_eq!(bytes_heard(&heard), fixture.file.bytes);
    fixture.assert_whole();
    let seen = fixture.hub.seen();
    let resolve = format!("/shop/try-on/resolve/{REVISION}/a%20b/model.safetensors");
    let asked: Vec<_> = seen.iter().map(|request| (request.method.as_str(), request.path.as_str())).collect();
    assert_eq!(asked, [("HEAD", resolve.as_str()), ("GET", &resolve), ("GET", CDN_PATH)]);
    let tokens: Vec<_> = seen.iter().map(|request| request.authorization.as_deref()).collect();
    assert_eq!(tokens, [Some("Bearer hf_secret"), Some("Bearer hf_secret"), None]);
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::WasThere);
    assert_eq!(fixture.hub.seen().len(), 3, "nobody is asked for what is there");
}

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_was_cut() {
    let fixture = Fixture::new().await;
    fixture.hub.play(&[Trick::CutAfter(1_000_000), Trick::Status(503), Trick::CutAfter(900_000)]);
    let (pulled, heard) = fixture.pull().await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    fixture.assert_whole();
    assert_eq!(bytes_heard(&heard), fixture.file.bytes, "no byte comes twice");
    let ranges: Vec<_> = fixture.hub.seen().into_iter().filter_map(|request| request.range).collect();
    assert!(ranges.contains(&"bytes=1000000-".to_owned()), "{ranges:?}");
    assert!(ranges.contains(&"bytes=1900000-".to_owned()), "{ranges:?}");
}

#[tokio::test]
async fn what_a_killed_process_left_is_resumed() {
    let fixture = Fixture::new().await;
    let part = fixture.folder.path().join(".model.safetensors.part");
    fs::write(&part, &content()[..1_234_567]).unwrap();
    let (pulled, heard) = fixture.pull().await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    assert_eq!(heard[0], Progress::Resumed(1_234_567));
    assert_eq!(bytes_heard(&heard), fixture.file.bytes - 1_234_567);
    fixture.assert_whole();
}

#[tokio::test]
async fn a_rest_of_another_file_is_thrown_away_once() {
    let fixture = Fixture::new().await;
    let part = fixture.folder.path().join(".model.safetensors.part");
    fs::write(&part, vec![7; 1_000_000]).unwrap();
    let (pulled, heard) = fixture.pull().await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    assert!(heard.contains(&Progress::Restarted));
    fixture.assert_whole();
    fs::remove_file(fixture.target()).unwrap();
    fs::write(&part, vec![7; 9_000_000]).unwrap();
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched, "longer than the whole");
    fixture.assert_whole();
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_beginning() {
    let fixture = Fixture::new().await;
    fixture.hub.play(&[Trick::CutAfter(500_000), Trick::IgnoreRange]);
    let (pulled, heard) = fixture.pull().await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    assert!(heard.contains(&Progress::Restarted));
    fixture.assert_whole();
}

#[tokio::test]
async fn another_file_is_refused_before_it_is_fetched() {
    let fixture = Fixture::new().await;
    for (header, value, said) in [
        ("x-linked-size", "5", "expected 2800000 bytes, found 5 bytes"),
        ("x-linked-etag", &format!("\"{}\"", "ab".repeat(32)), "found sha256 abab"),
        ("x-repo-commit", &"9".repeat(40), "found revision 9999"),
    ] {
        fixture.hub.say(header, value);
        let refusal = fixture.refusal().await;
        assert!(refusal.contains(said) && refusal.contains("shop/try-on on the hub"), "{refusal}");
        fixture.hub.say_the_truth();
    }
    assert!(fixture.hub.seen().iter().all(|request| request.method == "HEAD"));
}

#[tokio::test]
async fn a_wrong_digest_never_gets_the_name() {
    let mut fixture = Fixture::new().await;
    // A mirror that says nothing beforehand and sends other bytes of the right length.
    fixture.hub.silence();
    let mut other = content();
    other[2_000_000] ^= 1;
    fixture.file.sha256 = Digest::of(&other);
    let refusal = fixture.refusal().await;
    assert!(refusal.contains("is another file") && refusal.contains("found sha256"), "{refusal}");
    assert!(!fixture.target().exists());
    let part = fs::metadata(fixture.folder.path().join(".model.safetensors.part")).unwrap();
    assert_eq!(part.len(), 0, "nothing wrong is resumed");
    fixture.file.sha256 = Digest::of(&content());
    fixture.file.bytes -= 1;
    let refusal = fixture.refusal().await;
    assert!(refusal.contains("expected 2799999 bytes, found 2800000 bytes"), "{refusal}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let fixture = Fixture::new().await;
    for (status, said) in [
        (401, "set HF_TOKEN"),
        (403, "accept the repository's terms"),
        (404, "no such repository, revision or path"),
        (418, "HTTP 418"),
    ] {
        fixture.hub.answer_head(status);
        let refusal = fixture.refusal().await;
        assert!(refusal.contains(said), "{refusal}");
    }
    fixture.hub.answer_head(405);
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched, "a mirror without HEAD");
}

#[tokio::test]
async fn offline_means_the_cache_of_the_hubs_tools() {
    let mut fixture = Fixture::new().await;
    let cache = tempfile::tempdir().unwrap();
    fixture.settings.hub.offline = true;
    fixture.settings.hub.cache = Some(cache.path().to_owned());
    let refusal = fixture.refusal().await;
    assert!(refusal.contains("HF_HUB_OFFLINE is set"), "{refusal}");
    let snapshot = cache.path().join(format!("models--shop--try-on/snapshots/{REVISION}/a b"));
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("model.safetensors"), content()).unwrap();
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.assert_whole();
    assert!(fixture.hub.seen().is_empty());
}

#[tokio::test]
async fn another_file_in_the_cache_is_passed_over_and_named() {
    let mut fixture = Fixture::new().await;
    let cache = tempfile::tempdir().unwrap();
    fixture.settings.hub.offline = true;
    fixture.settings.hub.cache = Some(cache.path().to_owned());
    let snapshot = cache.path().join(format!("models--shop--try-on/snapshots/{REVISION}/a b"));
    fs::create_dir_all(&snapshot).unwrap();
    let mut other = content();
    other[0] ^= 1;
    for other in [other, b"short".to_vec()] {
        fs::write(snapshot.join("model.safetensors"), other).unwrap();
        let refusal = fixture.refusal().await;
        assert!(refusal.contains(snapshot.join("model.safetensors").to_str().unwrap()), "{refusal}");
    }
    fixture.settings.hub.offline = false;
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.assert_whole();
    assert!(!fixture.hub.seen().is_empty(), "it came from the hub");
}

#[tokio::test]
async fn from_a_folder_and_from_a_bucket() {
    let mut fixture = Fixture::new().await;
    let share = tempfile::tempdir().unwrap();
    fixture.settings.from = Some(share.path().to_owned());
    let refusal = fixture.refusal().await;
    assert!(refusal.contains("No such file"), "{refusal}");
    fs::write(share.path().join("model.safetensors"), content()).unwrap();
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.assert_whole();

    fixture.settings.from = None;
    fs::remove_file(fixture.target()).unwrap();
    fixture.file.source = Some(Source::S3 { s3: "s3://shop-models/try on/7.safetensors".to_owned() });
    fixture.settings.s3 = S3Settings {
        endpoint: Some(fixture.hub.url()),
        region: Some("eu-central-1".to_owned()),
        credentials: Some(S3Credentials { id: "KEY".into(), secret: "SECRET".into(), session_token: None }),
    };
    fixture.hub.play(&[Trick::CutAfter(1_000_000)]);
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.assert_whole();
    let seen = fixture.hub.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for request in &seen {
        assert_eq!(request.path, "/shop-models/try%20on/7.safetensors");
        let authorization = request.authorization.as_deref().unwrap();
        assert!(
            authorization.contains("Credential=KEY/20260921/eu-central-1/s3/aws4_request"),
            "{authorization}"
        );
    }
    assert_eq!(seen[1].range.as_deref(), Some("bytes=1000000-"));

    fs::remove_file(fixture.target()).unwrap();
    fixture.file.source = Some(Source::Url { url: format!("{}/any/where?signature=x", fixture.hub.url()) });
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.file.source = None;
    fs::remove_file(fixture.target()).unwrap();
    let refusal = fixture.refusal().await;
    assert!(refusal.contains("names no source"), "{refusal}");
}

#[tokio::test]
async fn a_file_that_is_there_and_wrong_is_replaced() {
    let fixture = Fixture::new().await;
    let mut other = content();
    other[0] ^= 1;
    fs::write(fixture.target(), other).unwrap();
    assert_eq!(fixture.pull().await.0.unwrap(), Pulled::Fetched);
    fixture.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_pull_at_once_download_once() {
    let fixture = Arc::new(Fixture::new().await);
    fixture.hub.play(&[Trick::Slowly]);
    let pull = || {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move { fixture.pull().await })
    };
    let both = [pull(), pull()];
    let mut waited = 0;
    for one in both {
        let (pulled, heard) = one.await.unwrap();
        assert_eq!(pulled.unwrap(), Pulled::Fetched);
        waited += usize::from(heard.contains(&Progress::Waiting));
    }
    assert_eq!(waited, 1);
    fixture.assert_whole();
    let downloads = fixture.hub.seen().into_iter().filter(|request| request.path == CDN_PATH).count();
    assert_eq!(downloads, 1);
}

/// A file system with little room, where one may be mounted.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path) -> Option<Self> {
        fs::create_dir(place).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(place).status();
        mounted.ok().filter(std::process::ExitStatus::success).map(|_| Self(place.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_what_is_there_is_kept() {
    let fixture = Fixture::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("disk");
    // Where none may be mounted, the program's own test limits its files instead.
    let Some(disk) = SmallDisk::mount(&place) else { return };
    let puller = Puller::new(fixture.settings.clone(), Arc::new(Noon)).unwrap();
    let error = puller.pull(&fixture.file, &disk.0, &mut |_| ()).await.unwrap_err();
    assert!(matches!(&error, PullError::DiskFull { missing, .. } if *missing > 0), "{error}");
    assert!(error.to_string().contains("make room and pull again"), "{error}");
    assert!(!disk.0.join("model.safetensors").exists());
    let remounted = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&disk.0).status().unwrap();
    assert!(remounted.success());
    let mut heard = Vec::new();
    puller.pull(&fixture.file, &disk.0, &mut |progress| heard.push(progress)).await.unwrap();
    assert!(matches!(heard[0], Progress::Resumed(bytes) if bytes > 1_000_000), "{:?}", heard[0]);
    assert!(fs::read(disk.0.join("model.safetensors")).unwrap() == content());
}

#[test]
fn a_lock_ends_with_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = File::create(folder.path().join(".model.safetensors.lock")).unwrap();
    lock.lock().unwrap();
    drop(lock);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new().await;
        let puller = Puller::new(fixture.settings.clone(), Arc::new(Noon)).unwrap();
        assert_eq!(puller.pull(&fixture.file, folder.path(), &mut |_| ()).await.unwrap(), Pulled::Fetched);
    });
}
