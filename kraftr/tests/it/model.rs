//! `kraftr model` as an ML engineer meets it: from a manifest to a picture, without a line of code.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kraftr_models::bundled;
use kraftr_protocol::Digest;
use serde_json::{Value, json};

use crate::api::Api;
use crate::program::{Dev, LOOK_AGAIN, arg, failure_of, kraftr, run, stdout_of};

/// A configuration that nobody has trained.
const SMALL: &str = r#"
name = "small"
title = "A small network"
task = "try-on"
architecture = "fashn-vton"
size = [64, 96]
output_scale = 4
categories = ["tops"]
price = 3
device_time_ms = 100
licence = "Apache-2.0"

[config]
input_shape = [96, 64]
hidden_size = 96
n_heads = 2
double_blocks_depth = 1
single_blocks_depth = 1
patch_size = 8
axes_dim = [8, 20, 20]
patch_mixer_depth = 1
poses = false

[defaults]
guidance = 1.5

[quality.fast]
steps = 1

[quality.balanced]
steps = 2

[quality.best]
steps = 3

[limits]
steps_min = 1
steps_max = 10
samples_max = 4

[[files]]
role = "weights"
name = "small.safetensors"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 4321
source = { hub = "shop/small", revision = "0123456789abcdef0123456789abcdef01234567", path = "model.safetensors" }
"#;

