//! Renders whose people are put in front of a scene, with two small networks.

use std::fs;
use std::path::Path;

use kraftr_models::{Device, Inputs, Model, Registry, RgbImage, Sample, Sampling, TextToImage, TryOn};
use kraftr_protocol::{Category, Class, GarmentPhoto, Quality};

use super::tests::{heard, out_of_memory, outcome, run};
use super::*;
use crate::engine::command::{Running, Scene};

const DRESSER: &str = "dresser-random";
const PAINTER: &str = "painter-random";
const DRESSING: u32 = 2;
const PAINTING: u32 = 3;

/// An engine with a release that takes scenes and the one that paints them.
fn engine(folder: &Path, max_batch: usize, preview_every: u32) -> Engine {
    for (name, manifest) in [
        ("painter", include_str!("../../../../models/tests/fixtures/scene-painter.toml")),
        ("dresser", include_str!("../../../../models/tests/fixtures/scene-dresser.toml")),
    ] {
        fs::write(folder.join(format!("{name}.toml")), manifest).unwrap();
        let random = open(folder).init(name, folder, 3, |_, _| ()).unwrap();
        fs::write(folder.join(format!("{}.toml", random.name)), random.to_toml()).unwrap();
    }
    let residency = Residency::new(Arc::new(open(folder)), Device::Cpu);
    residency.load(DRESSER).unwrap();
    residency.load(PAINTER).unwrap();
    let settings = EngineSettings { max_batch, preview_every, commands: 1 };
    Engine::new(mpsc::channel(1).1, Arc::new(residency), settings)
}

fn open(folder: &Path) -> Registry {
    Registry::open(Some(folder), Some(folder)).unwrap()
}

fn inputs() -> Inputs {
    let picture = |red: u8| RgbImage::from_fn(64, 96, |x, y| [red, (x * 4) as u8, (y * 2) as u8].into());
    Inputs::TryOn(TryOn {
        person: picture(200),
        garment: picture(20),
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
    })
}

fn samplings(model: &Model, seeds: &[u64]) -> Vec<Sampling> {
    seeds.iter().map(|&seed| Sampling::of(model.manifest(), Quality::Balanced, seed)).collect()
}

/// Puts a render into the engine, with a scene or without.
fn put(engine: &mut Engine, seeds: &[u64], scene: Option<&str>) -> Running {
    let model = engine.residency.get(DRESSER).unwrap();
    let scene = scene.map(|words| {
        let painter = engine.residency.get(PAINTER).unwrap();
        Scene {
            release: PAINTER.to_owned(),
            description: painter.describe(words).unwrap(),
            samplings: samplings(&painter, seeds),
        }
    });
    let prepared = model.prepare(&inputs()).unwrap();
    let samplings = samplings(&model, seeds);
    let (line, running) = Running::line();
    engine.begin(Begin {
        release: DRESSER.to_owned(),
        class: Class::Batch,
        prepared,
        samplings,
        scene,
        line,
    });
    running
}

fn pictures(running: &mut Running) -> Vec<RgbImage> {
    match outcome(running) {
        Outcome::Done { pictures, .. } => pictures,
        _ => panic!("not done"),
    }
}

fn to_the_end(model: &Model, mut sample: Sample) -> RgbImage {
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    model.finish(sample).unwrap()
}

#[test]
fn the_subject_is_the_try_ons_and_what_is_around_it_the_painters() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 4, 0);
    let mut plain = put(&mut engine, &[7], None);
    let mut placed = put(&mut engine, &[7], Some("a beach at noon"));
    run(&mut engine);
    let (plain, placed) = (pictures(&mut plain).remove(0), pictures(&mut placed).remove(0));

    let dresser = engine.residency.get(DRESSER).unwrap();
    let painter = engine.residency.get(PAINTER).unwrap();
    let prepared = dresser.prepare(&inputs()).unwrap();
    let alone = to_the_end(&dresser, dresser.begin(&prepared, &samplings(&dresser, &[7])[0]).unwrap());
    assert!(plain == alone, "a render without a scene is what the model makes of it");

    let subject = dresser.subject(alone).unwrap();
    let kept = Some(subject.framed(painter.manifest().size).unwrap());
    let told = TextToImage { prompt: "a beach at noon".to_owned(), kept };
    let prepared = painter.prepare(&Inputs::TextToImage(told)).unwrap();
    let scene = to_the_end(&painter, painter.begin(&prepared, &samplings(&painter, &[7])[0]).unwrap());
    let scene = subject.compose(&scene).unwrap();

    let (mut inside, mut outside, mut changed) = (0, 0, 0);
    for (x, y, pixel) in placed.enumerate_pixels() {
        match subject.matte().get_pixel(x, y).0[0] {
            255 => {
                inside += 1;
                assert_eq!(pixel, plain.get_pixel(x, y), "the subject at {x} {y}");
            }
            0 => {
                outside += 1;
                changed += u32::from(pixel != plain.get_pixel(x, y));
                let apart = pixel.0.iter().zip(scene.get_pixel(x, y).0).map(|(a, b)| a.abs_diff(b)).max();
                assert!(apart <= Some(1), "the scene at {x} {y}: {apart:?}");
            }
            _ => {}
        }
    }
    let all = placed.width() * placed.height();
    assert!(inside > all / 20 && outside > all / 20, "{inside} inside, {outside} outside of {all}");
    assert!(changed > outside * 9 / 10, "{changed} of {outside} pixels are another background");
}

