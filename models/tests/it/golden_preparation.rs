//! The way from photographs to conditions, against what the reference made of them.

use std::fs;
use std::path::{Path, PathBuf};

use kraftr_models::parity::preparation::{self, PreparationReport};

fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preprocess/manifest.json")
}

#[expect(clippy::disallowed_methods, reason = "whoever has more fixtures names their folder")]
fn manifests() -> Vec<PathBuf> {
    let theirs = std::env::var("KRAFTR_FIXTURES").ok();
    let theirs = theirs.map(|folder| Path::new(&folder).join("preprocess/manifest.json"));
    // A folder may have fixtures of the network alone.
    [Some(ours()), theirs.filter(|manifest| manifest.is_file())].into_iter().flatten().collect()
}

#[test]
fn every_recorded_picture_and_number_is_ours_within_tolerance() {
    for manifest in manifests() {
        let PreparationReport { checks, ok } = preparation::check(&manifest).unwrap();
        let wrong: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
        assert!(ok && wrong.is_empty(), "{}: {wrong:#?}", manifest.display());
        assert!(!checks.is_empty(), "{} lists nothing", manifest.display());
        let worst = |a: f64, b: f64| a.min(b);
        let right = checks.iter().map(|check| check.right).fold(1.0, worst);
        eprintln!("{} results, right in {:.2} % of the values at least", checks.len(), 100.0 * right);
    }
}

fn broken(edit: impl Fn(&mut serde_json::Value)) -> PreparationReport {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(ours().parent().unwrap()).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    let manifest = folder.path().join("manifest.json");
    let mut cases = serde_json::from_str(&fs::read_to_string(&manifest).unwrap()).unwrap();
    edit(&mut cases);
    fs::write(&manifest, cases.to_string()).unwrap();
    preparation::check(&manifest).unwrap()
}

#[test]
fn what_is_not_the_references_is_found_out() {
    assert!(broken(|_| ()).ok);
    assert!(!broken(|cases| cases["poses"][0]["candidate"][4][0] = 0.9.into()).ok);
    assert!(!broken(|cases| cases["resize_pad"][0]["padding_left_top_right_bottom"][0] = 4.into()).ok);
    assert!(!broken(|cases| cases["resize_pad"][1]["pre_resize_fit_box"] = 140.into()).ok);
    assert!(!broken(|cases| cases["agnostic"][0]["category"] = "bottoms".into()).ok);
    assert!(!broken(|cases| cases["person"]["detector_ratio"] = 3.3.into()).ok);
    assert!(!broken(|cases| cases["schedules"][3]["mu"] = 0.8.into()).ok);
}
