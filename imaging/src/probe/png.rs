//! PNG, third edition: signature, then chunks of length, type, data and CRC. <https://www.w3.org/TR/png-3/>

use super::{Header, truncated, unreadable};
use crate::{ImagingError, SourceFormat};

const FORMAT: SourceFormat = SourceFormat::Png;
const SIGNATURE_BYTES: usize = 8;
/// Length, type and CRC.
const CHUNK_OVERHEAD: usize = 12;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImagingError> {
    let mut rest = &bytes[SIGNATURE_BYTES..];
    let (kind, ihdr, after) = chunk(rest)?;
    let [w0, w1, w2, w3, h0, h1, h2, h3, ..] = *ihdr else {
        return Err(unreadable(FORMAT, "its IHDR chunk is too short"));
    };
    if &kind != b"IHDR" {
        return Err(unreadable(FORMAT, "it does not begin with an IHDR chunk"));
    }
    rest = after;
    let mut exif = None;
    loop {
        let (kind, data, after) = chunk(rest)?;
        match &kind {
            b"acTL" => return Err(ImagingError::Animated { format: FORMAT }),
            b"eXIf" => exif = exif.or(Some(data)),
            b"IEND" => break,
            _ => {}
        }
        rest = after;
    }
    let width = u32::from_be_bytes([w0, w1, w2, w3]);
    let height = u32::from_be_bytes([h0, h1, h2, h3]);
    Ok(Header::new(width, height, exif))
}

/// The type and data of the first chunk in `bytes`, and what follows it.
fn chunk(bytes: &[u8]) -> Result<([u8; 4], &[u8], &[u8]), ImagingError> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(FORMAT))?;
    let [l0, l1, l2, l3, kind @ ..] = *head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length + CHUNK_OVERHEAD > bytes.len() {
        return Err(truncated(FORMAT));
    }
    Ok((kind, &rest[..length], &bytes[length + CHUNK_OVERHEAD..]))
}
