//! Pictures without a mark: drawn patterns of cloth, text and ground, cuts of others, and what is done to them.

use std::f64::consts::TAU;

use anyhow::Result;
use kraftr_imaging::{Encoding, Filter, Limits, RgbImage, decode, encode, resize};
use kraftr_provenance::{Key, Strength, embed};

/// Sides of a cut.
const SIDES: (u64, u64) = (128, 420);

/// Numbers from a seed (splitmix64), so that each picture can be made again.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// A number from `from` to `to`.
    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One of: ground with noise, stripes, checks, knit, halftone, lines of text, tiles that repeat, two of them blended.
pub fn drawn(random: &mut Random, width: u32, height: u32) -> RgbImage {
    let kind = random.below(8);
    let period = random.between(2.5, 40.0);
    let (sin, cos) = random.between(0.0, TAU).sin_cos();
    let (low, high) = (random.between(0.0, 120.0), random.between(130.0, 255.0));
    let noise = random.between(0.0, 12.0);
    let tint = [0, 1, 2].map(|_| random.between(0.7, 1.0));
    let mut grain = random.clone();
    let cell = |x: f64, y: f64| Random((x as u64) << 32 ^ y as u64 ^ random.0).number();
    let side = (period * 4.0).max(16.0);
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let (along, across) = ((x * cos + y * sin) / period, (y * cos - x * sin) / period);
        let wave = |at: f64| 0.5 + 0.5 * (TAU * at).sin();
        let level = match kind {
            0 => (x + y) / f64::from(width + height),
            1 => wave(along),
            2 => f64::from(u8::from((along.floor() + across.floor()).rem_euclid(2.0) < 1.0)),
            3 => wave(along + 0.3 * (TAU * across * 2.0).sin()) * wave(across),
            4 => f64::from(u8::from(wave(along) * wave(across) > y / f64::from(height))),
            5 => f64::from(u8::from(cell(x / 3.0, (y / 12.0).floor()) % 3 == 0 && y % 12.0 < 8.0)),
            6 => (cell((x % side).floor(), (y % side).floor()) % 256) as f64 / 255.0,
            _ => 0.5 * wave(along) + 0.5 * x / f64::from(width),
        };
        let level = low + (high - low) * level + noise * grain.between(-1.0, 1.0);
        tint.map(|tint| (level * tint).clamp(0.0, 255.0) as u8).into()
    })
}

/// A part of `picture` as large as the sides of a small render, enlarged where it is smaller.
pub fn cut(random: &mut Random, picture: &RgbImage) -> Result<RgbImage> {
    let side = |random: &mut Random| (SIDES.0 + random.below(SIDES.1 - SIDES.0)) as u32;
    let (width, height) = (side(random), side(random));
    let larger = if picture.width() < width || picture.height() < height {
        resize(picture, picture.width().max(width), picture.height().max(height), Filter::Bilinear)?
    } else {
        picture.clone()
    };
    let left = random.below(u64::from(larger.width() - width) + 1) as u32;
    let top = random.below(u64::from(larger.height() - height) + 1) as u32;
    Ok(RgbImage::from_fn(width, height, |x, y| *larger.get_pixel(x + left, y + top)))
}

/// The picture as it is, compressed, scaled, mirrored, or marked with a key that nobody looks for.
pub fn alter(random: &mut Random, picture: &RgbImage) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    Ok(match random.below(6) {
        0 => {
            let file = encode(picture, Encoding::Jpeg { quality: 30 + random.below(65) as u8 })?;
            decode(&file, &Limits::exactly(width, height, file.len()))?.image
        }
        1 => {
            let part = random.between(0.7, 1.5);
            let side = |side: u32| (f64::from(side) * part) as u32;
            resize(picture, side(width), side(height), Filter::Lanczos3)?
        }
        2 => RgbImage::from_fn(width, height, |x, y| *picture.get_pixel(width - 1 - x, y)),
        3 => {
            let key = Key::from_hex("other", &format!("{:064x}", random.number()))?;
            embed(picture, random.number().to_le_bytes(), &key, Strength::Normal)?
        }
        _ => picture.clone(),
    })
}
