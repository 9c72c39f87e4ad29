//! Stable Diffusion against what diffusers computed with the same random weights.

use std::fs;
use std::path::{Path, PathBuf};

use kraftr_models::{
    Device, GrayImage, Inputs, Kept, Model, ModelError, Precision, Registry, RgbImage, Sample, Sampling,
    TextToImage, parity,
};
use kraftr_protocol::manifest::{Method, Solver};
use kraftr_protocol::{FailureCode, Quality};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.json"))
}

/// Every recorded tensor is ours within tolerance, and these are among them.
#[track_caller]
fn check(name: &str, among: &[&str]) {
    let report = parity::check(&fixture(name), &Device::Cpu, Some(Precision::F32)).unwrap();
    for check in &report.checks {
        eprintln!("{name}: {} {:.1e}", check.name, check.rel_err);
    }
    assert!(report.ok, "{name}: {:#?}", report.checks);
    for wanted in among {
        assert!(report.checks.iter().any(|check| check.name == *wanted), "{name} does not compare {wanted}");
    }
}

const PARTS: [&str; 5] = ["tokens.2", "output.text", "output.unet", "output.encoded", "output.decoded"];

#[test]
fn golden_as_stable_diffusion_one() {
    check("sd-one", &PARTS);
    check("sd-one", &["walks.17.path", "output.sampler.path", "output.sampler.picture"]);
    check("sd-one", &["output.sampler.kept"]);
}

#[test]
fn golden_as_stable_diffusion_two() {
    check("sd-two", &PARTS);
    check("sd-two", &["output.sampler.path", "output.sampler.picture"]);
    check("sd-two", &["output.sampler.kept"]);
}

/// The comparison finds another sampler, another activation and other tokens.
#[test]
fn another_network_is_found_out() {
    let text = std::fs::read_to_string(fixture("sd-one")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("sd-one").with_extension("safetensors"), folder.path().join("sd-one.safetensors"))
        .unwrap();
    let path = folder.path().join("sd-one.json");
    let is_ours = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut fixture = serde_json::from_str(&text).unwrap();
        edit(&mut fixture);
        std::fs::write(&path, fixture.to_string()).unwrap();
        parity::check(&path, &Device::Cpu, Some(Precision::F32)).unwrap().ok
    };
    assert!(is_ours(&|_| ()));
    assert!(!is_ours(&|fixture| fixture["sampling"]["guidance"] = 7.0.into()));
    assert!(!is_ours(&|fixture| fixture["config"]["sampler"]["solver"] = "ddim".into()));
    assert!(!is_ours(&|fixture| fixture["config"]["sampler"]["beta_end"] = 0.0119.into()));
    assert!(!is_ours(&|fixture| fixture["config"]["text_encoder"]["hidden_act"] = "gelu".into()));
    assert!(!is_ours(&|fixture| fixture["config"]["text_encoder"]["pad_token"] = "!".into()));
    assert!(!is_ours(&|fixture| fixture["config"]["unet"]["attention_head_dim"] = 4.into()));
    assert!(!is_ours(&|fixture| fixture["config"]["vae"]["scaling_factor"] = 0.6.into()));
    assert!(!is_ours(&|fixture| fixture["prompts"][2] = "Cafe in the train".into()));
}

/// The architecture with everything small: a release is a manifest here too.
const SMALL: &str = r#"
name = "painter"
title = "A small painter"
task = "text-to-image"
architecture = "stable-diffusion"
size = [64, 48]
price = 1
device_time_ms = 100
licence = "Apache-2.0"
defaults = { guidance = 4 }
quality = { fast = { steps = 1 }, balanced = { steps = 3 }, best = { steps = 4, guidance_interval = [0, 0.5] } }
limits = { steps_min = 1, steps_max = 10, samples_max = 4 }

[config]
text_encoder = { vocab_size = 600, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 1,
                 num_attention_heads = 2, max_position_embeddings = 8 }
unet = { block_out_channels = [8, 16], down_block_types = ["CrossAttnDownBlock2D", "DownBlock2D"],
         layers_per_block = 1, cross_attention_dim = 16, attention_head_dim = 2, norm_num_groups = 4 }
vae = { block_out_channels = [4, 8, 8], layers_per_block = 1, norm_num_groups = 4 }
"#;

/// Names the four files that it is loaded from.
fn manifest() -> String {
    let file = |role: &str| {
        let pin = "0".repeat(64);
        format!("[[files]]\nrole = '{role}'\nname = 'painter-{role}'\nsha256 = '{pin}'\nbytes = 1\n")
    };
    SMALL.to_owned() + &["merges", "text_encoder", "unet", "vae"].map(file).concat()
}

