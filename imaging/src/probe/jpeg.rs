//! JPEG: segments of a marker, a length and data; entropy-coded data after each start of scan. ITU-T T.81, annex B.

use super::{Header, truncated, unreadable};
use crate::{ImagingError, SourceFormat};

const FORMAT: SourceFormat = SourceFormat::Jpeg;
const EXIF: &[u8] = b"Exif\0\0";

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImagingError> {
    let mut size = None;
    let mut exif = None;
    let mut at = 2;
    loop {
        let (marker, after) = next_marker(bytes, at)?;
        at = after;
        let segment = match marker {
            // End of image: whatever follows (previews, depth maps, garbage) is not the picture.
            0xd9 => break,
            // Markers without a segment: temporary use, restarts, start of image.
            0x01 | 0xd0..=0xd8 => continue,
            _ => segment(bytes, at)?,
        };
        match marker {
            0xe1 => exif = exif.or(segment.strip_prefix(EXIF)),
            // Start of frame; c4, c8 and cc are tables and an extension that nobody writes.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => size = size.or(Some(frame(marker, segment)?)),
            _ => {}
        }
        at += segment.len() + 2;
    }
    let (width, height) = size.ok_or_else(|| unreadable(FORMAT, "it holds no picture"))?;
    Ok(Header::new(width, height, exif))
}

/// The next marker at or after `at`, skipping entropy-coded data and fill bytes, and where it ends.
fn next_marker(bytes: &[u8], at: usize) -> Result<(u8, usize), ImagingError> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.windows(2)
        .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))
        .map(|found| (rest[found + 1], at + found + 2))
        .ok_or_else(|| truncated(FORMAT))
}

/// The data of the segment whose length stands at `at`.
fn segment(bytes: &[u8], at: usize) -> Result<&[u8], ImagingError> {
    let length = bytes.get(at..at + 2).ok_or_else(|| truncated(FORMAT))?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < 2 {
        return Err(unreadable(FORMAT, "a segment is shorter than its own length"));
    }
    bytes.get(at + 2..at + length).ok_or_else(|| truncated(FORMAT))
}

/// Width and height of a start-of-frame segment.
fn frame(marker: u8, segment: &[u8]) -> Result<(u32, u32), ImagingError> {
    let &[precision, h0, h1, w0, w1, ..] = segment else {
        return Err(unreadable(FORMAT, "its frame header is too short"));
    };
    if !matches!(marker, 0xc0..=0xc2) {
        return Err(unreadable(FORMAT, "it is lossless, hierarchical or arithmetic-coded"));
    }
    if precision != 8 {
        return Err(unreadable(FORMAT, "its samples are not 8-bit"));
    }
    let (width, height) = (u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]));
    Ok((width.into(), height.into()))
}
