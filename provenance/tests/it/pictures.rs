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

/// One of: a flat colour, a gradient, flat boxes, smooth noise, a colour with noise.
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
        _ => RgbImage::from_fn(width, height, |_, _| {
            let noise = colour();
            let level = |n: usize| a[n].saturating_sub(24).saturating_add(noise[n] % 48);
            [level(0), level(1), level(2)].into()
        }),
    }
}

/// The bundled drawings of people and garments.
pub(crate) fn samples() -> Vec<(PathBuf, RgbImage)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/samples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut pictures: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "png")).collect();
    // Folders are listed in no order.
    pictures.sort();
    let pictures = pictures.into_iter();
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

/// A part of a picture.
pub(crate) fn crop(image: &RgbImage, left: u32, top: u32, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(x + left, y + top))
}

/// Left and right changed over.
pub(crate) fn mirrored(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(width - 1 - x, y))
}

/// Turned clockwise.
pub(crate) fn quarter_turned(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(height, width, |x, y| *image.get_pixel(y, height - 1 - x))
}

/// Turned about its middle on a black canvas of the same size.
pub(crate) fn turned(image: &RgbImage, degrees: f64) -> RgbImage {
    let (sin, cos) = degrees.to_radians().sin_cos();
    moved(image, |x, y| (cos * x + sin * y, cos * y - sin * x))
}

/// Bent like a sheet of paper: lines become waves that are so many pixels high.
pub(crate) fn bent(image: &RgbImage, pixels: f64) -> RgbImage {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    moved(image, |x, y| (x + pixels * (4.0 * y / height).sin(), y + pixels * (4.0 * x / width).sin()))
}

/// Each pixel taken from where `source` says, both counted from the middle; black where that is outside.
fn moved(image: &RgbImage, source: impl Fn(f64, f64) -> (f64, f64)) -> RgbImage {
    let (width, height) = image.dimensions();
    let (middle_x, middle_y) = (f64::from(width) / 2.0 - 0.5, f64::from(height) / 2.0 - 0.5);
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = source(f64::from(x) - middle_x, f64::from(y) - middle_y);
        let (x, y) = (x + middle_x, y + middle_y);
        if x < 0.0 || y < 0.0 || x >= f64::from(width - 1) || y >= f64::from(height - 1) {
            return [0; 3].into();
        }
        let (left, top) = (x as u32, y as u32);
        let (right, below) = (x.fract(), y.fract());
        let channel = |n: usize| {
            let at = |x: u32, y: u32| f64::from(image.get_pixel(x, y)[n]);
            let upper = at(left, top) * (1.0 - right) + at(left + 1, top) * right;
            let lower = at(left, top + 1) * (1.0 - right) + at(left + 1, top + 1) * right;
            (upper * (1.0 - below) + lower * below).round() as u8
        };
        [channel(0), channel(1), channel(2)].into()
    })
}

/// Each sample changed by itself.
pub(crate) fn changed(image: &RgbImage, change: impl Fn(f64) -> f64) -> RgbImage {
    let levels: Vec<u8> =
        (0..=255).map(|level| change(f64::from(level)).round().clamp(0.0, 255.0) as u8).collect();
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        image.get_pixel(x, y).0.map(|level| levels[usize::from(level)]).into()
    })
}
