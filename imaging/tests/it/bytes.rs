//! Builds picture files by hand, so that they can be wrong in one chosen way.

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, Rgb};
use kraftr_imaging::{Encoding, Limits, RgbImage, encode};

pub(crate) const LIMITS: Limits =
    Limits { bytes_max: 1 << 20, side_min: 1, side_max: 8192, pixels_max: 40_000_000, aspect_max: 16 };

pub(crate) fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7 % 256) as u8, (y * 5 % 256) as u8, ((x + y) * 3 % 256) as u8])
    })
}

pub(crate) fn file(width: u32, height: u32, encoding: Encoding) -> Vec<u8> {
    encode(&picture(width, height), encoding).unwrap()
}

pub(crate) const ENCODINGS: [Encoding; 3] = [Encoding::Png, Encoding::Jpeg { quality: 90 }, Encoding::Webp];

pub(crate) fn png_of(samples: &[u8], width: u32, height: u32, colour: ExtendedColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(samples, width, height, colour).unwrap();
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

pub(crate) fn png_chunk(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    let checked = [&kind[..], body].concat();
    [&(body.len() as u32).to_be_bytes()[..], &checked, &crc(&checked).to_be_bytes()].concat()
}

/// A PNG of the given header, with `chunks` after it and the end mark.
pub(crate) fn png(width: u32, height: u32, depth: u8, colour: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(*b"IHDR", &header), chunks.concat(), png_chunk(*b"IEND", &[])]
        .concat()
}

fn adler(bytes: impl Iterator<Item = u8>) -> u32 {
    let (a, b) = bytes.fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

/// A zlib stream of `bytes`, stored.
pub(crate) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = bytes.chunks(65_535).count();
    for (index, block) in bytes.chunks(65_535).enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(index + 1 == blocks));
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(&(!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
    stream.extend_from_slice(&adler(bytes.iter().copied()).to_be_bytes());
    stream
}

/// A zlib stream that inflates to about `blown` zeros at 1:1032, the most that deflate can do.
pub(crate) fn bomb(blown: usize) -> Vec<u8> {
    // Final block, fixed codes: a literal 0, then matches of 258 bytes at distance 1, one bit pattern of
    // 8 + 5 bits each, then the end code. Bits fill bytes from the low end; codes are sent high bit first.
    let mut bits: Vec<bool> = vec![true, true, false];
    let mut code = |value: u32, length: u32| {
        bits.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    };
    code(0b0011_0000, 8);
    for _ in 0..blown / 258 {
        code(0b1100_0101, 8);
        code(0, 5);
    }
    code(0, 7);
    let mut stream = vec![0x78, 0x01];
    stream.extend(
        bits.chunks(8).map(|byte| byte.iter().enumerate().map(|(bit, &on)| u8::from(on) << bit).sum::<u8>()),
    );
    stream.extend_from_slice(&adler(std::iter::repeat_n(0, 1 + blown / 258 * 258)).to_be_bytes());
    stream
}

/// The Exif block (TIFF, little endian) that holds only an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// `picture` stored with an Exif orientation.
pub(crate) fn oriented(picture: &RgbImage, encoding: Encoding, orientation: u8) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let mut bytes = Vec::new();
    let exif = exif(orientation);
    let colour = ExtendedColorType::Rgb8;
    match encoding {
        Encoding::Png => {
            let mut encoder = PngEncoder::new(&mut bytes);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(picture, width, height, colour).unwrap();
        }
        Encoding::Jpeg { quality } => {
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(picture, width, height, colour).unwrap();
        }
        Encoding::Webp => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(picture, width, height, colour).unwrap();
        }
    }
    bytes
}

/// Overwrites the component count and the size in the frame header of a JPEG.
pub(crate) fn jpeg_with_frame(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let at = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
    change(&mut bytes[at + 4..at + 2 + length]);
    bytes
}

/// A WebP container of the given chunks.
pub(crate) fn webp(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (kind, data) in chunks {
        body.extend_from_slice(&kind[..]);
        body.extend_from_slice(&(data.len() as u32).to_le_bytes());
        body.extend_from_slice(data);
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [b"RIFF".to_vec(), (body.len() as u32).to_le_bytes().to_vec(), body].concat()
}