/// A folder of manifests and one of weights.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.manifests()).unwrap();
        place.write("small.toml", SMALL);
        place
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.path().join("manifests")
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn weights(&self) -> PathBuf {
        self.0.path().join("weights")
    }

    pub(crate) fn write(&self, name: &str, manifest: &str) {
        fs::write(self.manifests().join(name), manifest).unwrap();
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = kraftr();
        command.args(["model", "--manifests", arg(&self.manifests()), "--weights", arg(&self.weights())]);
        command.args(line.split_whitespace()).current_dir(self.0.path());
        command
    }

    pub(crate) fn model(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&stdout_of(&self.model(line))).unwrap()
    }

    /// A manifest for these bytes, and a folder that has them.
    pub(crate) fn shared(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let text = SMALL
            .replace("\"small\"", &format!("\"{name}\""))
            .replace("small.safetensors", &format!("{name}.safetensors"))
            .replace(&"0".repeat(64), &Digest::of(bytes).to_string())
            .replace("bytes = 4321", &format!("bytes = {}", bytes.len()));
        self.write(&format!("{name}.toml"), &text);
        let share = self.0.path().join("share");
        fs::create_dir_all(&share).unwrap();
        fs::write(share.join(format!("{name}.safetensors")), bytes).unwrap();
        share
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_becomes_pictures_of_the_fleet_without_code() {
    let place = Place::new();
    let said = stdout_of(&place.model("init small --seed 7"));
    assert!(said.contains("small-random.toml"), "{said}");
    let check = place.json("check small-random --json");
    assert!(check["ok"] == true && check["contracts"][0]["ok"] == true, "{check}");
    let listed = place.json("list --json");
    let present = |name: &str| {
        let of = |row: &&Value| row["release"] == name;
        listed.as_array().unwrap().iter().find(of).unwrap()["present"].as_bool().unwrap()
    };
    assert!(present("small-random") && present("demo-tryon") && !present("small"), "{listed}");

    let directory = place.0.path().join("fleet");
    let mut dev = Dev::spawn_with_models(&directory, &place.manifests(), &place.weights());
    let ready = dev.wait_ready();
    let api = Api::new(&ready.url, &ready.api_key.unwrap());
    let body = json!({ "model": "small-random", "person": api.upload(bundled::SAMPLE_PERSON).await,
                       "garment": api.upload(bundled::SAMPLE_GARMENT).await, "category": "tops" });
    let id = api.submit(&body, "first").await.unwrap();
    let render = api.wait_ended(&id).await;
    assert_eq!(render["status"], "succeeded", "{render}");
    assert_eq!((&render["release"], &render["price"]), (&json!("small-random"), &json!(3)), "{render}");
    assert_eq!(
        (&render["artifacts"][0]["width"], &render["artifacts"][0]["height"]),
        (&json!(256), &json!(384))
    );
    let missing =
        json!({ "model": "small", "person": body["person"], "garment": body["garment"], "category": "tops" });
    let (status, answer) = api.answer(&missing, "second").await;
    assert!(status.is_client_error(), "what has no weights is not on offer: {answer}");
    dev.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_cannot_be_marked_are_not_delivered_and_not_charged() {
    let place = Place::new();
    // 64 x 96 pixels: fewer than a mark needs.
    place.write("small.toml", &SMALL.replace("output_scale = 4\n", ""));
    stdout_of(&place.model("init small --seed 7"));
    let directory = place.0.path().join("fleet");
    let mut dev = Dev::spawn_with_models(&directory, &place.manifests(), &place.weights());
    let ready = dev.wait_ready();
    let api = Api::new(&ready.url, &ready.api_key.unwrap());
    let before = api.get("/v1/balance").await;
    let body = json!({ "model": "small-random", "person": api.upload(bundled::SAMPLE_PERSON).await,
                       "garment": api.upload(bundled::SAMPLE_GARMENT).await, "category": "tops" });
    let id = api.submit(&body, "first").await.unwrap();
    let render = api.wait_ended(&id).await;
    assert_eq!((&render["status"], &render["artifacts"]), (&json!("failed"), &json!([])), "{render}");
    assert!(render.to_string().contains("watermark_failed"), "{render}");
    assert_eq!(render["attempts"], 1, "another try would not help: {render}");
    assert_eq!(api.get("/v1/balance").await, before, "what was held is given back");
    dev.terminate();
}

#[test]
fn a_bench_tells_time_work_and_memory() {
    let place = Place::new();
    stdout_of(&place.model("init small"));
    let report = place.json("bench small-random --steps 3 --json");
    for figure in
        ["load_s", "first_step_ms", "ms_per_step", "s_per_image", "achieved_flops_per_s", "peak_memory_bytes"]
    {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}: {report}");
    }
    let parts = report["arithmetic"]["parts"].as_array().unwrap();
    let flops =
        |part: &Value| part["matmul_flops"].as_f64().unwrap() + part["attention_flops"].as_f64().unwrap();
    let pass: f64 = parts.iter().map(flops).sum();
    let image = report["model_flops_per_image"].as_f64().unwrap();
    assert!((image / pass - 5.0).abs() < 1e-6, "two guided steps and one without: {report}");
    let achieved = |report: &Value| {
        report["achieved_flops_per_s"].as_f64().unwrap() * report["steps_s"].as_f64().unwrap()
    };
    assert!((achieved(&report) / pass - 5.0).abs() < 1e-6, "{report}");
    let fast = place.json("bench demo-tryon --quality fast --json");
    let image = fast["model_flops_per_image"].as_f64().unwrap();
    assert!(achieved(&fast) < 0.9 * image, "what a quality leaves out counts as no work: {fast}");
    let said = failure_of(&place.model("bench small-random --steps 11"), 1);
    assert!(said.contains("takes 1 to 10 steps"), "{said}");
    let said = failure_of(&place.model("bench small"), 1);
    assert!(said.contains("`kraftr model pull small` fetches it"), "{said}");
}

#[test]
fn two_releases_are_compared_in_a_sheet_and_in_figures() {
    let place = Place::new();
    stdout_of(&place.model("init small --seed 1"));
    fs::rename(place.manifests().join("small-random.toml"), place.manifests().join("one.toml")).unwrap();
    let (one, path) =
        (place.weights().join("small-random-weights.safetensors"), place.manifests().join("one.toml"));
    fs::rename(one, place.weights().join("one.safetensors")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("small-random-weights", "one").replace("small-random", "one")).unwrap();
    stdout_of(&place.model("init small --seed 2"));
    for name in ["p.png", "g.png"] {
        let bytes = if name == "p.png" { bundled::SAMPLE_PERSON } else { bundled::SAMPLE_GARMENT };
        fs::write(place.0.path().join(name), bytes).unwrap();
    }
    let set = r#"[{"person":"p.png","garment":"g.png","category":"tops"},{"person":"g.png","garment":"p.png","category":"tops"}]"#;
    fs::write(place.0.path().join("set.json"), set).unwrap();
    let figures = |line: &str| -> Value {
        stdout_of(&place.model(line));
        serde_json::from_slice(&fs::read(place.0.path().join("sheet.json")).unwrap()).unwrap()
    };
    let other = figures("compare one small-random --set set.json --out sheet.png");
    assert_eq!(other["cases"].as_array().unwrap().len(), 2);
    assert!(other["psnr_db"].as_f64().unwrap() < 40.0 && other["ssim"].as_f64().unwrap() < 0.99, "{other}");
    let sheet = decode(&place.0.path().join("sheet.png"));
    assert!(sheet.height() > 2 * 384 && sheet.width() > 4 * 200, "{:?}", sheet.dimensions());
    let same = figures("compare one one --out sheet.png");
    assert_eq!((&same["psnr_db"], &same["ssim"]), (&json!(100.0), &json!(1.0)), "{same}");
}

#[test]
fn qualities_are_held_against_the_full_result() {
    let place = Place::new();
    stdout_of(&place.model("init small --seed 1"));
    let line = "qualities small-random --out q.png --also steps=2 --also steps=2,solver=heun";
    stdout_of(&place.model(line));
    let report: Value = serde_json::from_slice(&fs::read(place.0.path().join("q.json")).unwrap()).unwrap();
    let names: Vec<_> = report["ways"].as_array().unwrap().iter().map(|way| &way["name"]).collect();
    assert_eq!(names, ["full", "best", "balanced", "fast", "also", "also"]);
    let ways = &report["ways"];
    assert_eq!((&ways[0]["psnr_db"], &ways[0]["ssim"]), (&json!(100.0), &json!(1.0)), "{report}");
    assert!(ways[4]["psnr_db"].as_f64().unwrap() < 90.0, "{report}");
    assert_eq!((&ways[4]["evaluations"], &ways[5]["evaluations"]), (&json!(3.0), &json!(4.0)), "{report}");
    assert!(place.0.path().join("q.png").exists());
    let said = failure_of(&place.model("qualities small-random --also steps=99"), 1);
    assert!(said.contains("--also steps=99: small-random takes 1 to 10"), "{said}");
    let said = failure_of(&place.model("qualities small-random --also steps=2,solver=rk4"), 2);
    assert!(said.contains("solver: expected one of: euler, ab2, heun"), "{said}");
}

#[test]
fn every_mistake_of_every_manifest_stops_a_start_in_words() {
    let place = Place::new();
    place.write("a.toml", &SMALL.replace("\"small\"", "\"Small\"").replace("price = 3", "prise = 3"));
    place.write("b.toml", &SMALL.replace("\"small\"", "\"b\"").replace("patch_size", "patch_sise"));
    for line in ["list", "check small"] {
        let said = failure_of(&place.model(line), 1);
        for part in
            ["a.toml: 3 mistakes", "did you mean price?", "b.toml: 2 mistakes", "did you mean patch_size?"]
        {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
    let output = kraftr()
        .args(["worker", "--manifests", arg(&place.manifests())])
        .env("KRAFTR_AMQP_URL", "amqp://u@localhost")
        .output();
    let said = failure_of(&output.unwrap(), 1);
    assert!(said.contains("--manifests: ") && said.contains("did you mean patch_size?"), "{said}");
    let mut check = kraftr();
    check.args(["config", "check", "--role", "scheduler"]).env("KRAFTR_MODELS_MANIFESTS", place.manifests());
    let said = failure_of(&check.current_dir(place.0.path()).output().unwrap(), 1);
    assert!(
        said.contains("KRAFTR_MODELS_MANIFESTS: ") && said.contains("did you mean patch_size?"),
        "{said}"
    );
}

#[test]
fn a_release_is_shown_with_where_it_is_and_how_to_get_it() {
    let place = Place::new();
    let said = stdout_of(&place.model("show small"));
    for part in
        ["architecture = \"fashn-vton\"", "missing, looked for", "from shop/small on the hub", "pull small"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(place.json("show small --json")["files"][0]["present"], false);
    assert!(stdout_of(&place.model("list")).contains("small: `kraftr model pull small` fetches its weights"));
    let source = SMALL.lines().find(|line| line.starts_with("source = ")).unwrap();
    place.write("b.toml", &SMALL.replace(source, "").replace("\"small\"", "\"b\""));
    let said = stdout_of(&place.model("list"));
    assert!(
        said.contains("b: its manifest names no source for small.safetensors; `kraftr model pull b --from"),
        "{said}"
    );
    let said = failure_of(&place.model("show smal"), 1);
    assert!(said.contains("did you mean small?"), "{said}");
    let said = failure_of(&place.model("check small"), 1);
    assert!(said.is_empty(), "the report is the answer: {said}");
}

#[test]
fn two_processes_pull_into_one_folder() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..9_000_000u32).map(|n| (n % 251) as u8).collect();
    let share = place.shared("big", &bytes);
    let line = format!("pull big --from {}", arg(&share));
    let both: Vec<_> = (0..2).map(|_| place.command(&line).spawn().unwrap()).collect();
    for mut one in both {
        assert!(one.wait().unwrap().success());
    }
    assert!(fs::read(place.weights().join("big.safetensors")).unwrap() == bytes);
    let said = stdout_of(&place.model(&line));
    assert!(said.contains("was there"), "{said}");
}

/// A hub that knows one file and a token; returns its address and counts the downloads.
fn serve(bytes: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let downloads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&downloads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
            let known = head.to_ascii_lowercase().contains("authorization: bearer hf_test");
            let status = if known { "200 OK" } else { "401 Unauthorized" };
            let length = if known { bytes.len() } else { 0 };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let stream = stream.get_mut();
            stream.write_all(answer.as_bytes()).unwrap();
            if known && head.starts_with("GET") {
                counted.fetch_add(1, Ordering::SeqCst);
                // Long enough for another process to come and wait.
                for piece in bytes.chunks(bytes.len() / 10 + 1) {
                    std::thread::sleep(LOOK_AGAIN);
                    stream.write_all(piece).unwrap();
                }
            }
        }
    });
    (url, downloads)
}

