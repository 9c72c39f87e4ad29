//! Where a picture comes from: on the command line, over HTTP, and on the page in a real browser.

use std::fs;
use std::path::{Path, PathBuf};

use kraftr_imaging::{Encoding, Limits, decode, encode};
use kraftr_models::bundled;
use serde_json::{Value, json};

use crate::api::Api;
use crate::browser::Browser;
use crate::program::{Dev, Ready, arg, failure_of, run, stdout_of};

/// A dev server that has delivered one picture.
struct Delivered {
    dev: Dev,
    url: String,
    /// The file of its owner's API key.
    key: PathBuf,
    render: String,
    /// As it was delivered.
    file: PathBuf,
    /// Its pixels alone, saved again.
    stripped: PathBuf,
}

async fn deliver(scratch: &Path) -> Delivered {
    let mut dev = Dev::spawn(&scratch.join("data"));
    let Ready { url, api_key } = dev.wait_ready();
    let api_key = api_key.unwrap();
    let api = Api::new(&url, &api_key);
    let person = api.upload(bundled::SAMPLE_PERSON).await;
    let garment = api.upload(bundled::SAMPLE_GARMENT).await;
    let body = json!({ "model": "demo-tryon", "person": person, "garment": garment, "quality": "fast",
        "category": bundled::SAMPLE_CATEGORY.as_str() });
    let id = api.submit(&body, "one").await.unwrap();
    let render = api.wait_ended(&id).await;
    assert_eq!(render["status"], "succeeded", "{render}");
    let bytes = api.picture(render["artifacts"][0]["id"].as_str().unwrap()).await;
    let (file, stripped) = (scratch.join("result.png"), scratch.join("stripped.jpg"));
    let limits =
        Limits { bytes_max: 1 << 24, side_min: 1, side_max: 4_096, pixels_max: 1 << 24, aspect_max: 8 };
    let picture = decode(&bytes, &limits).unwrap().image;
    fs::write(&file, &bytes).unwrap();
    fs::write(&stripped, encode(&picture, Encoding::Jpeg { quality: 90 }).unwrap()).unwrap();
    let key = scratch.join("api-key");
    fs::write(&key, format!("{api_key}\n")).unwrap();
    Delivered { dev, url, key, render: id, file, stripped }
}

fn verified(arguments: &[&str]) -> Value {
    let mut all = vec!["verify", "--json"];
    all.extend(arguments);
    serde_json::from_str(&stdout_of(&run(all))).unwrap()
}

#[tokio::test]
async fn a_picture_is_verified_here_and_by_asking_whoever_made_it() {
    let scratch = tempfile::tempdir().unwrap();
    let delivered = deliver(scratch.path()).await;
    let (file, stripped) = (arg(&delivered.file), arg(&delivered.stripped));

    let here = verified(&[file]);
    assert_eq!((&here["verdict"], &here["credentials"]["status"]), (&json!("marked"), &json!("valid")));
    assert_eq!((&here["credentials"]["development"], &here["release"]), (&json!(true), &json!("demo-tryon")));
    let authority = scratch.path().join("ca.pem");
    let data = scratch.path().join("data");
    fs::write(&authority, stdout_of(&run(["admin", "--data-dir", arg(&data), "authority"]))).unwrap();
    let trusting = verified(&["--anchors", arg(&authority), file]);
    assert_eq!(trusting["credentials"]["status"], "trusted");

    let asked = verified(&["--url", &delivered.url, stripped]);
    assert_eq!((&asked["verdict"], &asked["credentials"]["source"]), (&json!("kraftr"), &json!("store")));
    assert!(asked["render"].is_null() && asked["created_at"].is_string(), "{asked}");
    let own = verified(&["--url", &delivered.url, "--api-key-file", arg(&delivered.key), stripped]);
    assert_eq!(own["render"], json!(delivered.render));

    let plain = scratch.path().join("plain.png");
    fs::write(&plain, bundled::SAMPLE_PERSON).unwrap();
    let output = run(["verify", arg(&plain)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("does not prove"), "{output:?}");
    let error = failure_of(&run(["verify", "--url", "http://127.0.0.1:1", arg(&plain)]), 1);
    assert!(error.starts_with("error: ") && error.contains("does not answer"), "{error}");
    delivered.dev.terminate();
}

#[tokio::test]
async fn the_page_says_in_a_browser_where_a_picture_comes_from() {
    let scratch = tempfile::tempdir().unwrap();
    let delivered = deliver(scratch.path()).await;
    let browser = Browser::start(scratch.path()).await;
    browser.open(&format!("{}/verify", delivered.url)).await;

    browser.choose("#file", &delivered.file).await;
    browser.reads("#answer h2", "Made by Kraftr").await;
    let words = browser.text("#answer dl").await;
    assert!(words.contains("demo-tryon") && words.contains("development certificate"), "{words}");
    if let Some(path) = option_env!("KRAFTR_TEST_SCREENSHOT") {
        fs::write(path, browser.screenshot().await).unwrap();
    }
    browser.choose("#file", &delivered.stripped).await;
    browser.reads("#answer dl", "read from the original").await;

    // Dropped and pasted, as a file manager and a clipboard would; what is dropped is no picture.
    let carry = "const carrier = new DataTransfer(); carrier.items.add(new File(['words'], 'words.png'));";
    browser
        .run(&format!("{carry} document.dispatchEvent(new DragEvent('drop', {{ dataTransfer: carrier }}));"))
        .await;
    browser.reads("#answer h2", "The file is no picture of a known format").await;
    browser
        .run(&format!(
            "{carry} document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: carrier }}));"
        ))
        .await;
    browser.reads("#answer h2", "The file is no picture of a known format").await;

    // The keyboard reaches the picker, and every picture has words for those who do not see it.
    let seen = "const file = document.getElementById('file'); file.focus(); return [document.activeElement === file, \
        file.labels.length, [...document.images].every((image) => image.alt), document.documentElement.lang];";
    assert_eq!(browser.run(seen).await, json!([true, 1, true, "en"]));
    browser.quit().await;
    delivered.dev.terminate();
}