/// The small release with random files, in a folder of its own.
struct Painter {
    folder: TempDir,
}

impl Painter {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("painter.toml"), manifest()).unwrap();
        let painter = Self { folder };
        let random = painter.registry().init("painter", painter.folder.path(), 7, |_, _| ()).unwrap();
        fs::write(painter.folder.path().join("random.toml"), random.to_toml()).unwrap();
        painter
    }

    fn registry(&self) -> Registry {
        Registry::open(Some(self.folder.path()), Some(self.folder.path())).unwrap()
    }

    fn load(&self) -> Model {
        self.registry().load("painter-random", &Device::Cpu).unwrap()
    }
}

fn words(prompt: &str) -> Inputs {
    Inputs::TextToImage(TextToImage { prompt: prompt.to_owned(), kept: None })
}

fn begin(model: &Model, inputs: &Inputs, quality: Quality, seed: u64) -> Sample {
    let prepared = model.prepare(inputs).unwrap();
    model.begin(&prepared, &Sampling::of(model.manifest(), quality, seed)).unwrap()
}

fn to_the_end(model: &Model, mut sample: Sample) -> RgbImage {
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    model.finish(sample).unwrap()
}

#[test]
fn a_manifest_is_all_that_another_configuration_takes() {
    let painter = Painter::new();
    let registry = painter.registry();
    let report = registry.check("painter-random", |_| ()).unwrap();
    assert!(report.ok && report.contracts.len() == 3 && report.files.len() == 4, "{report:?}");
    let sampling = Sampling::of(registry.get("painter").unwrap(), Quality::Best, 0);
    let arithmetic = registry.arithmetic("painter", &sampling).unwrap().unwrap();
    assert_eq!(arithmetic.passes, 6, "two of four nodes lie in the noisier half");

    let model = painter.load();
    let mut sample = begin(&model, &words("a red dress"), Quality::Best, 1);
    assert_eq!(model.preview(&sample).unwrap().dimensions(), (64, 48));
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    assert_eq!(model.evaluations(&sample).unwrap().whole, 6);
    let picture = model.finish(sample).unwrap();
    assert_eq!(picture.dimensions(), (64, 48));
    let levels: std::collections::BTreeSet<u8> = picture.as_raw().iter().copied().collect();
    assert!(levels.len() > 100, "random weights keep activations in range: {} levels", levels.len());
}

/// Samples of any step, description and seed go through the network together.
#[test]
fn a_sample_does_not_notice_its_batch() {
    let painter = Painter::new();
    let model = painter.load();
    let start = || {
        [("a red dress", Quality::Balanced, 1), ("", Quality::Best, 2), ("a red dress", Quality::Balanced, 3)]
            .map(|(prompt, quality, seed)| begin(&model, &words(prompt), quality, seed))
    };
    let alone = start().map(|sample| to_the_end(&model, sample));
    let [mut one, mut two, mut late] = start();
    model.step(&mut [&mut one, &mut two]).unwrap();
    for _ in 0..3 {
        model.step(&mut [&mut late, &mut two, &mut one]).unwrap();
    }
    let among = [one, two, late].map(|sample| model.finish(sample).unwrap());
    for (alone, among) in alone.iter().zip(&among) {
        let apart = alone.as_raw().iter().zip(among.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart <= Some(1), "a value moved by {apart:?} levels");
    }
    assert!(alone[0] != alone[2], "two seeds gave one picture");
    let other = to_the_end(&model, begin(&model, &words("the sea"), Quality::Balanced, 1));
    assert!(alone[0] != other, "two descriptions gave one picture");
}

#[test]
fn what_is_kept_stays_and_the_rest_is_painted_around_it() {
    let painter = Painter::new();
    let model = painter.load();
    let paint = |shade: u8| {
        let kept = Kept {
            picture: RgbImage::from_fn(64, 48, |x, y| [shade, x as u8, 5 * y as u8].into()),
            matte: GrayImage::from_fn(64, 48, |x, _| [if x < 32 { 255 } else { 0 }].into()),
        };
        let inputs =
            Inputs::TextToImage(TextToImage { prompt: "the sea".to_owned(), kept: Some(kept.clone()) });
        let mut sample = begin(&model, &inputs, Quality::Balanced, 5);
        assert_eq!(model.preview(&sample).unwrap().get_pixel(3, 4), kept.picture.get_pixel(3, 4));
        model.step(&mut [&mut sample]).unwrap();
        (kept.picture, to_the_end(&model, sample))
    };
    let (given, painted) = paint(200);
    let (left, right): (Vec<_>, Vec<_>) = given.enumerate_pixels().partition(|(x, ..)| *x < 32);
    assert!(left.iter().all(|(x, y, pixel)| painted.get_pixel(*x, *y) == *pixel));
    let moved = right.iter().filter(|(x, y, pixel)| painted.get_pixel(*x, *y) != *pixel).count();
    assert!(moved * 10 > right.len() * 9, "{moved} of {}", right.len());
    let (_, other) = paint(20);
    assert!(right.iter().any(|(x, y, _)| painted.get_pixel(*x, *y) != other.get_pixel(*x, *y)));
}

