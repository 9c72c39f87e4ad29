//! Ways to take a step: each ends near the reference's picture, at the cost that it counts.

use kraftr_imaging::psnr;
use kraftr_models::{Evaluations, Model, RgbImage, Sample, Sampling};
use kraftr_protocol::Category;
use kraftr_protocol::manifest::{Method, Solver};

use crate::batch_invariance::{assert_same, demo, inputs};

const STEPS: u32 = 8;

fn begin(model: &Model, method: Method, seed: u64) -> Sample {
    let prepared = model.prepare(&inputs(Category::Tops)).unwrap();
    model.begin(&prepared, &Sampling { steps: STEPS, guidance: 1.5, seed, method }).unwrap()
}

fn painted(model: &Model, method: Method) -> (RgbImage, Evaluations) {
    let mut sample = begin(model, method, 1);
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    let evaluations = model.evaluations(&sample).unwrap();
    (model.finish(sample).unwrap(), evaluations)
}

fn plain() -> Method {
    Method::default()
}

/// Every step is guided but the last.
const ALL: u32 = 2 * STEPS - 1;

#[test]
fn every_way_leads_near_and_counts_what_it_costs() {
    let model = demo();
    let (reference, evaluations) = painted(&model, plain());
    assert_eq!(evaluations, Evaluations { whole: ALL, reused: 0 });
    for (method, cost) in [
        (Method { solver: Solver::Ab2, ..plain() }, ALL..=ALL),
        // Each step measures its end too, but for the last one's, which is the picture; the end of the last but one
        // is where the last begins, without guidance.
        (Method { solver: Solver::Heun, ..plain() }, 2 * ALL - 2..=2 * ALL - 2),
        (Method { guidance_interval: [0.2, 1.0], ..plain() }, STEPS..=ALL - 2),
        (Method { cache: 0.2, ..plain() }, STEPS / 2..=ALL - 2),
    ] {
        let (picture, evaluations) = painted(&model, method);
        assert!(cost.contains(&evaluations.whole), "{method:?}: {evaluations:?}");
        assert_eq!(evaluations.reused > 0, method.cache > 0.0, "{method:?}: {evaluations:?}");
        if method.cache > 0.0 {
            assert_eq!(evaluations.whole + evaluations.reused, ALL);
        }
        let near = psnr(&reference, &picture).unwrap();
        assert!((28.0..60.0).contains(&near), "{method:?}: {near:.1} dB");
    }
}

#[test]
fn a_cache_that_nothing_satisfies_changes_nothing() {
    let model = demo();
    let (reference, _) = painted(&model, plain());
    let (picture, evaluations) = painted(&model, Method { cache: 1e-9, ..plain() });
    assert_eq!(evaluations, Evaluations { whole: ALL, reused: 0 });
    assert!(reference.as_raw() == picture.as_raw());
}

#[test]
fn samples_that_go_other_ways_do_not_notice_each_other() {
    let model = demo();
    let methods = [
        plain(),
        Method { solver: Solver::Heun, ..plain() },
        Method { cache: 0.2, ..plain() },
        Method { solver: Solver::Ab2, guidance_interval: [0.1, 0.5], cache: 0.1 },
    ];
    let mut together: Vec<Sample> = methods.iter().map(|method| begin(&model, *method, 1)).collect();
    for _ in 0..STEPS {
        model.step(&mut together.iter_mut().collect::<Vec<_>>()).unwrap();
    }
    for (method, sample) in methods.into_iter().zip(together) {
        let evaluations = model.evaluations(&sample).unwrap();
        let (alone, evaluations_alone) = painted(&model, method);
        assert_eq!(evaluations, evaluations_alone, "{method:?}");
        assert_same(&alone, &model.finish(sample).unwrap());
    }
}