#[test]
fn workers_pull_what_they_miss_and_download_it_once() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    place.shared("big", &bytes);
    let (hub, downloads) = serve(bytes.clone());
    let pull = |token: &str| {
        let mut command = place.command("pull big");
        command.env("HF_ENDPOINT", &hub).env("HF_TOKEN", token).env("HF_HOME", place.0.path());
        command.output().unwrap()
    };
    let said = failure_of(&pull("hf_other"), 1);
    assert!(said.contains("shop/small on the hub") && said.contains("token"), "{said}");

    // Each starts by pulling; then there is no broker, which ends it.
    let worker = || {
        let mut worker = kraftr();
        worker.args(["worker", "--pull", "--releases", "big", "--manifests", arg(&place.manifests())]);
        worker.args(["--weights", arg(&place.weights())]).env("HF_ENDPOINT", &hub).env("HF_TOKEN", "hf_test");
        worker.env("HF_HOME", place.0.path()).env("KRAFTR_AMQP_URL", "amqp://u@127.0.0.1:1");
        worker.env("KRAFTR_STARTUP_PATIENCE", "1ms").stderr(Stdio::piped()).spawn().unwrap()
    };
    for worker in [worker(), worker()] {
        let output = worker.wait_with_output().unwrap();
        let said = failure_of(&output, 1);
        assert!(said.contains("the broker amqp://u@127.0.0.1:1 is missing"), "{said}");
    }
    assert!(fs::read(place.weights().join("big.safetensors")).unwrap() == bytes);
    assert_eq!(downloads.load(Ordering::SeqCst), 1);
    assert!(stdout_of(&pull("hf_test")).contains("was there"));
}

