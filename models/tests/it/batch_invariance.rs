//! A sample becomes the same picture alone and among strangers, and its seed alone decides which.

use kraftr_imaging::{Limits, decode};
use kraftr_models::{Device, Inputs, Model, Registry, RgbImage, Sample, Sampling, TryOn, bundled};
use kraftr_protocol::manifest::Method;
use kraftr_protocol::{Category, GarmentPhoto};

pub(crate) fn demo() -> Model {
    Registry::bundled().load(bundled::DEMO_RELEASE, &Device::Cpu).unwrap()
}

pub(crate) fn inputs(category: Category) -> Inputs {
    let limits =
        Limits { bytes_max: 1 << 20, side_min: 16, side_max: 4_096, pixels_max: 1 << 20, aspect_max: 4 };
    let picture = |bytes: &[u8]| decode(bytes, &limits).unwrap().image;
    Inputs::TryOn(TryOn {
        person: picture(bundled::SAMPLE_PERSON),
        garment: picture(bundled::SAMPLE_GARMENT),
        category,
        garment_photo: GarmentPhoto::FlatLay,
    })
}

fn begin(model: &Model, category: Category, steps: u32, guidance: f64, seed: u64) -> Sample {
    let prepared = model.prepare(&inputs(category)).unwrap();
    model.begin(&prepared, &Sampling { steps, guidance, seed, method: Method::default() }).unwrap()
}

fn to_the_end(model: &Model, mut sample: Sample) -> RgbImage {
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
    }
    model.finish(sample).unwrap()
}

/// Bytes are truncated, so a difference of 1e-5 may still move a value across a border: by one level.
pub(crate) fn assert_same(alone: &RgbImage, among: &RgbImage) {
    assert_eq!(alone.dimensions(), among.dimensions());
    let apart = alone.as_raw().iter().zip(among.as_raw()).map(|(a, b)| a.abs_diff(*b));
    assert!(apart.clone().max() <= Some(1), "a value moved by {:?} levels", apart.clone().max());
    let moved = apart.filter(|levels| *levels > 0).count();
    assert!(moved * 1_000 < alone.as_raw().len(), "{moved} values moved");
}

#[test]
fn a_sample_does_not_notice_its_batch() {
    let model = demo();
    let cast = [
        (Category::Tops, 4, 1.5, 1),
        (Category::OnePieces, 3, 1.0, 2),
        (Category::Bottoms, 2, 7.5, 3),
        (Category::Tops, 4, 2.0, 4),
    ];
    let start =
        || cast.map(|(category, steps, guidance, seed)| begin(&model, category, steps, guidance, seed));
    let alone = start().map(|sample| to_the_end(&model, sample));
    let mut among = start();
    // The last one joins late, so the batch mixes times, guidance and categories.
    let [first, second, third, late] = &mut among;
    model.step(&mut [first, second, third]).unwrap();
    model.step(&mut [late, third, first, second]).unwrap();
    assert_eq!([first.step(), second.step(), third.step(), late.step()], [2, 2, 2, 1]);
    assert!(third.is_done() && !late.is_done());
    model.step(&mut [second, first, third, late]).unwrap();
    assert_eq!(third.step(), 2, "a sample that is done stays as it is");
    model.step(&mut [first, late]).unwrap();
    model.step(&mut [late]).unwrap();
    for (alone, among) in alone.iter().zip(among) {
        assert_same(alone, &model.finish(among).unwrap());
    }
}

#[test]
fn the_seed_decides() {
    let model = demo();
    let paint = |seed| to_the_end(&model, begin(&model, Category::Tops, 2, 1.0, seed));
    let (one, again, other) = (paint(9), paint(9), paint(10));
    assert!(one.as_raw() == again.as_raw(), "the same seed gave two pictures");
    assert!(one.as_raw() != other.as_raw(), "two seeds gave one picture");
}

#[test]
fn a_preview_comes_closer() {
    let model = demo();
    let mut sample = begin(&model, Category::Tops, 8, 1.5, 5);
    let mut previews = vec![model.preview(&sample).unwrap()];
    while !sample.is_done() {
        model.step(&mut [&mut sample]).unwrap();
        previews.push(model.preview(&sample).unwrap());
    }
    let end = previews.pop().unwrap();
    let distance = |picture: &RgbImage| {
        let apart = picture.as_raw().iter().zip(end.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        apart.sum::<u64>() / end.as_raw().len() as u64
    };
    let distances: Vec<_> = previews.iter().map(distance).collect();
    assert!(distances[0] > 40, "noise before the first step: {distances:?}");
    assert!(distances[1] < distances[0] / 4 && distances[7] < distances[1], "{distances:?}");
}
