use kraftr_imaging::{Encoding, Filter, RgbImage, resize};
use kraftr_provenance::{Key, KeyRing, MarkError, Strength, detect, embed};
use proptest::prelude::*;

use crate::pictures::{
    bent, changed, crop, mirrored, numbers, picture, psnr, quarter_turned, samples, stored, turned,
};

const PAYLOAD: [u8; 8] = *b"\x00\xFFkraft\n";

fn key(seed: u64) -> Key {
    let mut next = numbers(seed);
    let (high, low) = (next(), next());
    Key::from_hex(&format!("key-{seed}"), &format!("{high:032x}{low:032x}")).unwrap()
}

/// A drawing of a person, as large as renders are.
fn drawing(nth: usize) -> RgbImage {
    let samples = samples();
    resize(&samples[nth % samples.len()].1, 576, 864, Filter::Lanczos3).unwrap()
}

fn marked(image: &RgbImage) -> RgbImage {
    embed(image, PAYLOAD, &Key::development(), Strength::Normal).unwrap()
}

fn assert_reads(what: &str, image: &RgbImage) {
    let detection = detect(image, &KeyRing::development());
    assert!(detection.found, "{what}");
    assert_eq!(detection.payload, Some(PAYLOAD), "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_mark_comes_back(
        seed: u64, width in 128u32..700, height in 128u32..700, payload: [u8; 8], quality in 90u8..=100,
    ) {
        let image = picture(seed, width, height);
        let key = key(seed);
        let marked = embed(&image, payload, &key, Strength::Normal).unwrap();
        prop_assert_eq!(marked.dimensions(), (width, height));
        prop_assert!(psnr(&image, &marked) > 42.0);
        let ring = KeyRing::new(vec![key.clone()]).unwrap();
        let mut copies = vec![("pixels", marked.clone())];
        // JPEG takes all detail from a flat picture.
        if seed % 5 > 3 {
            copies.push(("jpeg", stored(&marked, Encoding::Jpeg { quality })));
        }
        for (name, again) in copies {
            let detection = detect(&again, &ring);
            prop_assert!(detection.found, "{} {}", name, seed % 5);
            prop_assert_eq!(detection.payload, Some(payload));
            prop_assert_eq!(detection.key.as_deref(), Some(key.id()));
            prop_assert!(detection.score > 5.0, "{}", detection.score);
        }
        prop_assert!(!detect(&marked, &KeyRing::development()).found);
    }
}

#[test]
fn drawings_keep_the_mark_in_what_the_web_makes_of_them() {
    for nth in 0..3 {
        let image = drawing(nth * 5);
        let marked = marked(&image);
        assert!(psnr(&image, &marked) > 42.0);
        let (width, height) = marked.dimensions();
        let jpeg = |image: &RgbImage, quality| stored(image, Encoding::Jpeg { quality });
        let scaled = |part: f64| {
            let side = |side: u32| (f64::from(side) * part).round() as u32;
            resize(&marked, side(width), side(height), Filter::Lanczos3).unwrap()
        };
        let cropped = crop(&marked, 57, 120, width * 3 / 4, height * 3 / 4);
        for (what, copy) in [
            ("jpeg 85", jpeg(&marked, 85)),
            ("half size", scaled(0.5)),
            ("thumbnail", scaled(0.2)),
            ("double size", scaled(2.0)),
            ("crop", cropped.clone()),
            ("crop, jpeg 90", jpeg(&cropped, 90)),
            ("stretch", resize(&marked, width * 9 / 10, height, Filter::Lanczos3).unwrap()),
            ("mirror", mirrored(&marked)),
            ("quarter turn", quarter_turned(&marked)),
            ("turn by 5 degrees", turned(&marked, 5.0)),
            ("turn by 31 degrees", turned(&marked, 31.0)),
            ("darker", changed(&marked, |level| level * 0.7)),
            ("gamma", changed(&marked, |level| 255.0 * (level / 255.0).powf(1.5))),
        ] {
            assert_reads(&format!("drawing {nth}: {what}"), &copy);
        }
    }
}

