//! Pictures, good and bad, and the form that carries them.

use kraftr_imaging::{Encoding, RgbImage, encode};

/// Media type of [`form`].
pub(super) const FORM_TYPE: &str = "multipart/form-data; boundary=frontier";

pub(super) fn picture(width: u32, height: u32, seed: u8) -> RgbImage {
    let pixel = |n: u32| [(n % width) as u8, (n / width) as u8, seed];
    RgbImage::from_raw(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
}

pub(super) fn png(width: u32, height: u32, seed: u8) -> Vec<u8> {
    encode(&picture(width, height, seed), Encoding::Png).unwrap()
}

/// The first bytes of a PNG that says it has these sides; nothing follows.
pub(super) fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut ihdr = b"IHDR".to_vec();
    ihdr.extend(width.to_be_bytes());
    ihdr.extend(height.to_be_bytes());
    ihdr.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    let crc = crc32(&ihdr);
    file.extend(ihdr);
    file.extend(crc.to_be_bytes());
    file.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82");
    file
}

/// A WebP that says it is animated, and one frame's header.
pub(super) fn animated_webp() -> Vec<u8> {
    let mut body = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0\x5f\0\0\x8f\0\0ANIM\x06\0\0\0\0\0\0\0\0\0".to_vec();
    body.extend(b"ANMF\x10\0\0\0\0\0\0\0\0\0\x5f\0\0\x8f\0\0\x64\0\0\0");
    let mut file = b"RIFF".to_vec();
    file.extend((body.len() as u32).to_le_bytes());
    file.extend(body);
    file
}

/// A JPEG that says it has four colour components.
pub(super) fn cmyk_jpeg() -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xc0\0\x14\x08\0\x90\0\x60\x04".to_vec();
    for component in 1..=4 {
        file.extend([component, 0x11, 0]);
    }
    file.extend(b"\xff\xda\0\x0e\x04\x01\0\x02\0\x03\0\x04\0\0\x3f\0");
    file.extend([0; 64]);
    file.extend(b"\xff\xd9");
    file
}

/// A multipart form of these fields.
pub(super) fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in fields {
        let head = format!(
            "--frontier\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}.png\"\r\n\
             Content-Type: image/png\r\n\r\n"
        );
        body.extend(head.as_bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--frontier--\r\n");
    body
}

/// ISO 3309, as PNG uses it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
