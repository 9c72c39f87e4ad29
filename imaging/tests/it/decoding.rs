use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, Rgb};
use kraftr_imaging::{Encoding, Filter, RgbImage, SourceFormat, decode, resize};

use crate::bytes::{ENCODINGS, LIMITS, file, oriented, picture, png, png_chunk, png_of, zlib};

/// The largest difference of any sample.
fn distance(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn lossless_files_keep_every_sample() {
    for (width, height) in [(1, 1), (3, 5), (33, 17), (640, 480)] {
        for (encoding, format) in [(Encoding::Png, SourceFormat::Png), (Encoding::Webp, SourceFormat::Webp)] {
            let decoded = decode(&file(width, height, encoding), &LIMITS).unwrap();
            assert_eq!(decoded.format, format);
            assert_eq!(decoded.format.content_type(), encoding.content_type());
            assert_eq!(decoded.image, picture(width, height));
        }
    }
}

#[test]
fn jpeg_is_near() {
    let smooth = RgbImage::from_fn(97, 61, |x, y| Rgb([x as u8, y as u8, 90]));
    let bytes = kraftr_imaging::encode(&smooth, Encoding::Jpeg { quality: 95 }).unwrap();
    let decoded = decode(&bytes, &LIMITS).unwrap();
    assert_eq!(decoded.format, SourceFormat::Jpeg);
    assert!(distance(&decoded.image, &smooth) < 10);
    // Bytes after the end mark, as phones append videos, do no harm.
    let tail = decode(&[&bytes[..], b"\xFF\xD8 a video"].concat(), &LIMITS).unwrap();
    assert_eq!(tail, decoded);
}

#[test]
fn a_progressive_jpeg() {
    // A smooth picture, written by a progressive encoder with ten scans.
    let decoded = decode(include_bytes!("progressive.jpg"), &LIMITS).unwrap();
    assert_eq!(decoded.image.dimensions(), (48, 32));
    let smooth = RgbImage::from_fn(48, 32, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, 90]));
    assert!(distance(&decoded.image, &smooth) < 24, "{}", distance(&decoded.image, &smooth));
    let bytes = include_bytes!("progressive.jpg");
    for length in 0..bytes.len() {
        decode(&bytes[..length], &LIMITS).unwrap_err();
    }
}

#[test]
fn other_depths_and_palettes() {
    let grey = decode(&png_of(&[0, 128, 255, 7], 2, 2, ExtendedColorType::L8), &LIMITS).unwrap();
    assert_eq!(grey.image.as_raw(), &[0, 0, 0, 128, 128, 128, 255, 255, 255, 7, 7, 7]);

    let deep: Vec<u8> = [0u16, 32_896, 65_535].iter().flat_map(|sample| sample.to_ne_bytes()).collect();
    let deep = decode(&png_of(&deep, 1, 1, ExtendedColorType::Rgb16), &LIMITS).unwrap();
    assert_eq!(deep.image.as_raw(), &[0, 128, 255]);

    let palette = png_chunk(*b"PLTE", &[10, 20, 30, 200, 100, 0]);
    let idat = png_chunk(*b"IDAT", &zlib(&[0, 0b1000_0000]));
    let indexed = decode(&png(2, 1, 1, 3, &[palette, idat]), &LIMITS).unwrap();
    assert_eq!(indexed.image.as_raw(), &[200, 100, 0, 10, 20, 30]);
}

#[test]
fn transparency_lies_over_white() {
    let rgba = [10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 255, 51];
    let decoded = decode(&png_of(&rgba, 3, 1, ExtendedColorType::Rgba8), &LIMITS).unwrap();
    assert_eq!(decoded.image.as_raw(), &[10, 20, 30, 255, 255, 255, 204, 224, 255]);
    let grey = decode(&png_of(&[0, 0, 0, 255], 2, 1, ExtendedColorType::La8), &LIMITS).unwrap();
    assert_eq!(grey.image.as_raw(), &[255, 255, 255, 0, 0, 0]);
}

#[test]
fn exif_turns_the_picture_upright() {
    let stored = resize(&picture(20, 12), 40, 24, Filter::Bilinear).unwrap();
    for encoding in ENCODINGS {
        let plain = decode(&kraftr_imaging::encode(&stored, encoding).unwrap(), &LIMITS).unwrap().image;
        for orientation in 1..=8 {
            let mut upright = DynamicImage::ImageRgb8(plain.clone());
            upright.apply_orientation(Orientation::from_exif(orientation).unwrap());
            let decoded = decode(&oriented(&stored, encoding, orientation), &LIMITS).unwrap();
            assert_eq!(decoded.image, upright.into_rgb8(), "{encoding:?} {orientation}");
        }
    }
}
