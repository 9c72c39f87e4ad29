//! The network in halves: what a GPU computes in, on a CPU.

use std::path::Path;

use kraftr_imaging::RgbImage;
use kraftr_models::{Device, Inputs, Precision, Registry, Sampling, TryOn, parity};
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, GarmentPhoto};

#[test]
fn halves_are_off_by_their_rounding_and_by_no_more() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for fixture in ["tests/fixtures/tiny-a.json", "demo/golden.json"] {
        for precision in [Precision::F16, Precision::Bf16] {
            let report = parity::check(&crate_folder.join(fixture), &Device::Cpu, Some(precision)).unwrap();
            assert!(report.ok, "{fixture} in {precision}: {:#?}", report.checks);
            // Another precision has run, and not f32 under another name.
            let forward = report.checks.iter().find(|check| check.name == "output.forward").unwrap();
            let roundoff = report.tolerance.forward / 8.0;
            assert!(forward.rel_err > roundoff / 4.0, "{fixture} in {precision}: {forward:?}");
        }
    }
}

/// Text encoder and UNet store halves; what they add up they add up in f32, and the autoencoder is f32 throughout.
#[test]
fn halves_paint_after_descriptions_too() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for fixture in ["sd-one.json", "sd-two.json"] {
        for precision in [Precision::F16, Precision::Bf16] {
            let report = parity::check(&fixtures.join(fixture), &Device::Cpu, Some(precision)).unwrap();
            for check in &report.checks {
                eprintln!("{fixture} in {precision}: {} {:.1e}", check.name, check.rel_err);
            }
            assert!(report.ok, "{fixture} in {precision}: {:#?}", report.checks);
            let off = |name: &str| report.checks.iter().find(|check| check.name == name).unwrap().rel_err;
            let roundoff = report.tolerance.forward / 8.0;
            for name in ["output.text", "output.unet"] {
                assert!(off(name) > roundoff / 4.0, "{fixture} in {precision}: {name} {:.1e}", off(name));
            }
            assert!(off("output.decoded") < 1e-4, "{fixture} in {precision}: {:.1e}", off("output.decoded"));
        }
    }
}

fn painted(registry: &Registry) -> RgbImage {
    let model = registry.load("demo-tryon", &Device::Cpu).unwrap();
    let stripes = |n: u32| RgbImage::from_fn(96, 144, |x, y| [(x * 2) as u8, (y + n) as u8, 90].into());
    let inputs = Inputs::TryOn(TryOn {
        person: stripes(0),
        garment: stripes(60),
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
    });
    let sampling = Sampling { seed: 7, steps: 4, guidance: 1.5, method: Method::default() };
    let mut sample = model.begin(&model.prepare(&inputs).unwrap(), &sampling).unwrap();
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    model.finish(sample).unwrap()
}

#[test]
fn a_release_paints_the_same_picture_in_bf16() {
    let (wide, narrow) =
        (painted(&Registry::bundled()), painted(&Registry::bundled().in_precision(Some(Precision::Bf16))));
    let levels = wide.as_raw().iter().zip(narrow.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = levels.sum::<f64>() / wide.as_raw().len() as f64;
    assert!(mean > 0.0 && mean < 2.0, "{mean} levels apart");
}
