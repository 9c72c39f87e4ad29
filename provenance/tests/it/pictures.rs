//! Test pictures of many kinds, drawn from a seed.

use std::path::{Path, PathBuf};
use std::{fs, iter};

use kraftr_imaging::{Encoding, Filter, Limits, RgbImage, decode, encode, resize};

pub(crate) const LIMITS: Limits =
    Limits { bytes_max: 64 << 20, side_min: 1, side_max: 4096, pixels_max: 16_000_000, aspect_max: 64 };

/// Numbers from a seed (splitmix64), so that a failing picture can be drawn again.
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// One of: a flat colour, a gradient, flat boxes, smooth noise, noise.
pub(crate) fn picture(seed: u64, width: u32, height: u32) -> RgbImage {
    let mut next = numbers(seed);
    let mut colour = move || [next() as u8, next() as u8, next() as u8];
    let (a, b) = (colour(), colour());
    match seed % 5 {
        0 => RgbImage::from_pixel(width, height, a.into()),
        1 => RgbImage::from_fn(width, height, |x, y| {
            let t = f64::from(x + y) / f64::from(width + height);
            let mix = |i: usize| (f64::from(a[i]) * (1.0 - t) + f64::from(b[i]) * t) as u8;
            [mix(0), mix(1), mix(2)].into()
        }),
        2 => {
            let boxes: Vec<[u8; 3]> = iter::repeat_with(colour).take(64).collect();
            RgbImage::from_fn(width, height, |x, y| {
                boxes[(x * 8 / width * 8 + y * 8 / height) as usize].into()
            })
        }
        3 => {
            let few = RgbImage::from_fn(17, 13, |_, _| colour().into());
            resize(&few, width, height, Filter::Bilinear).unwrap()
        }
        _ => RgbImage::from_fn(width, height, |_, _| colour().into()),
    }
}

/// The bundled drawings of people and garments.
pub(crate) fn samples() -> Vec<(PathBuf, RgbImage)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/samples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pictures = files.filter(|path| path.extension().is_some_and(|extension| extension == "png"));
    pictures.map(|path| (path.clone(), decode(&fs::read(path).unwrap(), &LIMITS).unwrap().image)).collect()
}

/// What is left of a picture after it was stored.
pub(crate) fn stored(image: &RgbImage, encoding: Encoding) -> RgbImage {
    decode(&encode(image, encoding).unwrap(), &LIMITS).unwrap().image
}

/// Peak signal to noise ratio over all samples, in decibels.
pub(crate) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let square: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / square).log10()
}
