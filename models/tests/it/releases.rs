//! Manifests and the registry: what is compiled in, what is found, what is refused.

use std::fs;
use std::path::Path;

use kraftr_models::{Device, Golden, Inputs, ModelError, Registry, RgbImage, Sampling, TryOn, bundled};
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, Digest, FailureCode, GarmentPhoto};

const DEMO: &str = include_str!("../../manifests/demo-tryon.toml");

fn inputs(width: u32, height: u32) -> Inputs {
    let picture = RgbImage::from_fn(width, height, |x, y| [x as u8, y as u8, 90].into());
    Inputs::TryOn(TryOn {
        person: picture.clone(),
        garment: picture,
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
    })
}

fn sampling(steps: u32, guidance: f64, seed: u64) -> Sampling {
    Sampling { steps, guidance, seed, method: Method::default() }
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
        let mut sample = model.begin(&prepared, &sampling(1, 1.0, 1)).unwrap();
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
        let mut sample = model.begin(&prepared, &sampling(2, 1.0, seed)).unwrap();
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
        (sampling(0, 1.0, 0), "steps: must be 1 to 100"),
        (sampling(101, 1.0, 0), "steps: must be 1 to 100"),
        (sampling(5, 0.5, 0), "guidance: must be 1 to 20"),
        (sampling(5, f64::NAN, 0), "guidance: must be 1 to 20"),
        (
            Sampling { method: Method { cache: -0.1, ..Method::default() }, ..sampling(5, 1.5, 0) },
            "cache: must be 0 (never) to 1",
        ),
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
    let sampling = sampling(2, 1.0, 0);
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
    let error = Registry::bundled().load("demo-tyron", &Device::Cpu).err().unwrap();
    assert!(error.to_string().ends_with("did you mean demo-tryon?"), "{error}");
    assert_eq!(error.failure_code(), FailureCode::ReleaseUnavailable);
}

#[test]
fn manifests_and_weights_in_folders() {
    let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let second = DEMO.replace("demo-tryon", "second").replace("demo.safetensors", "second.safetensors");
    fs::write(manifests.path().join("demo-tryon.toml"), DEMO).unwrap();
    fs::write(manifests.path().join("second.toml"), &second).unwrap();
    fs::write(manifests.path().join("notes.txt"), "not a manifest").unwrap();
    let registry = Registry::open(Some(manifests.path()), Some(weights.path())).unwrap();
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
fn every_mistake_of_every_manifest_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |texts: &[(&str, &str, &str)]| {
        for (n, (name, from, to)) in texts.iter().enumerate() {
            let text = DEMO.replace("demo-tryon", name);
            assert!(text.contains(from), "{from}");
            fs::write(folder.path().join(format!("{n}.toml")), text.replace(from, to)).unwrap();
        }
        Registry::open(Some(folder.path()), None).err().unwrap().to_string()
    };
    let said = refusal(&[
        ("a", "architecture = \"fashn-vton\"", "architecture = \"fashn-vtn\""),
        ("b", "theta = 10000", "thetta = 10000\nhead = 3"),
        ("c", "size = [96, 144]", "size = [144, 96]"),
        ("d", "n_heads = 4", "n_heads = \"four\""),
        ("e", "price = 1", "prise = 1"),
        ("demo-tryon", "price = 1", "price = 2"),
        ("g", "task = \"try-on\"", "task = \"noop\""),
        ("h", "role = \"weights\"", "role = \"wheights\""),
    ]);
    for part in [
        "architecture: there is no fashn-vtn; did you mean fashn-vton?",
        "config.thetta: there is no such key; did you mean theta?",
        "config.head: there is no such key; there are axes_dim, ",
        "size: must be input_shape turned round",
        "config.n_heads: invalid type",
        "prise: there is no such key; did you mean price?",
        "price: is missing",
        "name: another release is named demo-tryon",
        "task: fashn-vton is for try-on, not for noop",
        "files: one with the role weights is missing",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!((0..8).all(|n| said.contains(&format!("/{n}.toml: "))), "{said}");
}

/// A new checkpoint of a known architecture: a manifest, and no code.
const SMALL: &str = r#"
name = "small"
title = "A small network"
task = "try-on"
architecture = "fashn-vton"
size = [64, 96]
categories = ["tops"]
price = 1
device_time_ms = 100
licence = "Apache-2.0"
config = { input_shape = [96, 64], hidden_size = 96, n_heads = 2, double_blocks_depth = 1, single_blocks_depth = 1,
           patch_size = 8, axes_dim = [8, 20, 20], patch_mixer_depth = 1, poses = false }
defaults = { guidance = 1.5 }
quality = { fast = { steps = 1 }, balanced = { steps = 2 }, best = { steps = 3 } }
limits = { steps_min = 1, steps_max = 10, samples_max = 4 }

[[files]]
role = "weights"
name = "small.safetensors"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 1
"#;

#[test]
fn a_manifest_is_all_that_another_configuration_takes() {
    let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(manifests.path().join("small.toml"), SMALL).unwrap();
    let open = || Registry::open(Some(manifests.path()), Some(weights.path())).unwrap();
    let (mut done, mut all) = (0, 0);
    let random =
        open().init("small", weights.path(), 7, |bytes, of| (done, all) = (done + bytes, of)).unwrap();
    assert!(done > 0 && done < all && all - done < 10_000, "{done} of {all}: the rest is the header");
    fs::write(manifests.path().join("random.toml"), random.to_toml()).unwrap();

    let registry = open();
    assert_eq!(names(registry.present()), ["demo-tryon", "noop", "small-random"]);
    let report = registry.check("small-random", |_| ()).unwrap();
    assert!(report.ok && report.contracts[0].ok && report.contracts[0].tensors > 40, "{report:?}");
    assert!(!registry.check("small", |_| ()).unwrap().ok);

    let model = registry.load("small-random", &Device::Cpu).unwrap();
    let prepared = model.prepare(&inputs(200, 300)).unwrap();
    let mut sample = model.begin(&prepared, &sampling(2, 1.5, 3)).unwrap();
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    let picture = model.finish(sample).unwrap();
    assert_eq!(picture.dimensions(), (64, 96));
    let levels: std::collections::BTreeSet<u8> = picture.as_raw().iter().copied().collect();
    assert!(levels.len() > 100, "random weights keep activations in range: {} levels", levels.len());
}

#[test]
fn the_example_is_the_published_network() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/examples");
    let registry = Registry::open(Some(&examples), None).unwrap();
    let arithmetic = registry.arithmetic("fashn-vton-1.5", &sampling(30, 1.5, 0)).unwrap().unwrap();
    assert!((arithmetic.image_flops() / 1e12 - 779.0).abs() < 1.0);
}

