use kraftr_imaging::{Encoding, Filter, RgbImage, resize};
use kraftr_provenance::{Key, KeyRing, MarkError, Strength, detect, embed};
use proptest::prelude::*;

use crate::pictures::{numbers, picture, psnr, samples, stored};

fn key(seed: u64) -> Key {
    let mut next = numbers(seed);
    let (high, low) = (next(), next());
    Key::from_hex(&format!("key-{seed}"), &format!("{high:032x}{low:032x}")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_mark_comes_back(
        seed: u64, width in 128u32..700, height in 128u32..700, payload: [u8; 8], quality in 75u8..=100,
    ) {
        let image = picture(seed, width, height);
        let key = key(seed);
        let marked = embed(&image, payload, &key, Strength::Normal).unwrap();
        prop_assert_eq!(marked.dimensions(), (width, height));
        prop_assert!(psnr(&image, &marked) > 40.0);
        let ring = KeyRing::new(vec![key.clone()]).unwrap();
        for (name, again) in [("pixels", marked.clone()), ("jpeg", stored(&marked, Encoding::Jpeg { quality }))] {
            let detection = detect(&again, &ring);
            prop_assert!(detection.found, "{} {}", name, seed % 5);
            prop_assert_eq!(detection.payload, Some(payload));
            prop_assert_eq!(detection.key.as_deref(), Some(key.id()));
            prop_assert!(detection.score > 0.0, "{}", detection.score);
        }
        prop_assert!(!detect(&marked, &KeyRing::development()).found);
    }
}

#[test]
fn bundled_drawings_keep_the_mark_in_jpeg() {
    let key = Key::development();
    let samples = samples();
    assert!(samples.len() >= 15);
    for (path, image) in samples {
        let image = resize(&image, 384, 576, Filter::Lanczos3).unwrap();
        let marked = embed(&image, *b"\x00\xFFkraft\n", &key, Strength::Normal).unwrap();
        assert!(psnr(&image, &marked) > 46.0, "{}", path.display());
        let again = stored(&marked, Encoding::Jpeg { quality: 75 });
        let detection = detect(&again, &KeyRing::development());
        assert_eq!(detection.payload, Some(*b"\x00\xFFkraft\n"), "{}", path.display());
    }
}

#[test]
fn every_strength_is_read_and_survives_more() {
    let image = picture(3, 384, 576);
    let mut worst = f64::INFINITY;
    for (strength, quality) in [(Strength::Normal, 75), (Strength::Strong, 60)] {
        let marked = embed(&image, [9; 8], &Key::development(), strength).unwrap();
        let quiet = psnr(&image, &marked);
        assert!(quiet > 40.0 && quiet < worst);
        worst = quiet;
        let again = stored(&marked, Encoding::Jpeg { quality });
        assert_eq!(detect(&again, &KeyRing::development()).payload, Some([9; 8]), "{strength:?}");
    }
}

#[test]
fn unmarked_pictures_are_never_called_marked() {
    let ring = KeyRing::new(vec![Key::development(), key(1), key(2)]).unwrap();
    for seed in 0..600 {
        let image = picture(seed, 128 + (seed % 97) as u32, 128 + (seed % 61) as u32);
        let detection = detect(&image, &ring);
        assert!(!detection.found && detection.payload.is_none() && detection.key.is_none(), "{seed}");
    }
    for (path, image) in samples() {
        assert!(!detect(&image, &ring).found, "{}", path.display());
    }
}

#[test]
fn a_wrong_key_never_reads_and_the_ring_finds_the_right_one() {
    let image = picture(3, 256, 192);
    let marked = embed(&image, [1, 2, 3, 4, 5, 6, 7, 8], &key(5), Strength::Normal).unwrap();
    for seed in 100..200 {
        assert!(!detect(&marked, &KeyRing::new(vec![key(seed)]).unwrap()).found);
    }
    let ring = KeyRing::new(vec![key(4), key(6), key(5)]).unwrap();
    assert_eq!(ring.first().id(), "key-4");
    let detection = detect(&marked, &ring);
    assert_eq!(detection.payload, Some([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(detection.key.as_deref(), Some("key-5"));
}

#[test]
fn black_and_white_keep_the_mark() {
    for level in [0, 1, 254, 255] {
        for side in [128, 300] {
            let image = RgbImage::from_pixel(side, side, [level; 3].into());
            let marked = embed(&image, [level; 8], &Key::development(), Strength::Normal).unwrap();
            assert!(psnr(&image, &marked) > 40.0);
            let again = stored(&marked, Encoding::Jpeg { quality: 75 });
            assert_eq!(detect(&again, &KeyRing::development()).payload, Some([level; 8]), "{level} {side}");
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
