//! The loop with models that cost next to nothing.

use kraftr_models::{Device, Inputs, Registry, RgbImage, Sampling, TryOn};
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, Class, GarmentPhoto};

use super::*;
use crate::engine::command::{Heard, Report, Running};

const NOOP: &str = "noop";

fn engine(max_batch: usize, preview_every: u32) -> Engine {
    let residency = Residency::new(Arc::new(Registry::bundled()), Device::Cpu);
    residency.load(NOOP).unwrap();
    let settings = EngineSettings { max_batch, preview_every, commands: 1 };
    Engine::new(mpsc::channel(1).1, Arc::new(residency), settings)
}

/// Puts a render into the engine.
fn put(engine: &mut Engine, class: Class, seeds: &[u64], steps: u32) -> Running {
    let picture = RgbImage::new(64, 64);
    let inputs = Inputs::TryOn(TryOn {
        person: picture.clone(),
        garment: picture,
        category: Category::Tops,
        garment_photo: GarmentPhoto::FlatLay,
    });
    let prepared = engine.residency.get(NOOP).unwrap().prepare(&inputs).unwrap();
    let samplings = seeds
        .iter()
        .map(|&seed| Sampling { steps, guidance: 1.0, seed, method: Method::default() })
        .collect();
    let (line, running) = Running::line();
    engine.begin(Begin { release: NOOP.to_owned(), class, prepared, samplings, scene: None, line });
    running
}

/// Everything a task has heard so far: steps as `s3`, previews as `p1@2`, and the outcome.
pub(super) fn heard(running: &mut Running) -> (Vec<String>, Option<Outcome>) {
    use futures::FutureExt as _;
    let mut reports = Vec::new();
    loop {
        match running.next().now_or_never() {
            Some(Heard::Report(Report::Step(step))) => reports.push(format!("s{step}")),
            Some(Heard::Report(Report::Preview { sample, step, .. })) => {
                reports.push(format!("p{sample}@{step}"));
            }
            Some(Heard::Outcome(outcome)) => return (reports, Some(outcome)),
            None => return (reports, None),
        }
    }
}

pub(super) fn outcome(running: &mut Running) -> Outcome {
    heard(running).1.expect("it has ended")
}

pub(super) fn run(engine: &mut Engine) {
    while !engine.slots.is_empty() {
        engine.turn();
    }
}

pub(super) fn out_of_memory() -> Fault {
    Fault::Failed(Failure::new(FailureCode::OutOfMemory, "no room"))
}

#[test]
fn every_step_of_the_slowest_image_is_told_with_previews_in_between() {
    let mut engine = engine(1, 2);
    let mut running = put(&mut engine, Class::Batch, &[1, 2], 5);
    run(&mut engine);
    let (reports, outcome) = heard(&mut running);
    // One sample fits: the first image runs ahead, and the second decides what is told.
    assert_eq!(reports, ["s1", "s2", "p1@2", "s3", "s4", "p1@4", "s5"]);
    assert!(matches!(outcome, Some(Outcome::Done { pictures, .. }) if pictures.len() == 2));
}

#[test]
fn images_come_out_in_the_order_of_their_seeds_alone_or_in_company() {
    let mut alone = engine(1, 0);
    let mut first = put(&mut alone, Class::Batch, &[5], 3);
    run(&mut alone);
    let Outcome::Done { pictures: expected, .. } = outcome(&mut first) else { panic!("not done") };

    let mut mixed = engine(4, 0);
    let mut other = put(&mut mixed, Class::Batch, &[1], 7);
    mixed.turn();
    let mut second = put(&mut mixed, Class::Batch, &[4, 5], 3);
    run(&mut mixed);
    let Outcome::Done { pictures, .. } = outcome(&mut second) else { panic!("not done") };
    assert_eq!(pictures[1], expected[0]);
    assert_ne!(pictures[0], expected[0]);
    assert!(matches!(outcome(&mut other), Outcome::Done { .. }));
}

#[test]
fn an_urgent_render_overtakes_within_a_step() {
    let mut engine = engine(1, 0);
    let mut slow = put(&mut engine, Class::Batch, &[1], 9);
    engine.turn();
    let mut urgent = put(&mut engine, Class::Interactive, &[2], 2);
    engine.turn();
    engine.turn();
    assert!(matches!(outcome(&mut urgent), Outcome::Done { .. }));
    assert_eq!(heard(&mut slow).0, ["s1"]);
}