#[test]
fn bent_pictures_are_read_window_by_window() {
    let marked = marked(&drawing(5));
    for pixels in [8.0, 10.0] {
        assert_reads(&format!("bent by {pixels} pixels"), &bent(&marked, pixels));
    }
}

#[test]
fn bundled_drawings_keep_the_mark_in_jpeg() {
    let samples = samples();
    assert!(samples.len() >= 15);
    for (path, image) in samples {
        let image = resize(&image, 384, 576, Filter::Lanczos3).unwrap();
        let marked = marked(&image);
        assert!(psnr(&image, &marked) > 42.0, "{}", path.display());
        assert_reads(&path.display().to_string(), &stored(&marked, Encoding::Jpeg { quality: 90 }));
    }
}

#[test]
fn every_strength_is_read_and_a_stronger_one_stands_out_more() {
    let image = drawing(3);
    let mut before = (f64::INFINITY, 0.0);
    for strength in Strength::ALL {
        let marked = embed(&image, PAYLOAD, &Key::development(), strength).unwrap();
        let again = stored(&marked, Encoding::Jpeg { quality: 90 });
        let now = (psnr(&image, &marked), detect(&again, &KeyRing::development()).score);
        assert!(now.0 < before.0 && now.1 > before.1, "{strength:?}: {now:?} after {before:?}");
        before = now;
    }
}

#[test]
fn unmarked_pictures_are_never_called_marked() {
    let ring = KeyRing::new(vec![Key::development(), key(1), key(2)]).unwrap();
    for seed in 0..200 {
        let image = picture(seed, 128 + (seed % 97) as u32, 128 + (seed % 61) as u32);
        let detection = detect(&image, &ring);
        assert!(!detection.found && detection.payload.is_none() && detection.key.is_none(), "{seed}");
    }
    for (path, image) in samples() {
        assert!(!detect(&image, &ring).found, "{}", path.display());
    }
}

#[test]
fn the_bound_counts_every_key() {
    let image = picture(0, 128, 128);
    let bound = |keys: u64| {
        let keys = (0..keys).map(key).collect();
        detect(&image, &KeyRing::new(keys).unwrap()).bound
    };
    assert!((bound(16) / bound(1) - 16.0).abs() < 1e-9);
    assert!(bound(16) < 1e-9);
}

#[test]
fn a_wrong_key_never_reads_and_the_ring_finds_the_right_one() {
    let image = drawing(2);
    let marked = embed(&image, PAYLOAD, &key(5), Strength::Normal).unwrap();
    for seed in 100..110 {
        assert!(!detect(&marked, &KeyRing::new(vec![key(seed)]).unwrap()).found);
    }
    let ring = KeyRing::new(vec![key(4), key(6), key(5)]).unwrap();
    assert_eq!(ring.first().id(), "key-4");
    let detection = detect(&marked, &ring);
    assert_eq!(detection.payload, Some(PAYLOAD));
    assert_eq!(detection.key.as_deref(), Some("key-5"));
}

#[test]
fn flat_pictures_keep_the_mark() {
    for level in [0, 1, 128, 254, 255] {
        for side in [128, 300] {
            let image = RgbImage::from_pixel(side, side, [level; 3].into());
            let marked = marked(&image);
            assert!(psnr(&image, &marked) > 42.0);
            assert_reads(&format!("level {level}, side {side}"), &marked);
        }
    }
}

#[test]
fn small_pictures_are_refused_and_hold_no_mark() {
    for (width, height) in [(127, 128), (128, 127), (1, 1), (4000, 100)] {
        let image = RgbImage::new(width, height);
        let error = embed(&image, [0; 8], &Key::development(), Strength::Normal).unwrap_err();
        assert_eq!(error, MarkError::TooSmall { width, height, side_min: 128 });
        assert_eq!(error.code(), "watermark_image_too_small");
        assert!(!detect(&image, &KeyRing::development()).found);
    }
    assert!(!detect(&RgbImage::new(0, 0), &KeyRing::development()).found);
}

#[test]
fn marks_of_large_and_long_pictures_come_back() {
    for (width, height) in [(2600, 1900), (1600, 140)] {
        let image = resize(&drawing(1), width, height, Filter::Bilinear).unwrap();
        assert_reads(&format!("{width}x{height}"), &marked(&image));
    }
}
