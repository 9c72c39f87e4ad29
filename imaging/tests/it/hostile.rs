use kraftr_imaging::{Encoding, ImagingError, Limits, decode};

use crate::bytes::{ENCODINGS, LIMITS, bomb, file, jpeg_with_frame, png, png_chunk, webp, zlib};

fn refusal(bytes: &[u8]) -> ImagingError {
    decode(bytes, &LIMITS).unwrap_err()
}

#[test]
fn bytes_that_are_no_picture() {
    assert_eq!(refusal(b"").code(), "image_empty");
    assert_eq!(refusal(b"a letter, not a picture").code(), "image_format_unsupported");
    assert_eq!(refusal(b"GIF89a\x01\0\x01\0").code(), "image_format_unsupported");
    let large = vec![0; LIMITS.bytes_max + 1];
    assert_eq!(refusal(&large).code(), "image_too_large");
}

#[test]
fn declared_sizes_are_checked_before_pixels() {
    // No pixel data follows these headers, so that any answer but the size comes from decoding.
    let huge = png(30_000, 30_000, 8, 2, &[]);
    assert_eq!(refusal(&huge).code(), "image_dimensions");
    let long = png(8192, 8, 8, 2, &[]);
    assert_eq!(refusal(&long).code(), "image_aspect");
    let many = png(8000, 8000, 8, 2, &[]);
    assert!(matches!(refusal(&many), ImagingError::Pixels { pixels: 64_000_000, .. }));
    let none = png(0, 8, 8, 2, &[]);
    assert_eq!(refusal(&none).code(), "image_dimensions");
    let small = Limits { side_min: 64, ..LIMITS };
    assert_eq!(decode(&file(63, 64, Encoding::Png), &small).unwrap_err().code(), "image_dimensions");
    let jpeg = jpeg_with_frame(file(16, 16, Encoding::Jpeg { quality: 90 }), |frame| {
        frame[1..5].copy_from_slice(&[0xFF; 4]);
    });
    assert_eq!(refusal(&jpeg).code(), "image_dimensions");
    let vp8x = [&[0u8; 4][..], &[0xFF; 6]].concat();
    assert_eq!(refusal(&webp(&[(b"VP8X", vp8x), (b"VP8 ", vec![0; 10])])).code(), "image_dimensions");
}

#[test]
fn bombs_are_refused_and_metadata_is_left_packed() {
    // 64 MiB in 64 KiB: past what metadata may take, and far past the picture that declares 8x8.
    let packed = bomb(64 << 20);
    assert!(packed.len() < 512 << 10);
    let idat = png_chunk(*b"IDAT", &zlib(&[0; 8 * 25]));
    let inflating = png(8, 8, 8, 2, &[png_chunk(*b"IDAT", &packed)]);
    let text = png(8, 8, 8, 2, &[png_chunk(*b"zTXt", &[b"a\0\0", &packed[..]].concat()), idat.clone()]);
    let profile = png(8, 8, 8, 2, &[png_chunk(*b"iCCP", &[b"a\0\0", &packed[..]].concat()), idat]);
    assert_eq!(refusal(&inflating).code(), "image_unreadable");
    for bytes in [text, profile] {
        if let Ok(decoded) = decode(&bytes, &LIMITS) {
            assert_eq!(decoded.image.dimensions(), (8, 8));
        }
    }
}

#[test]
fn more_than_one_frame() {
    let idat = png_chunk(*b"IDAT", &zlib(&[0; 8 * 25]));
    let control = png_chunk(*b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(refusal(&png(8, 8, 8, 2, &[control, idat])).code(), "image_animated");
    let vp8x = vec![0b10, 0, 0, 0, 7, 0, 0, 7, 0, 0];
    let animated = webp(&[(b"VP8X", vp8x), (b"ANIM", vec![0; 6]), (b"ANMF", vec![0; 24])]);
    assert_eq!(refusal(&animated).code(), "image_animated");
}

#[test]
fn colours_for_print() {
    let cmyk = jpeg_with_frame(file(16, 16, Encoding::Jpeg { quality: 90 }), |frame| frame[5] = 4);
    assert_eq!(refusal(&cmyk), ImagingError::ColourUnsupported { components: 4 });
}

#[test]
fn a_wrong_checksum() {
    let mut bytes = png(8, 8, 8, 2, &[png_chunk(*b"IDAT", &zlib(&[9; 8 * 25]))]);
    let crc = bytes.len() - 12 - 1;
    bytes[crc] ^= 1;
    assert_eq!(refusal(&bytes).code(), "image_unreadable");
}

#[test]
fn scans_without_end() {
    let bytes = file(16, 16, Encoding::Jpeg { quality: 90 });
    let at = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    let scan = &bytes[at..bytes.len() - 2];
    let endless = [&bytes[..at], &scan.repeat(200), &[0xFF, 0xD9]].concat();
    assert!(refusal(&endless).to_string().contains("too many scans"));
}

#[test]
fn a_cut_file_is_never_a_picture() {
    for encoding in ENCODINGS {
        let bytes = file(40, 24, encoding);
        assert!(decode(&bytes, &LIMITS).is_ok());
        for length in 0..bytes.len() {
            let error = decode(&bytes[..length], &LIMITS).unwrap_err();
            assert_ne!(error.code(), "", "{encoding:?} cut to {length}");
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for encoding in ENCODINGS {
        let whole = file(24, 16, encoding);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = decode(&bytes, &LIMITS) {
                assert!(decoded.image.width() <= LIMITS.side_max);
            }
        }
    }
}

#[test]
fn bytes_of_another_kind_in_the_middle() {
    for encoding in ENCODINGS {
        let whole = file(24, 16, encoding);
        for at in 2..whole.len() - 4 {
            for noise in [[0; 4], [0xFF; 4], [0xFF, 0xD9, 0xFF, 0xDA]] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&noise);
                if let Err(error) = decode(&bytes, &LIMITS) {
                    assert!(error.code().starts_with("image_"));
                }
            }
        }
    }
}