/// Scenes are two things to uncomment, and a second example.
#[test]
fn the_example_takes_scenes_where_it_is_told_to() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/examples");
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, change: &dyn Fn(&str) -> String| {
        let text = fs::read_to_string(examples.join(name)).unwrap();
        let lines: Vec<String> = text.lines().map(change).collect();
        fs::write(folder.path().join(name), lines.join("\n")).unwrap();
    };
    put("stable-diffusion-1.5.toml", &str::to_owned);
    put("fashn-vton-1.5.toml", &|line| {
        let switched_off = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        switched_off.unwrap_or(line).to_owned()
    });
    let registry = Registry::open(Some(folder.path()), Some(folder.path())).unwrap();
    let manifest = registry.get("fashn-vton-1.5").unwrap();
    let error = registry.painter(manifest).err().unwrap().to_string();
    assert!(error.contains("fashn-human-parser.safetensors"), "{error}");
    assert!(matches!(registry.permit(manifest), Err(ModelError::Noncommercial { .. })));
}

#[test]
fn a_check_finds_what_is_wrong_with_files_tensors_and_outputs() {
    let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let demo =
        |name: &str| fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/").to_owned() + name).unwrap();
    let file = |role: &str, name: &str, bytes: &[u8]| {
        fs::write(weights.path().join(name), bytes).unwrap();
        let (sha256, length) = (Digest::of(bytes), bytes.len());
        format!("[[files]]\nrole = '{role}'\nname = '{name}'\nsha256 = '{sha256}'\nbytes = {length}\n")
    };
    let (head, _) = DEMO.split_once("[[files]]").unwrap();
    let tail = "\n[defaults]\nguidance = 1.5\n[quality.fast]\nsteps = 1\n\
                [quality.balanced]\nsteps = 2\n[quality.best]\nsteps = 3\n\
                [limits]\nsteps_min = 1\nsteps_max = 9\nsamples_max = 4\n";
    let golden = String::from_utf8(demo("golden.json")).unwrap();
    let check = |golden: &str, tensors: &[u8]| {
        let files = [
            file("weights", "demo.safetensors", &demo("demo.safetensors")),
            file("golden", "golden.json", golden.as_bytes()),
            file("golden-tensors", "golden.safetensors", tensors),
        ];
        let text = head.replace("demo-tryon", "proven") + tail + &files.concat();
        fs::write(manifests.path().join("m.toml"), text).unwrap();
        let registry = Registry::open(Some(manifests.path()), Some(weights.path())).unwrap();
        registry.check("proven", |_| ()).unwrap()
    };
    let mut tensors = demo("golden.safetensors");
    let report = check(&golden, &tensors);
    let Golden::Compared(parity) = &report.golden else { panic!("{report:?}") };
    assert!(report.ok && parity.ok && parity.checks.len() > 5, "{report:?}");

    // The last number recorded is another one.
    let last = tensors.len() - 2;
    tensors[last] ^= 0xff;
    assert!(!check(&golden, &tensors).ok);
    tensors[last] ^= 0xff;
    let report = check(&golden.replace("demo.safetensors", "other.safetensors"), &tensors);
    assert!(
        matches!(&report.golden, Golden::NotCompared { why } if why.contains("other weights")),
        "{report:?}"
    );

    check(&golden, &tensors);
    fs::write(weights.path().join("golden.safetensors"), b"short").unwrap();
    let registry = Registry::open(Some(manifests.path()), Some(weights.path())).unwrap();
    let report = registry.check("proven", |_| ()).unwrap();
    assert!(!report.ok && report.contracts[0].ok, "{report:?}");
    fs::remove_file(weights.path().join("golden.safetensors")).unwrap();
    let report = registry.check("proven", |_| ()).unwrap();
    assert!(report.ok, "what proves the release is not needed to load it: {report:?}");
    assert_eq!(registry.present().count(), 3);
}

