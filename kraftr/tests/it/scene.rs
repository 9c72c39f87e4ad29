//! A scene as its users meet it: described, painted, composed; and said not to be on offer where it is not.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use kraftr_imaging::{Limits, RgbImage, decode};
use kraftr_models::{Device, Registry, bundled};
use kraftr_protocol::manifest::Source;
use kraftr_protocol::{ReleaseManifest, limits};
use serde_json::{Value, json};

use crate::api::Api;
use crate::program::{Dev, Ready, arg, failure_of, kraftr, run, stdout_of};

pub(crate) const MODEL: &str = "dresser-random";
/// What marking a picture may change of a pixel.
const MARK: u8 = 24;

/// A folder with a try-on release and the painter of its scenes, both with random weights.
pub(crate) fn releases() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for (name, manifest) in [
        ("painter", include_str!("../../../models/tests/fixtures/scene-painter.toml")),
        ("dresser", include_str!("../../../models/tests/fixtures/scene-dresser.toml")),
    ] {
        fs::write(place.path().join(format!("{name}.toml")), manifest).unwrap();
        let folder = arg(place.path());
        let init = ["model", "--manifests", folder, "--weights", folder, "init", name, "--seed", "3"];
        stdout_of(&run(init));
    }
    place
}

fn picture(bytes: &[u8]) -> RgbImage {
    let limits = Limits {
        bytes_max: 1 << 24,
        side_min: 1,
        side_max: limits::ASSET_SIDE_MAX,
        pixels_max: limits::ASSET_PIXELS_MAX,
        aspect_max: limits::ASSET_ASPECT_MAX,
    };
    decode(bytes, &limits).unwrap().image
}

/// Asserts that who stands in `plain` stands in `placed`, as far as their marks let that be seen, in front of something
/// else.
fn check_placed(folder: &Path, plain: &RgbImage, placed: &RgbImage) {
    let registry = Registry::open(Some(folder), Some(folder)).unwrap();
    let subject = registry.load(MODEL, &Device::Cpu).unwrap().subject(plain.clone()).unwrap();
    let (mut inside, mut kept, mut outside, mut changed) = (0, 0, 0, 0);
    for ((matte, before), after) in subject.matte().pixels().zip(plain.pixels()).zip(placed.pixels()) {
        let same = before.0.iter().zip(after.0).all(|(before, after)| before.abs_diff(after) <= MARK);
        match matte.0[0] {
            255 => (inside, kept) = (inside + 1, kept + u32::from(same)),
            0 => (outside, changed) = (outside + 1, changed + u32::from(!same)),
            _ => {}
        }
    }
    assert!(inside > 1_000 && outside > 1_000, "{inside} inside, {outside} outside");
    // The matte of a marked picture is not to the pixel that of the picture before.
    assert!(kept * 10 > inside * 9, "{kept} of {inside} pixels of the subject are kept");
    assert!(changed * 2 > outside, "{changed} of {outside} pixels around it are painted");
}

async fn fleet(directory: &Path, folder: &Path) -> (Dev, Api, Value) {
    let mut dev = Dev::spawn_with_models(directory, folder, folder);
    let Ready { url, api_key } = dev.wait_ready();
    let api = Api::new(&url, &api_key.unwrap());
    let body = json!({ "model": MODEL, "person": api.upload(bundled::SAMPLE_PERSON).await,
                       "garment": api.upload(bundled::SAMPLE_GARMENT).await, "category": "tops", "seed": 5 });
    (dev, api, body)
}

fn with_scene(body: &Value, words: &str) -> Value {
    let mut body = body.clone();
    body["scene"] = json!(words);
    body
}

async fn render(api: &Api, body: &Value, key: &str) -> (Value, RgbImage) {
    let id = api.submit(body, key).await.unwrap();
    let render = api.wait_ended(&id).await;
    assert_eq!(render["status"], "succeeded", "{render}");
    let bytes = api.picture(render["artifacts"][0]["id"].as_str().unwrap()).await;
    (render, picture(&bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_puts_people_in_front_of_scenes() {
    let place = releases();
    let (dev, api, body) = fleet(&place.path().join("fleet"), place.path()).await;
    let models = api.get("/v1/models").await;
    let takes = |id: &str| {
        models["data"].as_array().unwrap().iter().find(|model| model["id"] == id).unwrap()["scene"].clone()
    };
    assert_eq!((takes(MODEL), takes("demo-tryon")), (json!(true), json!(false)), "{models}");

    let (plain, before) = render(&api, &body, "plain").await;
    let (placed, after) = render(&api, &with_scene(&body, "a terrace above the sea"), "placed").await;
    assert_eq!((&plain["price"], &placed["price"], &placed["charged"]), (&json!(3), &json!(5), &json!(5)));
    assert_eq!(placed["progress"], json!({ "step": 5, "steps": 5 }), "two of the try-on, three of the scene");
    check_placed(place.path(), &before, &after);
    dev.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_painters_weights_no_scenes_are_offered() {
    let place = releases();
    fs::remove_file(place.path().join("painter-random-unet.safetensors")).unwrap();
    let (dev, api, body) = fleet(&place.path().join("fleet"), place.path()).await;
    let (status, problem) = api.answer(&with_scene(&body, "a terrace above the sea"), "placed").await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("scene_unsupported")), "{problem}");
    let said = problem["errors"][0]["message"].as_str().unwrap();
    assert!(said.starts_with("dresser-random offers no scenes"), "{problem}");
    render(&api, &body, "plain").await;
    dev.terminate();
}

/// Serves the files of a folder under their names; returns its address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
            let name = head.split(' ').nth(1).unwrap().trim_start_matches('/');
            let bytes = fs::read(folder.join(name)).unwrap();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
            stream.get_mut().write_all(&[answer.as_bytes(), &bytes].concat()).unwrap();
        }
    });
    url
}

