//! Seconds of one demo render, the best of five, to hold against `benches/baselines/torch_demo.py`:
//! `cargo run --release -p kraftr-models --example time_demo [picture.ppm]`.

use std::io::Write as _;
use std::time::Instant;

use kraftr_imaging::{Limits, decode};
use kraftr_models::{Device, Inputs, Registry, RgbImage, Sampling, TryOn, bundled};
use kraftr_protocol::{GarmentPhoto, Quality};

const LIMITS: Limits =
    Limits { bytes_max: 1 << 20, side_min: 16, side_max: 4_096, pixels_max: 1 << 20, aspect_max: 4 };

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Registry::bundled().load(bundled::DEMO_RELEASE, &Device::Cpu)?;
    let prepared = model.prepare(&Inputs::TryOn(TryOn {
        person: decode(bundled::SAMPLE_PERSON, &LIMITS)?.image,
        garment: decode(bundled::SAMPLE_GARMENT, &LIMITS)?.image,
        category: bundled::SAMPLE_CATEGORY,
        garment_photo: GarmentPhoto::FlatLay,
    }))?;
    let mut best = f64::INFINITY;
    let mut picture = RgbImage::default();
    for seed in 0..5 {
        let began = Instant::now();
        let mut sample = model.begin(&prepared, &Sampling::of(model.manifest(), Quality::Balanced, seed))?;
        while !sample.is_done() {
            model.step(&mut [&mut sample])?;
        }
        picture = model.finish(sample)?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    writeln!(std::io::stdout(), "{best:.3}")?;
    if let Some(path) = std::env::args_os().nth(1) {
        let mut file = format!("P6 {} {} 255\n", picture.width(), picture.height()).into_bytes();
        file.extend(picture.as_raw());
        std::fs::write(path, file)?;
    }
    Ok(())
}
