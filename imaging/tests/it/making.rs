use image::Rgb;
use kraftr_imaging::{Encoding, Filter, ImagingError, RgbImage, contact_sheet, encode, resize};

use crate::bytes::picture;

#[test]
fn sizes_that_no_file_can_hold() {
    let empty = RgbImage::new(0, 5);
    for encoding in [Encoding::Png, Encoding::Jpeg { quality: 80 }, Encoding::Webp] {
        assert_eq!(encode(&empty, encoding).unwrap_err().code(), "image_unencodable");
    }
    assert_eq!(encode(&RgbImage::new(16_385, 1), Encoding::Webp).unwrap_err().code(), "image_unencodable");
    assert_eq!(
        encode(&RgbImage::new(1, 65_536), Encoding::Jpeg { quality: 80 }).unwrap_err().code(),
        "image_unencodable"
    );
    for quality in [0, 101] {
        let error = encode(&picture(2, 2), Encoding::Jpeg { quality }).unwrap_err();
        assert_eq!(error, ImagingError::Quality(quality));
        assert_eq!(error.code(), "image_quality");
    }
}

#[test]
fn the_longest_sides_are_stored() {
    for (encoding, side) in [(Encoding::Webp, 16_384), (Encoding::Jpeg { quality: 80 }, 65_535)] {
        encode(&RgbImage::new(side, 1), encoding).unwrap();
    }
}

#[test]
fn every_filter_keeps_a_flat_colour() {
    let flat = RgbImage::from_pixel(37, 23, Rgb([12, 200, 99]));
    for filter in [Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Lanczos3] {
        for (width, height) in [(1, 1), (80, 11), (37, 23)] {
            let scaled = resize(&flat, width, height, filter).unwrap();
            assert_eq!(scaled, RgbImage::from_pixel(width, height, Rgb([12, 200, 99])), "{filter:?}");
        }
    }
}

#[test]
fn filters_differ_as_named() {
    let checks = RgbImage::from_fn(8, 8, |x, y| Rgb([((x + y) % 2 * 254) as u8; 3]));
    let mean = resize(&checks, 4, 4, Filter::Box).unwrap();
    assert!(mean.pixels().all(|pixel| *pixel == Rgb([127; 3])));
    let nearest = resize(&checks, 4, 4, Filter::Nearest).unwrap();
    assert!(nearest.pixels().all(|pixel| pixel.0[0] == 0 || pixel.0[0] == 254));
}

#[test]
fn sizes_that_cannot_be_scaled() {
    for (image, width, height) in
        [(picture(4, 4), 0, 4), (picture(4, 4), 4, 65_536), (RgbImage::new(0, 0), 4, 4)]
    {
        let error = resize(&image, width, height, Filter::Box).unwrap_err();
        assert_eq!(error.code(), "image_unscalable");
    }
}

#[test]
fn pictures_stand_side_by_side() {
    let red = RgbImage::from_pixel(50, 100, Rgb([255, 0, 0]));
    let blue = RgbImage::from_pixel(64, 32, Rgb([0, 0, 255]));
    let sheet = contact_sheet(&[&red, &blue], 64).unwrap();
    assert_eq!(sheet.dimensions(), (32 + 2 + 128, 64));
    assert_eq!(sheet.get_pixel(31, 63).0, [255, 0, 0]);
    assert_eq!(sheet.get_pixel(32, 0).0, [255; 3]);
    assert_eq!(sheet.get_pixel(34, 0).0, [0, 0, 255]);
    assert_eq!(contact_sheet(&[], 64).unwrap_err().code(), "image_unscalable");
    assert_eq!(contact_sheet(&[&red], 0).unwrap_err().code(), "image_unscalable");
}
