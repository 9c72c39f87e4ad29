//! Every fixture, and the shipped weights, against what the reference computed.

use std::fs;
use std::path::{Path, PathBuf};

use kraftr_models::{Device, ModelError, Precision, parity};

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::disallowed_methods, reason = "whoever has more fixtures names their folder")]
fn fixtures() -> Vec<PathBuf> {
    let folder = std::env::var("KRAFTR_FIXTURES")
        .map_or_else(|_| crate_folder().join("tests/fixtures"), PathBuf::from);
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| fs::read_to_string(path).unwrap().contains("\"fashn-vton\""))
        .collect();
    assert!(!found.is_empty(), "no fixture in {}", folder.display());
    found.push(crate_folder().join("demo/golden.json"));
    found
}

#[test]
fn every_recorded_tensor_is_ours_within_tolerance() {
    for fixture in fixtures() {
        let report = parity::check(&fixture, &Device::Cpu, Some(Precision::F32)).unwrap();
        let worst = |sampler: bool| {
            let of_kind =
                report.checks.iter().filter(|check| check.name.starts_with("output.sampler.") == sampler);
            of_kind.map(|check| check.rel_err).fold(0.0, f64::max)
        };
        let name = fixture.file_name().unwrap().display();
        assert!(report.ok, "{name}: {:#?}", report.checks);
        assert!(report.checks.len() >= 8, "{name} compares only {} tensors", report.checks.len());
        eprintln!(
            "{name}: {} tensors, forward {:.1e}, sampler {:.1e}",
            report.checks.len(),
            worst(false),
            worst(true)
        );
    }
}

fn broken(edit: impl Fn(&mut serde_json::Value)) -> Result<parity::Report, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let from = crate_folder().join("tests/fixtures");
    fs::copy(from.join("tiny-a.safetensors"), folder.path().join("tiny-a.safetensors")).unwrap();
    let mut fixture = serde_json::from_str(&fs::read_to_string(from.join("tiny-a.json")).unwrap()).unwrap();
    edit(&mut fixture);
    let path = folder.path().join("tiny-a.json");
    fs::write(&path, fixture.to_string()).unwrap();
    parity::check(&path, &Device::Cpu, Some(Precision::F32))
}

#[test]
fn another_sampler_is_found_out() {
    assert!(broken(|_| ()).unwrap().ok);
    assert!(!broken(|fixture| fixture["sampler"]["guidance"] = 1.6.into()).unwrap().ok);
    assert!(!broken(|fixture| fixture["sampler"]["time_shift_mu"] = 1.4.into()).unwrap().ok);
    assert!(!broken(|fixture| fixture["sampler"]["skip_guidance_last"] = 0.into()).unwrap().ok);
    assert!(!broken(|fixture| fixture["config"]["theta"] = 9_000.into()).unwrap().ok);
}

#[test]
fn a_distilled_network_is_refused() {
    let error = broken(|fixture| fixture["config"]["guidance_embed"] = true.into()).unwrap_err();
    assert!(error.to_string().contains("guidance_embed is not supported"), "{error}");
}

#[test]
fn a_file_for_another_configuration_is_reported_tensor_by_tensor() {
    let error = broken(|fixture| {
        fixture["config"]["single_blocks_depth"] = 3.into();
        fixture["config"]["n_classes"] = 5.into();
        fixture["config"]["qkv_bias"] = false.into();
    })
    .unwrap_err();
    let ModelError::Contract { mismatch, .. } = error else { panic!("{error}") };
    assert_eq!(mismatch.missing.len(), 8, "{:?}", mismatch.missing);
    assert!(mismatch.missing.iter().all(|name| name.starts_with("single_blocks.2.")));
    assert_eq!(mismatch.surplus.len(), 4, "{:?}", mismatch.surplus);
    assert!(mismatch.surplus.iter().all(|name| name.ends_with("_attn.qkv.bias")));
    assert_eq!(mismatch.misshaped.len(), 1);
    assert_eq!(mismatch.misshaped[0].name, "y_embedder.weight");
    assert_eq!(mismatch.misshaped[0].found, [4, 64]);
    assert_eq!(mismatch.misshaped[0].expected, [6, 64]);
}