#[test]
fn a_render_that_nobody_waits_for_leaves_before_the_next_step() {
    let mut engine = engine(4, 0);
    let gone = put(&mut engine, Class::Batch, &[1], 9);
    let mut stays = put(&mut engine, Class::Batch, &[2], 9);
    engine.turn();
    drop(gone);
    engine.turn();
    assert_eq!(engine.slots.len(), 1);
    assert_eq!(heard(&mut stays).0, ["s1", "s2"]);
    drop(stays);
    let never_begun = put(&mut engine, Class::Batch, &[3], 9);
    drop(never_begun);
    engine.turn();
    assert!(engine.slots.is_empty());
}

#[test]
fn a_pass_is_shared_by_those_who_were_in_it() {
    let mut engine = engine(4, 0);
    let _one = put(&mut engine, Class::Batch, &[1], 9);
    let _two = put(&mut engine, Class::Batch, &[2, 3], 9);
    engine.account(NOOP, &[0, 1, 1], Duration::from_millis(30), Ok(()));
    let times: Vec<u128> = engine.slots.iter().map(|slot| slot.device_time.as_millis()).collect();
    assert_eq!(times, [10, 20]);
}

#[test]
fn a_crash_ends_who_was_in_the_pass_and_the_others_go_on_with_a_new_model() {
    let mut engine = engine(1, 0);
    let mut hit = put(&mut engine, Class::Batch, &[1], 3);
    let mut spared = put(&mut engine, Class::Batch, &[2], 3);
    let model = engine.residency.get(NOOP).unwrap();
    let crash = guarded::<()>(|| panic!("as a kernel does"));
    assert!(matches!(crash, Err(Fault::Crashed)));
    engine.account(NOOP, &[0], Duration::ZERO, crash);
    assert!(matches!(outcome(&mut hit), Outcome::Crashed));
    assert!(!Arc::ptr_eq(&model, &engine.residency.get(NOOP).unwrap()), "the model is built anew");
    run(&mut engine);
    assert!(matches!(outcome(&mut spared), Outcome::Done { .. }));
    assert!(!engine.broken);
}

#[test]
fn a_model_that_cannot_be_built_again_ends_the_engine_and_blames_nobody() {
    let (sender, inbox) = mpsc::channel(4);
    let mut engine = Engine { inbox, ..engine(1, 0) };
    let mut here = put(&mut engine, Class::Batch, &[1], 3);
    let (line, mut on_its_way) = Running::line();
    let prepared = {
        let model = engine.residency.get(NOOP).unwrap();
        let picture = RgbImage::new(64, 64);
        let (category, garment_photo) = (Category::Tops, GarmentPhoto::Model);
        let inputs = TryOn { person: picture.clone(), garment: picture, category, garment_photo };
        model.prepare(&Inputs::TryOn(inputs)).unwrap()
    };
    let samplings = vec![Sampling { steps: 1, guidance: 1.0, seed: 1, method: Method::default() }];
    let (release, class) = (NOOP.to_owned(), Class::Batch);
    let begin = Begin { release, class, prepared, samplings, scene: None, line };
    assert!(sender.try_send(Command::Begin(Box::new(begin))).is_ok());
    engine.recover("no such release", &Fault::Crashed);
    engine.run();
    assert!(matches!(outcome(&mut here), Outcome::Stopped));
    assert!(matches!(outcome(&mut on_its_way), Outcome::Stopped));
    assert!(sender.is_closed());
}

#[test]
fn out_of_memory_makes_batches_smaller_while_that_helps() {
    let mut engine = engine(4, 0);
    let mut first = put(&mut engine, Class::Batch, &[1], 2);
    let mut second = put(&mut engine, Class::Batch, &[2], 1);
    engine.account(NOOP, &[0, 1], Duration::ZERO, Err(out_of_memory()));
    engine.turn();
    assert_eq!(heard(&mut first).0, ["s1"]);
    assert!(heard(&mut second).0.is_empty(), "one at a time");
    run(&mut engine);
    assert!(matches!(outcome(&mut first), Outcome::Done { .. }));
    assert!(matches!(outcome(&mut second), Outcome::Done { .. }));
    assert!(engine.room.is_empty(), "the next render may try a full batch again");

    let mut alone = put(&mut engine, Class::Batch, &[3], 2);
    engine.account(NOOP, &[0], Duration::ZERO, Err(out_of_memory()));
    let Outcome::Failed(failure) = outcome(&mut alone) else { panic!("not failed") };
    assert_eq!(failure.code, FailureCode::OutOfMemory);
}

#[test]
fn a_render_that_the_model_refuses_fails_alone() {
    let mut engine = engine(4, 0);
    let mut good = put(&mut engine, Class::Batch, &[1], 2);
    let mut bad = put(&mut engine, Class::Batch, &[2], 0);
    assert!(matches!(outcome(&mut bad), Outcome::Failed(_)), "no steps at all");
    run(&mut engine);
    assert!(matches!(outcome(&mut good), Outcome::Done { .. }));
}
