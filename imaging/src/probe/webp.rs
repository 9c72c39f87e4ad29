//! WebP: a RIFF container around one VP8 or VP8L bitstream. RFC 9649.

use super::{Header, truncated, unreadable};
use crate::{ImagingError, SourceFormat};

const FORMAT: SourceFormat = SourceFormat::Webp;
/// "RIFF", the length of what follows, "WEBP".
const RIFF_HEADER_BYTES: usize = 12;
/// Set in VP8X's first byte for animations.
const ANIMATION: u8 = 1 << 1;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImagingError> {
    let length = bytes.get(4..8).map_or(0, le) as usize;
    let mut rest = bytes.get(RIFF_HEADER_BYTES..length.saturating_add(8)).ok_or_else(|| truncated(FORMAT))?;
    let mut canvas = None;
    let mut frame = None;
    let mut exif = None;
    while !rest.is_empty() {
        let (kind, data, after) = chunk(rest)?;
        match &kind {
            b"VP8X" => canvas = canvas.or(Some(extended(data)?)),
            b"ANIM" | b"ANMF" => return Err(ImagingError::Animated { format: FORMAT }),
            b"VP8 " if frame.is_none() => frame = Some(lossy(data)?),
            b"VP8L" if frame.is_none() => frame = Some(lossless(data)?),
            b"EXIF" => exif = exif.or(Some(data)),
            _ => {}
        }
        rest = after;
    }
    let (width, height) = frame.ok_or_else(|| unreadable(FORMAT, "it holds no picture"))?;
    // The bitstream decides how much memory decoding takes, so a small canvas must not hide a large frame.
    if canvas.is_some_and(|canvas| canvas != (width, height)) {
        return Err(unreadable(FORMAT, "its canvas and its picture differ in size"));
    }
    // Some writers keep the prefix that only JPEG needs.
    let exif = exif.map(|data: &[u8]| data.strip_prefix(b"Exif\0\0").unwrap_or(data));
    Ok(Header::new(width, height, exif))
}

/// The type and data of the first chunk in `bytes`, and what follows it and its padding.
fn chunk(bytes: &[u8]) -> Result<([u8; 4], &[u8], &[u8]), ImagingError> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(FORMAT))?;
    let [kind @ .., _, _, _, _] = *head;
    let length = le(&head[4..]) as usize;
    let data = rest.get(..length).ok_or_else(|| truncated(FORMAT))?;
    Ok((kind, data, rest.get(length + length % 2..).unwrap_or_default()))
}

fn extended(data: &[u8]) -> Result<(u32, u32), ImagingError> {
    let (Some(flags), Some(width), Some(height)) = (data.first(), data.get(4..7), data.get(7..10)) else {
        return Err(unreadable(FORMAT, "its VP8X chunk is too short"));
    };
    if flags & ANIMATION != 0 {
        return Err(ImagingError::Animated { format: FORMAT });
    }
    Ok((le(width) + 1, le(height) + 1))
}

fn lossy(data: &[u8]) -> Result<(u32, u32), ImagingError> {
    let (Some(width), Some(height)) = (data.get(6..8), data.get(8..10)) else {
        return Err(unreadable(FORMAT, "its VP8 chunk is too short"));
    };
    // The upper two bits ask for scaling when shown.
    Ok((le(width) & 0x3fff, le(height) & 0x3fff))
}

fn lossless(data: &[u8]) -> Result<(u32, u32), ImagingError> {
    let Some(bits) = data.get(1..5).map(le) else {
        return Err(unreadable(FORMAT, "its VP8L chunk is too short"));
    };
    Ok(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
}

/// Up to four bytes, little endian.
fn le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
