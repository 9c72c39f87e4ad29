//! Manifests and the registry: what is compiled in, what is found, what is refused.

use std::fs;

use kraftr_models::{Device, Inputs, ModelError, Registry, RgbImage, Sampling, bundled};
use kraftr_protocol::{Category, Digest, FailureCode, GarmentPhoto};

const DEMO: &str = include_str!("../../manifests/demo-tryon.toml");

fn inputs(width: u32, height: u32) -> Inputs {
    let picture = RgbImage::from_fn(width, height, |x, y| [x as u8, y as u8, 90].into());
    Inputs {
        person: picture.clone(),
        garment: picture,
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
    }
}

fn names<'a>(manifests: impl Iterator<Item = &'a kraftr_protocol::ReleaseManifest>) -> Vec<&'a str> {
    manifests.map(|manifest| manifest.name.as_str()).collect()
}

#[test]
fn the_compiled_in_releases_are_complete() {
    let registry = Registry::bundled();
    assert_eq!(names(registry.manifests()), [bundled::DEMO_RELEASE, "noop"]);
    assert_eq!(names(registry.present()), [bundled::DEMO_RELEASE, "noop"]);
    let weights = registry.manifests().next().unwrap().file("weights").unwrap();
    let shipped = include_bytes!("../../demo/demo.safetensors");
    assert_eq!(weights.sha256, Digest::of(shipped));
    assert_eq!(weights.bytes, shipped.len() as u64);
}

#[test]
fn the_demo_gives_back_the_persons_shape_four_times_as_large_as_painted() {
    let model = Registry::bundled().load(bundled::DEMO_RELEASE, &Device::Cpu).unwrap();
    for (asked, given) in [((480, 720), (384, 576)), ((200, 200), (384, 384)), ((30, 100), (172, 576))] {
        let prepared = model.prepare(&inputs(asked.0, asked.1)).unwrap();
        let mut sample = model.begin(&prepared, &Sampling { steps: 1, guidance: 1.0, seed: 1 }).unwrap();
        assert_eq!(model.preview(&sample).unwrap().dimensions(), (given.0 / 4, given.1 / 4));
        model.step(&mut [&mut sample]).unwrap();
        assert_eq!(model.finish(sample).unwrap().dimensions(), given);
    }
}

#[test]
fn the_empty_model_paints_grain_from_its_seed() {
    let model = Registry::bundled().load("noop", &Device::Cpu).unwrap();
    let prepared = model.prepare(&inputs(5, 9)).unwrap();
    let paint = |seed| {
        let mut sample = model.begin(&prepared, &Sampling { steps: 2, guidance: 1.0, seed }).unwrap();
        model.step(&mut [&mut sample]).unwrap();
        model.step(&mut [&mut sample]).unwrap();
        model.finish(sample).unwrap()
    };
    let picture = paint(1);
    assert_eq!(picture.dimensions(), (256, 384));
    assert!(picture.as_raw() == paint(1).as_raw() && picture.as_raw() != paint(2).as_raw());
}

#[test]
fn what_a_release_does_not_accept_is_said() {
    let model = Registry::bundled().load(bundled::DEMO_RELEASE, &Device::Cpu).unwrap();
    let prepared = model.prepare(&inputs(96, 144)).unwrap();
    for (sampling, said) in [
        (Sampling { steps: 0, guidance: 1.0, seed: 0 }, "steps: must be 1 to 100"),
        (Sampling { steps: 101, guidance: 1.0, seed: 0 }, "steps: must be 1 to 100"),
        (Sampling { steps: 5, guidance: 0.5, seed: 0 }, "guidance: must be 1 to 20"),
        (Sampling { steps: 5, guidance: f64::NAN, seed: 0 }, "guidance: must be 1 to 20"),
    ] {
        let error = model.begin(&prepared, &sampling).err().unwrap();
        assert_eq!(error.to_string(), said);
    }
    let error = model.prepare(&inputs(0, 0)).err().unwrap();
    assert_eq!(error.failure_code(), FailureCode::InputInvalid, "{error}");
}