/// The network that finds people is proven like the others, whether scenes ask for it or people in photographs.
#[test]
fn a_check_looks_into_the_parser_too() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let open = || Registry::open(Some(folder.path()), Some(folder.path())).unwrap();
    write("painter.toml", include_str!("../fixtures/scene-painter.toml"));
    write(
        "painter-random.toml",
        open().init("painter", folder.path(), 3, |_, _| ()).unwrap().to_toml().as_str(),
    );
    write("dresser.toml", include_str!("../fixtures/scene-dresser.toml"));
    let random = open().init("dresser", folder.path(), 3, |_, _| ()).unwrap();
    let parser = |change: &dyn Fn(&mut kraftr_protocol::ReleaseManifest)| {
        let mut manifest = random.clone();
        change(&mut manifest);
        write("random.toml", &manifest.to_toml());
        let report = open().check("dresser-random", |_| ()).unwrap();
        let parser = report.contracts.iter().find(|contract| contract.role == "parser").unwrap();
        assert_eq!(report.ok, parser.ok, "{report:?}");
        (parser.ok, parser.mismatch.as_ref().map(ToString::to_string).unwrap_or_default())
    };
    assert!(parser(&|_| ()).0);
    assert!(parser(&|manifest| manifest.scene = None).0, "people in photographs need it");
    let (ok, said) = parser(&|manifest| {
        manifest.scene = None;
        manifest.config["parser"]["decoder"] = 9.into();
    });
    assert!(!ok && said.contains("decode_head"), "{said}");

    fs::remove_file(folder.path().join("dresser-random-parser.safetensors")).unwrap();
    write("random.toml", &random.to_toml());
    let report = open().check("dresser-random", |_| ()).unwrap();
    let said = report.files.iter().find(|file| file.role == "parser").unwrap().problem.as_deref();
    assert_eq!(
        (report.ok, said),
        (true, Some("is not on this machine")),
        "renders without scenes do without it"
    );
}

#[test]
fn a_file_that_is_no_safetensors_file_is_refused_by_name() {
    let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = b"<html>login first</html>";
    let text = SMALL.replace("bytes = 1\n", &format!("bytes = {}\n", bytes.len()));
    let text = text.replace(&"0".repeat(64), &Digest::of(bytes).to_string());
    fs::write(manifests.path().join("m.toml"), text).unwrap();
    fs::write(weights.path().join("small.safetensors"), bytes).unwrap();
    let registry = Registry::open(Some(manifests.path()), Some(weights.path())).unwrap();
    let error = registry.load("small", &Device::Cpu).err().unwrap();
    assert!(error.to_string().contains("small.safetensors is no safetensors file"), "{error}");
    assert_eq!(error.failure_code(), FailureCode::ReleaseUnavailable);
}
