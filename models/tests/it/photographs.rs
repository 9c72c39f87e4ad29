//! Releases that read photographs with networks of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kraftr_models::{Device, Model, ModelError, Registry, RgbImage, Role, Sampling};
use kraftr_protocol::{Category, Digest, GarmentPhoto, Quality};

const HEAD: &str = r#"
title = "A small network that is shown poses"
task = "try-on"
architecture = "fashn-vton"
size = [64, 96]
categories = ["tops"]
price = 1
device_time_ms = 100
licence = "Apache-2.0"
defaults = { guidance = 1.5 }
quality = { fast = { steps = 1 }, balanced = { steps = 2 }, best = { steps = 3 } }
limits = { steps_min = 1, steps_max = 10, samples_max = 4 }
"#;
const CONFIG: &str = "input_shape = [96, 64]\nhidden_size = 96\nn_heads = 2\ndouble_blocks_depth = 1\n\
    single_blocks_depth = 1\npatch_size = 8\naxes_dim = [8, 20, 20]\npatch_mixer_depth = 1\n";

/// A folder of manifests and one of weights.
struct Place {
    manifests: tempfile::TempDir,
    weights: tempfile::TempDir,
    files: String,
    config: String,
}

impl Place {
    /// With random weights of the network.
    fn new() -> Self {
        let (manifests, weights) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = format!(
            "name = 'blind'\n{HEAD}[config]\n{CONFIG}poses = false\n\
             [[files]]\nrole = 'weights'\nname = 'w'\nsha256 = '{}'\nbytes = 1\n",
            Digest::of(b"")
        );
        fs::write(manifests.path().join("blind.toml"), text).unwrap();
        let place = Self { manifests, weights, files: String::new(), config: String::new() };
        let random = place.open().unwrap().init("blind", place.weights.path(), 5, |_, _| ()).unwrap();
        let file = random.file("weights").unwrap();
        let files = file_table("weights", &file.name, file.sha256, file.bytes);
        fs::remove_file(place.manifests.path().join("blind.toml")).unwrap();
        Self { files, ..place }
    }

    fn open(&self) -> Result<Registry, ModelError> {
        Registry::open(Some(self.manifests.path()), Some(self.weights.path()))
    }

    /// Names a file of the fixtures in the manifest, and copies it where `there`.
    fn with(mut self, role: &str, name: &str, there: bool) -> Self {
        let from = fixture(name);
        let bytes = fs::read(&from).unwrap();
        if there {
            fs::copy(&from, self.weights.path().join(name)).unwrap();
        }
        self.files += &file_table(role, name, Digest::of(&bytes), bytes.len() as u64);
        self
    }

    /// Hides what the person wears.
    fn hiding(mut self) -> Self {
        self.config += "segmentation_free = false\n";
        self
    }

    /// Names a small parser with random weights.
    fn with_random_parser(mut self) -> Self {
        let write = |name: &str, text: &str| fs::write(self.manifests.path().join(name), text).unwrap();
        write(
            "painter.toml",
            &include_str!("../fixtures/scene-painter.toml").replace("\"painter\"", "\"painter-random\""),
        );
        write("dresser.toml", include_str!("../fixtures/scene-dresser.toml"));
        let random = self.open().unwrap().init("dresser", self.weights.path(), 3, |_, _| ()).unwrap();
        let parser = random.file("parser").unwrap();
        self.files += &file_table("parser", &parser.name, parser.sha256, parser.bytes);
        self.config = format!("{}parser = {}\n", self.config, random.config["parser"]);
        for name in ["painter.toml", "dresser.toml"] {
            fs::remove_file(self.manifests.path().join(name)).unwrap();
        }
        self
    }

    fn registry(&self, more: &str) -> Result<Registry, ModelError> {
        let text = format!("name = 'seeing'\n{HEAD}[config]\n{CONFIG}{}{}{more}", self.config, self.files);
        fs::write(self.manifests.path().join("seeing.toml"), text).unwrap();
        self.open()
    }
}

fn file_table(role: &str, name: &str, sha256: Digest, bytes: u64) -> String {
    format!("[[files]]\nrole = '{role}'\nname = '{name}'\nsha256 = '{sha256}'\nbytes = {bytes}\n")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
}

fn photograph() -> RgbImage {
    RgbImage::from_fn(80, 120, |x, y| [(x * 3) as u8, (y * 2) as u8, (x ^ y) as u8].into())
}

const DETECTOR: &str = "yolox_l.onnx";
const POSE: &str = "dw-ll_ucoco_384.onnx";
/// Stands for one: whether it is there is all that is looked at.
const PARSER: &str = "outputs.safetensors";

#[test]
fn a_person_is_read_with_the_networks_of_the_release_and_a_flat_garment_without() {
    let place = Place::new().with("detector", DETECTOR, true).with("pose", POSE, true);
    let model = place.registry("").unwrap().load("seeing", &Device::Cpu).unwrap();
    let person = model.read(&photograph(), Role::Person).unwrap();
    let garment = model.read(&photograph(), Role::Garment(GarmentPhoto::FlatLay)).unwrap();
    assert!(person.bytes() > garment.bytes(), "a person has a pose, a flat garment has none");
    model.join(&person, &garment, Category::Tops).unwrap();
    let error = model.read(&photograph(), Role::Garment(GarmentPhoto::Model)).err().unwrap().to_string();
    assert!(
        error.contains("role \"parser\""),
        "somebody wears it, and nothing tells clothes from skin: {error}"
    );
    let swapped = model.join(&garment, &person, Category::Tops).err().unwrap();
    assert!(matches!(swapped, ModelError::Sampling { field: "pictures", .. }), "{swapped}");
}

