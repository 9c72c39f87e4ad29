//! A disk without room: requests are refused in words, nothing is lost, and room is all it takes to go on.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kraftr_models::bundled;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::api::Api;
use crate::program::{Dev, LOOK_AGAIN, PATIENCE, arg, run, stdout_of};

/// Room on the small disk, in MiB.
const DISK_MIB: u32 = 48;
/// Blocks of 1,024 bytes that a file may have, where disks cannot be mounted: less than the write-ahead log wants.
const FILE_BLOCKS_MAX: u32 = 1_500;
/// Refusals in a row until the disk counts as full.
const REFUSALS: u32 = 5;

/// What has no room.
enum Small {
    /// A file system of its own.
    Disk(PathBuf),
    /// Every file of the process.
    Files,
}

impl Small {
    /// A file system where we may mount one.
    fn new(scratch: &Path) -> Self {
        let place = scratch.join("disk");
        std::fs::create_dir(&place).unwrap();
        let size = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs", arg(&place)]).output();
        match mounted {
            Ok(said) if said.status.success() => Self::Disk(place),
            _ => Self::Files,
        }
    }

    fn spawn(&self, directory: &Path) -> Dev {
        match self {
            Self::Disk(_) => Dev::spawn(directory),
            Self::Files => Dev::spawn_with_files_of(directory, FILE_BLOCKS_MAX),
        }
    }

    /// Takes all the room there is.
    fn fill(&self) {
        if let Self::Disk(place) = self {
            let mut file = File::create(place.join("filler")).unwrap();
            // Down to single bytes, so that not even a page is left.
            for piece in [1 << 20, 4_096, 1] {
                let piece = vec![0xA5; piece];
                while file.write_all(&piece).is_ok() {}
            }
        }
    }

    fn make_room(&self) {
        if let Self::Disk(place) = self {
            std::fs::remove_file(place.join("filler")).unwrap();
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Self::Disk(place) = self {
            // Lazily: a process that a panic leaves behind for a moment still has files there.
            Command::new("umount").args(["--lazy", arg(place)]).status().ok();
        }
    }
}

/// Submits until it is refused so often; every answer is a promise or a refusal in words.
async fn submit_until_full(api: &Api, body: &Value, promised: &mut Vec<(String, Option<String>)>) {
    let started = Instant::now();
    let mut refusals = 0;
    while refusals < REFUSALS {
        let key = format!("render-{}", promised.len());
        let (status, answer) = api.answer(body, &key).await;
        if status.is_success() {
            refusals = 0;
            promised.push((key, Some(answer["id"].as_str().unwrap().to_owned())));
        } else {
            let refused =
                [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE].contains(&status);
            assert!(refused && answer["code"].is_string(), "{status} {answer}");
            refusals += 1;
            promised.push((key, None));
        }
        assert!(started.elapsed() < PATIENCE, "the disk never fills up");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What was promised is done, what was refused can be sent again, and each is charged once.
async fn settle(api: &Api, body: &Value, promised: &mut [(String, Option<String>)]) {
    for (key, id) in promised.iter_mut() {
        let (status, answer) = api.answer(body, key).await;
        assert!(status.is_success(), "{status} {answer}");
        let found = answer["id"].as_str().unwrap().to_owned();
        assert_eq!(id.get_or_insert_with(|| found.clone()), &found, "a promise is kept");
    }
    for (_, id) in promised.iter() {
        let render = api.wait_ended(id.as_ref().unwrap()).await;
        assert_eq!(render["status"], "succeeded", "{render}");
    }
    let once = promised.iter().map(|(_, id)| (id.clone().unwrap(), 1)).collect();
    assert_eq!(api.entries("capture").await, once);
    assert_eq!(api.get("/v1/balance").await["held"], 0);
}

async fn check(small: &Small, directory: &Path) {
    let mut dev = small.spawn(directory);
    let ready = dev.wait_ready();
    let key = ready.api_key.clone().unwrap();
    let api = Api::new(&ready.url, &key);
    let person = api.upload(bundled::SAMPLE_PERSON).await;
    let garment = api.upload(bundled::SAMPLE_GARMENT).await;
    let body = json!({ "model": "demo-tryon", "person": person, "garment": garment,
                       "category": bundled::SAMPLE_CATEGORY, "steps": 2 });
    let mut promised = Vec::new();
    for n in 0..3 {
        let key = format!("render-{n}");
        let id = api.submit(&body, &key).await.unwrap();
        promised.push((key, Some(id)));
    }

    small.fill();
    submit_until_full(&api, &body, &mut promised).await;
    if matches!(small, Small::Disk(_)) {
        small.make_room();
        settle(&api, &body, &mut promised).await;
        small.fill();
        submit_until_full(&api, &body, &mut promised).await;
    }
    dev.kill();
    small.make_room();

    let mut dev = Dev::spawn(directory);
    let api = Api::new(&dev.wait_ready().url, &key);
    settle(&api, &body, &mut promised).await;
    dev.terminate();
    let said = stdout_of(&run(["admin", "--data-dir", arg(directory), "ledger", "audit", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["ok"], true, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let small = Small::new(scratch.path());
    check(&small, &scratch.path().join("disk/fleet")).await;
}

/// Works for every user, also where no disk can be mounted.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_may_not_grow_lose_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    check(&Small::Files, &scratch.path().join("fleet")).await;
}
