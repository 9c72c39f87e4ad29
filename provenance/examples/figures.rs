//! Measures the mark on pictures: `figures WIDTH HEIGHT FILE...` scales each file to the size and prints a
//! Markdown table of quality, times on one core, and the score after each encoding.
#![allow(clippy::print_stdout, reason = "the table is the program's answer")]

use std::time::Instant;
use std::{env, error::Error, fs, path::Path};

use kraftr_imaging::{Encoding, Filter, Limits, RgbImage, decode, encode, resize};
use kraftr_provenance::{Key, KeyRing, Strength, detect, embed};

const LIMITS: Limits =
    Limits { bytes_max: 64 << 20, side_min: 1, side_max: 16_384, pixels_max: 64_000_000, aspect_max: 64 };

fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let square: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / square).log10()
}

fn row(path: &str, width: u32, height: u32) -> Result<(), Box<dyn Error>> {
    let picture = resize(&decode(&fs::read(path)?, &LIMITS)?.image, width, height, Filter::Lanczos3)?;
    let key = Key::development();
    let ring = KeyRing::development();
    let payload = *b"\x01kraftr\xFE";
    let start = Instant::now();
    let marked = embed(&picture, payload, &key, Strength::Normal)?;
    let embedding = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let plain = detect(&picture, &ring);
    let detecting = start.elapsed().as_secs_f64() * 1e3;
    let most = picture.iter().zip(marked.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    print!(
        "| {} | {:.1} | {most} | {embedding:.1} | {detecting:.1} | {} |",
        Path::new(path).file_stem().unwrap_or_default().display(),
        psnr(&picture, &marked),
        if plain.found { "YES" } else { "no" },
    );
    let jpegs = [90, 75, 60, 50].map(|quality| Encoding::Jpeg { quality });
    for encoding in [Encoding::Png, Encoding::Webp].into_iter().chain(jpegs) {
        let again = decode(&encode(&marked, encoding)?, &LIMITS)?.image;
        let detection = detect(&again, &ring);
        if detection.payload == Some(payload) {
            print!(" {:.2} |", detection.score);
        } else {
            print!(" lost |");
        }
    }
    println!();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [width, height, files @ ..] = &arguments[..] else {
        return Err("usage: figures WIDTH HEIGHT FILE...".into());
    };
    println!(
        "| Picture | PSNR dB | most | embed ms | detect ms | unmarked | PNG | WebP | 90 | 75 | 60 | 50 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for path in files {
        row(path, width.parse()?, height.parse()?)?;
    }
    Ok(())
}