#[test]
fn what_is_absent_is_said_with_the_way_to_get_it() {
    let place = Place::new().with("detector", DETECTOR, true).with("pose", POSE, false);
    let registry = place.registry("").unwrap();
    assert!(registry.present().all(|manifest| manifest.name != "seeing"), "it is not offered");
    let model = registry.load("seeing", &Device::Cpu).unwrap();
    let error = model.read(&photograph(), Role::Person).err().unwrap().to_string();
    for part in [POSE, place.weights.path().to_str().unwrap(), "kraftr model pull seeing"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    model.read(&photograph(), Role::Garment(GarmentPhoto::FlatLay)).unwrap();
}

#[test]
fn worn_garments_are_taken_where_the_parser_is() {
    let place = || Place::new().with("detector", DETECTOR, true).with("pose", POSE, true);
    for (place, photos) in [
        (place(), vec![GarmentPhoto::FlatLay]),
        (place().with("parser", PARSER, false), vec![GarmentPhoto::FlatLay]),
        (place().with("parser", PARSER, true), vec![GarmentPhoto::FlatLay, GarmentPhoto::Model]),
    ] {
        let registry = place.registry("").unwrap();
        assert!(registry.is_present(registry.get("seeing").unwrap()), "flat garments can be put on");
        assert_eq!(registry.garment_photos(registry.get("seeing").unwrap()), photos);
    }
}

#[test]
fn a_release_that_hides_what_people_wear_needs_its_parser() {
    let place = |present| {
        let place = Place::new().with("detector", DETECTOR, true).with("pose", POSE, true);
        place.with("parser", PARSER, present).hiding()
    };
    let (with, without) = (place(true), place(false));
    let (with, without) = (with.registry("").unwrap(), without.registry("").unwrap());
    let release = |registry: &Registry| Arc::clone(registry.get("seeing").unwrap());
    assert!(with.is_present(&release(&with)));
    assert!(!without.is_present(&release(&without)), "no render of it is possible");
    assert!(without.present().all(|manifest| manifest.name != "seeing"));
    let release = release(&without);
    let needed: Vec<&str> = Registry::needed_to_load(&release).map(|file| file.role.as_str()).collect();
    assert_eq!(needed, ["weights", "detector", "pose", "parser"]);
}

#[test]
fn what_people_wear_is_told_from_them_before_it_is_hidden() {
    let place = || Place::new().with("detector", DETECTOR, true).with("pose", POSE, true);
    let load = |place: &Place| place.registry("").unwrap().load("seeing", &Device::Cpu).unwrap();
    let (plain, hiding) = (place(), place().with_random_parser().hiding());
    let (plain, hiding) = (load(&plain), load(&hiding));
    let bytes = |model: &Model| model.read(&photograph(), Role::Person).unwrap().bytes();
    // The photograph is kept in the size that it is read in, and a class for each of its pixels.
    assert_eq!(bytes(&hiding), bytes(&plain) + 64 * 96 * 4);
    let person = hiding.read(&photograph(), Role::Person).unwrap();
    for photo in GarmentPhoto::ALL {
        let garment = hiding.read(&photograph(), Role::Garment(*photo)).unwrap();
        let prepared = hiding.join(&person, &garment, Category::Tops).unwrap();
        let sampling = Sampling::of(hiding.manifest(), Quality::Fast, 1);
        let mut sample = hiding.begin(&prepared, &sampling).unwrap();
        hiding.step(&mut [&mut sample]).unwrap();
        assert_eq!(hiding.finish(sample).unwrap().dimensions(), (64, 96));
    }
}

#[test]
fn a_manifest_without_the_networks_that_its_poses_need_is_refused() {
    let error = Place::new().with("detector", DETECTOR, true).registry("").err().unwrap().to_string();
    assert!(error.contains("role pose is missing") && error.contains("poses = false"), "{error}");
    assert!(!error.contains("role detector"), "{error}");
}

#[test]
fn a_file_that_is_no_network_is_refused_by_name() {
    let place = Place::new().with("detector", DETECTOR, true).with("pose", "outputs.safetensors", true);
    let error = place.registry("").unwrap().load("seeing", &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("outputs.safetensors"), "{error}");
}

#[test]
fn a_licence_against_commercial_use_is_asked_about_first() {
    let place = Place::new().with("detector", DETECTOR, true).with("pose", POSE, true);
    let registry = place.registry("licence = 'LicenseRef-Research'\nnoncommercial = true\n").unwrap();
    assert!(registry.present().all(|manifest| manifest.name != "seeing"), "it is not offered");
    let error = registry.load("seeing", &Device::Cpu).err().unwrap();
    assert!(matches!(&error, ModelError::Noncommercial { file, .. } if file == POSE), "{error}");
    let said = error.to_string();
    assert!(said.contains("LicenseRef-Research") && said.contains("allow_noncommercial"), "{said}");
    let registry = registry.allowing_noncommercial(true);
    assert!(registry.present().any(|manifest| manifest.name == "seeing"));
    registry.load("seeing", &Device::Cpu).unwrap();
}
