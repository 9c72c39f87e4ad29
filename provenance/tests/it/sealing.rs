use kraftr_imaging::{
    Encoding, Filter, Pixels, RgbImage, RgbaImage, decode, decode_transparent, encode_transparent, resize,
};
use kraftr_provenance::{Key, KeyRing, MarkError, Marked, detect};

use crate::pictures::{LIMITS, picture, samples};

fn drawing() -> RgbImage {
    resize(&samples()[0].1, 384, 576, Filter::Lanczos3).unwrap()
}

#[test]
fn a_sealed_file_holds_its_mark() {
    for (nth, (_, image)) in samples().into_iter().enumerate().take(4) {
        let payload = [nth as u8; 8];
        let image = resize(&image, 300, 450, Filter::Lanczos3).unwrap();
        for encoding in [Encoding::Png, Encoding::Webp, Encoding::Jpeg { quality: 75 }] {
            let marked = Marked::seal(&image, payload, &Key::development(), encoding).unwrap();
            assert_eq!((marked.width(), marked.height(), marked.encoding()), (300, 450, encoding));
            let decoded = decode(marked.bytes(), &LIMITS).unwrap();
            assert_eq!(decoded.image.dimensions(), (300, 450));
            assert_eq!(decoded.format.content_type(), encoding.content_type());
            let detection = detect(&decoded.image, &KeyRing::development());
            assert_eq!(detection.payload, Some(payload));
            assert_eq!(marked.clone().into_bytes(), marked.bytes());
        }
    }
}

#[test]
fn transparency_is_kept_and_what_is_not_seen_is_left_alone() {
    let opaque = drawing();
    // Nothing, a soft edge and the whole picture, from the left to the right.
    let cut_out = RgbaImage::from_fn(384, 576, |x, y| {
        let [r, g, b] = opaque.get_pixel(x, y).0;
        [r, g, b, (x.saturating_sub(80) * 4).min(255) as u8].into()
    });
    for encoding in [Encoding::Png, Encoding::Webp] {
        let marked =
            Marked::seal_transparent(&cut_out, [9; 8], &Key::development(), encoding).unwrap().into_bytes();
        let seen = decode(&marked, &LIMITS).unwrap().image;
        assert_eq!(detect(&seen, &KeyRing::development()).payload, Some([9; 8]));
        let Pixels::Transparent(read) = decode_transparent(&marked, &LIMITS).unwrap() else {
            panic!("the mark cost the picture its transparency");
        };
        let mut changed = 0;
        for (before, after) in cut_out.pixels().zip(read.pixels()) {
            assert_eq!(before.0[3], after.0[3]);
            assert!(before == after || before.0[3] > 0);
            changed += usize::from(before != after);
        }
        assert!(changed > 10_000, "{changed}");
    }
    let jpeg = Encoding::Jpeg { quality: 90 };
    let error = Marked::seal_transparent(&cut_out, [9; 8], &Key::development(), jpeg).unwrap_err();
    assert_eq!(error.code(), "image_unencodable");
    let file = encode_transparent(&cut_out, Encoding::Png).unwrap();
    assert_eq!(decode_transparent(&file, &LIMITS).unwrap(), Pixels::Transparent(cut_out));
}

#[test]
fn every_picture_can_be_sealed_without_loss() {
    for seed in 0..10 {
        for encoding in [Encoding::Png, Encoding::Webp] {
            Marked::seal(&picture(seed, 128, 200), [seed as u8; 8], &Key::development(), encoding).unwrap();
        }
    }
}

#[test]
fn what_normal_strength_loses_is_sealed_stronger() {
    let encoding = Encoding::Jpeg { quality: 60 };
    let image = drawing();
    let normal =
        kraftr_provenance::embed(&image, [3; 8], &Key::development(), kraftr_provenance::Strength::Normal);
    let lost = crate::pictures::stored(&normal.unwrap(), encoding);
    assert!(!detect(&lost, &KeyRing::development()).found, "a coarser quality is needed for this test");
    let marked = Marked::seal(&image, [3; 8], &Key::development(), encoding).unwrap();
    let image = decode(marked.bytes(), &LIMITS).unwrap().image;
    assert_eq!(detect(&image, &KeyRing::development()).payload, Some([3; 8]));
}

#[test]
fn a_file_that_loses_the_mark_is_never_sealed() {
    let encoding = Encoding::Jpeg { quality: 1 };
    let error = Marked::seal(&drawing(), [3; 8], &Key::development(), encoding).unwrap_err();
    assert_eq!(error, MarkError::NotReadable);
    assert_eq!(error.code(), "watermark_not_readable");
}

#[test]
fn errors_of_imaging_come_through() {
    let encoding = Encoding::Jpeg { quality: 0 };
    let error = Marked::seal(&drawing(), [3; 8], &Key::development(), encoding).unwrap_err();
    assert_eq!(error.code(), "image_quality");
}