/// Works for every user, also where no disk can be mounted.
#[test]
fn where_there_is_no_room_it_is_said_and_the_rest_comes_later() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let share = place.shared("big", &bytes);
    let line = format!("pull big --from {}", arg(&share));
    let command = place.command(&line);
    let mut shell = Command::new("bash");
    shell.args(["-c", r#"trap '' XFSZ; ulimit -f 1000; exec "$@""#, "bash"]);
    let output = shell.arg(command.get_program()).args(command.get_args()).output().unwrap();
    let said = failure_of(&output, 1);
    assert!(said.contains("no room for") && said.contains("pull again"), "{said}");
    assert!(!place.weights().join("big.safetensors").exists());
    assert_eq!(part_of(&place.weights()), 1_024_000);
    stdout_of(&place.model(&line));
    assert!(fs::read(place.weights().join("big.safetensors")).unwrap() == bytes);
}

fn part_of(weights: &Path) -> u64 {
    fs::metadata(weights.join(".big.safetensors.part")).unwrap().len()
}

#[test]
fn releases_in_folders_render_without_a_server() {
    let place = Place::new();
    stdout_of(&place.model("init small"));
    let out = place.0.path().join("out.png");
    let (person, garment) = (place.0.path().join("p.png"), place.0.path().join("g.png"));
    fs::write(&person, bundled::SAMPLE_PERSON).unwrap();
    fs::write(&garment, bundled::SAMPLE_GARMENT).unwrap();
    let (manifests, weights) = (place.manifests(), place.weights());
    let mut arguments =
        vec!["render", "--person", arg(&person), "--garment", arg(&garment), "--category", "tops"];
    arguments.extend(["--out", arg(&out), "--model", "small-random", "--manifests", arg(&manifests)]);
    arguments.extend(["--weights", arg(&weights)]);
    stdout_of(&run(arguments));
    assert!(out.exists());
}

pub(crate) fn decode(path: &Path) -> kraftr_imaging::RgbImage {
    let limits = kraftr_imaging::Limits {
        bytes_max: 1 << 24,
        side_min: 1,
        side_max: 8192,
        pixels_max: 1 << 24,
        aspect_max: 8,
    };
    kraftr_imaging::decode(&fs::read(path).unwrap(), &limits).unwrap().image
}