#[test]
fn what_a_painter_does_not_accept_is_said() {
    let painter = Painter::new();
    let model = painter.load();
    let kept = |picture: (u32, u32), matte: (u32, u32)| {
        let kept =
            Kept { picture: RgbImage::new(picture.0, picture.1), matte: GrayImage::new(matte.0, matte.1) };
        model.prepare(&Inputs::TextToImage(TextToImage { prompt: String::new(), kept: Some(kept) })).err()
    };
    assert!(kept((64, 48), (64, 48)).is_none());
    for (error, said) in [
        (kept((64, 47), (64, 47)), "the picture to keep has 64 x 47 pixels, painter-random paints 64 x 48"),
        (kept((64, 48), (8, 6)), "the matte to keep has 8 x 6 pixels, painter-random paints 64 x 48"),
    ] {
        let error = error.unwrap();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.failure_code(), FailureCode::InputInvalid);
    }

    let prepared = model.prepare(&words("")).unwrap();
    let sampling = Sampling::of(model.manifest(), Quality::Fast, 0);
    for (method, field) in [
        (Method { solver: Solver::Heun, ..Method::default() }, "solver: must be left out"),
        (Method { cache: 0.1, ..Method::default() }, "cache: must be left out"),
    ] {
        let error = model.begin(&prepared, &Sampling { method, ..sampling }).err().unwrap().to_string();
        assert!(error.starts_with(field), "{error}");
    }

    let person = model.read(&RgbImage::new(9, 9), kraftr_models::Role::Person).err().unwrap();
    assert!(matches!(person, ModelError::WrongInputs { .. }), "{person}");
    let demo = Registry::bundled().load("demo-tryon", &Device::Cpu).unwrap();
    let error = demo.prepare(&words("a red dress")).err().unwrap().to_string();
    assert_eq!(error, "release demo-tryon does try-on; hand it the inputs of that task");
}

#[test]
fn every_mistake_of_a_manifest_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = manifest()
        .replace("balanced = { steps = 3 }", "balanced = { steps = 3, solver = 'ab2', cache = 0.1 }")
        .replace("vocab_size", "vocab_sise")
        .replace("role = 'vae'", "role = 'autoencoder'");
    fs::write(folder.path().join("a.toml"), &text).unwrap();
    let refusal = || Registry::open(Some(folder.path()), None).err().unwrap().to_string();
    for part in [
        "quality.balanced.solver: must be left out: a release of stable-diffusion says config.sampler.solver",
        "quality.balanced.cache: must be left out or 0",
        "config.text_encoder.vocab_sise: there is no such key; did you mean vocab_size?",
    ] {
        assert!(refusal().contains(part), "{part} is not in {}", refusal());
    }
    let text = manifest().replace("role = 'vae'", "role = 'autoencoder'").replace("size = [64", "size = [63");
    fs::write(folder.path().join("a.toml"), text).unwrap();
    assert!(refusal().contains("size: both sides must be multiples of 8"), "{}", refusal());
    let text = manifest().replace("role = 'vae'", "role = 'autoencoder'");
    fs::write(folder.path().join("a.toml"), text).unwrap();
    assert!(refusal().contains("files: one with the role vae is missing"), "{}", refusal());
}

/// Each file that is not there is named, with the folder; one of another kind is found out.
#[test]
fn files_are_missed_by_name() {
    let painter = Painter::new();
    for role in ["merges", "text_encoder", "unet", "vae"] {
        let registry = painter.registry();
        let name = &registry.get("painter-random").unwrap().file(role).unwrap().name;
        let (path, away) = (painter.folder.path().join(name), painter.folder.path().join("away"));
        fs::rename(&path, &away).unwrap();
        let error = registry.load("painter-random", &Device::Cpu).err().unwrap().to_string();
        let folder = painter.folder.path().display();
        assert!(error.contains(&format!("{name} of painter-random is not in {folder}")), "{error}");
        fs::rename(&away, &path).unwrap();
    }
    painter.load();
}