/// Files of a worker that pulled what `releases` takes; then there is no broker, which ends it.
fn pulled(manifests: &Path, releases: &str) -> BTreeSet<String> {
    let weights = tempfile::tempdir().unwrap();
    let mut worker = kraftr();
    worker.args(["worker", "--pull", "--releases", releases, "--manifests", arg(manifests)]);
    worker.args(["--weights", arg(weights.path())]).env("KRAFTR_AMQP_URL", "amqp://u@127.0.0.1:1");
    let output = worker.env("KRAFTR_STARTUP_PATIENCE", "1ms").output().unwrap();
    let said = failure_of(&output, 1);
    assert!(said.contains("the broker amqp://u@127.0.0.1:1 is missing"), "{said}");
    let names =
        fs::read_dir(weights.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn a_worker_pulls_what_the_scenes_of_its_releases_take() {
    let place = releases();
    let share = tempfile::tempdir().unwrap();
    let url = serve(share.path().to_owned());
    let manifests = tempfile::tempdir().unwrap();
    let write = |release: &str, sources: bool| {
        let text = fs::read_to_string(place.path().join(format!("{release}.toml"))).unwrap();
        let mut manifest = ReleaseManifest::parse(release, &text).unwrap();
        for file in &mut manifest.files {
            fs::copy(place.path().join(&file.name), share.path().join(&file.name)).unwrap();
            file.source = sources.then(|| Source::Url { url: format!("{url}/{}", file.name) });
        }
        fs::write(manifests.path().join(format!("{release}.toml")), manifest.to_toml()).unwrap();
        manifest.files.into_iter().map(|file| file.name).collect::<BTreeSet<_>>()
    };
    let (dressing, painting) = (write(MODEL, true), write("painter-random", true));
    let both = &dressing | &painting;
    assert_eq!((dressing.len(), painting.len()), (2, 4));
    assert_eq!(pulled(manifests.path(), MODEL), both, "what it offers");
    assert_eq!(pulled(manifests.path(), "dresser-random+painter-random"), both, "what is insisted on");
    write("painter-random", false);
    let plain = pulled(manifests.path(), MODEL);
    assert_eq!(
        plain,
        BTreeSet::from(["dresser-random-weights.safetensors".to_owned()]),
        "scenes cannot be had"
    );
}

#[test]
fn scenes_are_painted_without_a_server_and_what_is_missing_is_named() {
    let place = releases();
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    fs::write(path("person.png"), bundled::SAMPLE_PERSON).unwrap();
    fs::write(path("garment.png"), bundled::SAMPLE_GARMENT).unwrap();
    let render = |model: &str, scene: Option<&str>, out: &Path| {
        let (person, garment) = (path("person.png"), path("garment.png"));
        let mut line = vec!["render", "--person", arg(&person), "--garment", arg(&garment)];
        line.extend(["--category", "tops", "--model", model, "--seed", "5", "--out", arg(out)]);
        line.extend(["--manifests", arg(place.path()), "--weights", arg(place.path())]);
        line.extend(scene.iter().flat_map(|scene| ["--scene", *scene]));
        run(line)
    };
    let listed = || {
        let folder = arg(place.path());
        let said = stdout_of(&run(["model", "--manifests", folder, "--weights", folder, "list"]));
        let row = said.lines().find(|line| line.starts_with("dresser-random ")).unwrap();
        (
            row.contains(" painter-random "),
            row.contains(" missing "),
            said.contains("dresser-random takes no scenes here"),
        )
    };
    assert_eq!(listed(), (true, false, false));
    let (plain, placed) = (path("plain.png"), path("placed.png"));
    stdout_of(&render(MODEL, None, &plain));
    stdout_of(&render(MODEL, Some("a terrace above the sea"), &placed));
    check_placed(place.path(), &picture(&fs::read(&plain).unwrap()), &picture(&fs::read(&placed).unwrap()));

    let said = failure_of(&render("demo-tryon", Some("a beach"), &placed), 1);
    assert!(said.contains("demo-tryon takes no scenes"), "{said}");
    fs::remove_file(path("painter-random-vae.safetensors")).unwrap();
    assert_eq!(listed(), (false, true, true));
    let said = failure_of(&render(MODEL, Some("a beach"), &placed), 1);
    assert!(said.contains("painter-random-vae.safetensors"), "{said}");
    assert!(said.contains("`kraftr model pull painter-random` fetches it"), "{said}");
    fs::remove_file(path("dresser-random-parser.safetensors")).unwrap();
    let said = failure_of(&render(MODEL, Some("a beach"), &placed), 1);
    assert!(said.contains("fetch it with `kraftr model pull dresser-random`"), "{said}");
}
