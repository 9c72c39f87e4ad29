use kraftr_imaging::{Encoding, decode};
use kraftr_provenance::{Key, KeyRing, MarkError, Marked, detect};

use crate::pictures::{LIMITS, picture};

#[test]
fn a_sealed_file_holds_its_mark() {
    for seed in 0..10 {
        let image = picture(seed, 200, 300);
        for encoding in [Encoding::Png, Encoding::Webp, Encoding::Jpeg { quality: 75 }] {
            let marked = Marked::seal(&image, [seed as u8; 8], &Key::development(), encoding).unwrap();
            assert_eq!((marked.width(), marked.height(), marked.encoding()), (200, 300, encoding));
            let decoded = decode(marked.bytes(), &LIMITS).unwrap();
            assert_eq!(decoded.image.dimensions(), (200, 300));
            assert_eq!(decoded.format.content_type(), encoding.content_type());
            let detection = detect(&decoded.image, &KeyRing::development());
            assert_eq!(detection.payload, Some([seed as u8; 8]));
            assert_eq!(marked.clone().into_bytes(), marked.bytes());
        }
    }
}

#[test]
fn what_normal_strength_loses_is_sealed_stronger() {
    let marked =
        Marked::seal(&picture(3, 384, 576), [3; 8], &Key::development(), Encoding::Jpeg { quality: 55 })
            .unwrap();
    let image = decode(marked.bytes(), &LIMITS).unwrap().image;
    assert_eq!(detect(&image, &KeyRing::development()).payload, Some([3; 8]));
}

#[test]
fn a_file_that_loses_the_mark_is_never_sealed() {
    let error =
        Marked::seal(&picture(3, 200, 300), [3; 8], &Key::development(), Encoding::Jpeg { quality: 5 })
            .unwrap_err();
    assert_eq!(error, MarkError::NotReadable);
    assert_eq!(error.code(), "watermark_not_readable");
}

#[test]
fn errors_of_imaging_come_through() {
    let error =
        Marked::seal(&picture(3, 200, 300), [3; 8], &Key::development(), Encoding::Jpeg { quality: 0 })
            .unwrap_err();
    assert_eq!(error.code(), "image_quality");
}