#[test]
fn steps_and_previews_count_on_from_the_try_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 4, 2);
    let mut running = put(&mut engine, &[1], Some("a street"));
    run(&mut engine);
    let (reports, outcome) = heard(&mut running);
    assert_eq!(reports, ["s1", "s2", "p0@2", "s3", "s4", "p0@4", "s5"]);
    assert_eq!(5, DRESSING + PAINTING);
    assert!(matches!(outcome, Some(Outcome::Done { pictures, .. }) if pictures.len() == 1));
}

#[test]
fn scenes_of_several_renders_are_painted_in_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 4, 0);
    let mut one = put(&mut engine, &[1, 2], Some("a beach"));
    let mut two = put(&mut engine, &[3], Some("a forest"));
    let mut turns = 0;
    while !engine.slots.is_empty() {
        engine.turn();
        turns += 1;
    }
    assert_eq!(turns, DRESSING + PAINTING, "all three go together through both networks");
    let (one, two) = (pictures(&mut one), pictures(&mut two));
    assert_eq!((one.len(), two.len()), (2, 1));
    let mut alone = put(&mut engine, &[2], Some("a beach"));
    run(&mut engine);
    let alone = pictures(&mut alone).remove(0);
    let apart = |a: &RgbImage, b: &RgbImage| {
        a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
    };
    assert!(apart(&alone, &one[1]) < 1.0, "company moves no pixel to speak of");
    assert!(apart(&alone, &one[0]) > 1.0, "seeds differ");
}

#[test]
fn a_render_that_nobody_waits_for_leaves_while_its_scene_is_painted() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 4, 0);
    let mut running = put(&mut engine, &[1], Some("a beach"));
    for _ in 0..=DRESSING {
        engine.turn();
    }
    assert_eq!(heard(&mut running).0, ["s1", "s2", "s3"]);
    drop(running);
    engine.turn();
    assert!(engine.slots.is_empty());
}

#[test]
fn out_of_memory_in_front_of_a_scene_makes_its_batches_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 4, 0);
    let mut running = put(&mut engine, &[1, 2], Some("a beach"));
    for _ in 0..DRESSING {
        engine.turn();
    }
    engine.account(PAINTER, &[0, 0], Duration::ZERO, Err(out_of_memory()));
    assert_eq!(engine.room.get(PAINTER), Some(&1));
    run(&mut engine);
    assert_eq!(pictures(&mut running).len(), 2);
    assert!(engine.room.is_empty());

    let mut alone = put(&mut engine, &[1], Some("a beach"));
    engine.account(PAINTER, &[0], Duration::ZERO, Err(out_of_memory()));
    let Outcome::Failed(failure) = outcome(&mut alone) else { panic!("not failed") };
    assert_eq!(failure.code, FailureCode::OutOfMemory);
}

#[test]
fn a_painter_that_crashes_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path(), 1, 0);
    let mut hit = put(&mut engine, &[1], Some("a beach"));
    let mut spared = put(&mut engine, &[2], None);
    let models = [PAINTER, DRESSER].map(|release| engine.residency.get(release).unwrap());
    engine.account(PAINTER, &[0], Duration::ZERO, Err(Fault::Crashed));
    assert!(matches!(outcome(&mut hit), Outcome::Crashed));
    assert!(!Arc::ptr_eq(&models[0], &engine.residency.get(PAINTER).unwrap()));
    assert!(Arc::ptr_eq(&models[1], &engine.residency.get(DRESSER).unwrap()));
    run(&mut engine);
    assert_eq!(pictures(&mut spared).len(), 1);
}
