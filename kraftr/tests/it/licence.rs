//! Weights that may not be used commercially: neither offered nor loaded until the operator allows it.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::api::Api;
use crate::program::{Dev, Ready, arg, failure_of, run, stdout_of};
use crate::scene::{MODEL, releases};

/// The models on offer.
async fn offered(mut dev: Dev) -> Vec<String> {
    let Ready { url, api_key } = dev.wait_ready();
    let models = Api::new(&url, &api_key.unwrap()).get("/v1/models").await;
    dev.terminate();
    let ids = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
    ids.collect()
}

fn forbid_commerce(folder: &Path) {
    let path = folder.join(format!("{MODEL}.toml"));
    let text = fs::read_to_string(&path).unwrap();
    let forbidden = text.replacen("role = \"weights\"", "role = \"weights\"\nnoncommercial = true", 1);
    assert_ne!(forbidden, text);
    fs::write(path, forbidden).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_forbids_commerce_is_offered_and_loaded_where_that_is_allowed() {
    let place = releases();
    forbid_commerce(place.path());
    let dev = Dev::spawn_with_models(&place.path().join("shop"), place.path(), place.path());
    assert_eq!(offered(dev).await, ["demo-tryon"]);
    let dev = Dev::spawn_allowing_noncommercial(&place.path().join("lab"), place.path(), place.path());
    assert!(offered(dev).await.iter().any(|id| id == MODEL));

    let folder = arg(place.path());
    let bench =
        ["model", "--manifests", folder, "--weights", folder, "bench", MODEL, "--steps", "1", "--json"];
    let said = failure_of(&run(bench), 1);
    assert!(said.contains("allow_noncommercial"), "{said}");
    let allowed = [&bench[..1], &["--allow-noncommercial"][..], &bench[1..]].concat();
    let report: serde_json::Value = serde_json::from_str(&stdout_of(&run(allowed))).unwrap();
    assert_eq!(report["release"], json!(MODEL));
}