#[test]
fn an_unfinished_sample_and_a_strangers_sample_are_refused() {
    let registry = Registry::bundled();
    let demo = registry.load(bundled::DEMO_RELEASE, &Device::Cpu).unwrap();
    let noop = registry.load("noop", &Device::Cpu).unwrap();
    let sampling = Sampling { steps: 2, guidance: 1.0, seed: 0 };
    let prepared = noop.prepare(&inputs(4, 6)).unwrap();
    assert!(matches!(demo.begin(&prepared, &sampling), Err(ModelError::ForeignState { .. })));
    let mut sample = noop.begin(&prepared, &sampling).unwrap();
    assert!(matches!(demo.step(&mut [&mut sample]), Err(ModelError::ForeignState { .. })));
    assert_eq!(sample.step(), 0);
    let error = noop.finish(sample).err().unwrap();
    assert_eq!(error.to_string(), "steps: 0 of 2 steps are taken");
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let error = Registry::bundled().load("best-tryon", &Device::Cpu).err().unwrap();
    assert_eq!(error.to_string(), "no release is named \"best-tryon\"; known are: demo-tryon, noop");
    assert_eq!(error.failure_code(), FailureCode::ReleaseUnavailable);
}

#[test]
fn manifests_and_weights_in_folders() {
    let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let second = DEMO.replace("demo-tryon", "second").replace("demo.safetensors", "second.safetensors");
    fs::write(manifests.path().join("demo-tryon.toml"), DEMO).unwrap();
    fs::write(manifests.path().join("second.toml"), &second).unwrap();
    fs::write(manifests.path().join("notes.txt"), "not a manifest").unwrap();
    let registry = Registry::open(manifests.path(), weights.path()).unwrap();
    assert_eq!(names(registry.manifests()), ["demo-tryon", "noop", "second"]);
    assert_eq!(names(registry.present()), ["demo-tryon", "noop"]);
    let error = registry.load("second", &Device::Cpu).err().unwrap();
    assert!(
        matches!(&error, ModelError::WeightsMissing { file, .. } if file == "second.safetensors"),
        "{error}"
    );

    let file = weights.path().join("second.safetensors");
    let mut bytes = include_bytes!("../../demo/demo.safetensors").to_vec();
    fs::write(&file, &bytes).unwrap();
    assert_eq!(names(registry.present()), ["demo-tryon", "noop", "second"]);
    registry.load("second", &Device::Cpu).unwrap();

    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = registry.load("second", &Device::Cpu).err().unwrap();
    assert!(
        matches!(&error, ModelError::WeightsChanged { expected, .. } if expected.starts_with("sha256")),
        "{error}"
    );
    bytes.pop();
    fs::write(&file, &bytes).unwrap();
    assert_eq!(names(registry.present()), ["demo-tryon", "noop"]);
    let error = registry.load("second", &Device::Cpu).err().unwrap();
    assert!(
        matches!(&error, ModelError::WeightsChanged { expected, .. } if expected.ends_with("bytes")),
        "{error}"
    );
}

#[test]
fn manifests_that_do_not_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |text: &str| {
        fs::write(folder.path().join("m.toml"), text).unwrap();
        Registry::open(folder.path(), folder.path())
    };
    assert!(matches!(open("name = 3").err().unwrap(), ModelError::Manifest(_)));
    let dearer = open(&DEMO.replace("price = 1", "price = 2")).err().unwrap();
    assert!(matches!(dearer, ModelError::DuplicateRelease { .. }), "{dearer}");
    let other = DEMO.replace("demo-tryon", "other");
    let load = |text: String| open(&text).unwrap().load("other", &Device::Cpu).err().unwrap().to_string();
    let said = load(other.replace("architecture = \"fashn-vton\"", "architecture = \"vton\""));
    assert!(said.ends_with("known are: fashn-vton, noop"), "{said}");
    let said = load(other.replace("theta = 10000", "thetta = 10000"));
    assert!(said.contains("thetta"), "{said}");
    let said = load(other.replace("size = [96, 144]", "size = [144, 96]"));
    assert!(said.contains("size must be input_shape turned round"), "{said}");
}
