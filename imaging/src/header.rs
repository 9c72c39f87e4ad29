//! Reads just enough of a file to know its size and that it is whole, before any pixel is decoded.
//!
//! Sources: the PNG specification (third edition), ITU-T T.81 annex B, the WebP container specification.

use crate::{ImagingError, SourceFormat};

/// What the header of a file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) animated: bool,
    pub(crate) components: u8,
}

/// A progressive JPEG sends each of its coefficients in a few scans, 10 by usual encoders; each one costs
/// a pass over all pixels, so that a small file of many empty scans would keep a core busy for hours.
const SCANS_MAX: usize = 128;

/// Reads the header of `bytes`.
pub(crate) fn read(bytes: &[u8], format: SourceFormat) -> Result<Header, ImagingError> {
    let header = match format {
        SourceFormat::Png => png(bytes),
        SourceFormat::Jpeg => jpeg(bytes),
        SourceFormat::Webp => webp(bytes),
    };
    header.map_err(|reason| ImagingError::Unreadable { format: format.name(), reason: reason.to_owned() })
}

const CUT: &str = "the file ends too early";

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], &'static str> {
    let end = at.checked_add(N).ok_or(CUT)?;
    bytes.get(at..end).and_then(|part| part.try_into().ok()).ok_or(CUT)
}

/// Walks the chunks to the end mark; checksums are the decoder's.
fn png(bytes: &[u8]) -> Result<Header, &'static str> {
    if take::<8>(bytes, 8)? != *b"\0\0\0\x0dIHDR" {
        return Err("it does not begin with a header chunk");
    }
    let width = u32::from_be_bytes(take(bytes, 16)?);
    let height = u32::from_be_bytes(take(bytes, 20)?);
    let mut header = Header { width, height, animated: false, components: 3 };
    let mut at = 8usize;
    loop {
        let length = u32::from_be_bytes(take(bytes, at)?) as usize;
        let kind: [u8; 4] = take(bytes, at + 4)?;
        at = at.checked_add(12).and_then(|start| start.checked_add(length)).ok_or(CUT)?;
        if at > bytes.len() {
            return Err(CUT);
        }
        match &kind {
            b"acTL" => header.animated = true,
            b"IEND" => return Ok(header),
            _ => {}
        }
    }
}

/// Walks the segments and scans to the end mark: decoders fill what a cut file lacks with grey.
fn jpeg(bytes: &[u8]) -> Result<Header, &'static str> {
    let mut header = None;
    let mut scans = 0;
    let mut at = 2usize;
    loop {
        let marker = next_marker(bytes, &mut at)?;
        match marker {
            0xD9 if scans == 0 => return Err("it has no scan"),
            0xD9 => return header.ok_or("it has no frame header"),
            // Restart marks and TEM stand alone; a second start of image is found in no whole file.
            0x01 | 0xD0..=0xD7 => continue,
            0xD8 => return Err("it begins twice"),
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(take(bytes, at)?));
        if length < 2 {
            return Err("a segment has no length");
        }
        let is_frame = matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC);
        if is_frame && header.is_some() {
            return Err("it has two frames");
        }
        if is_frame {
            let [height_hi, height_lo, width_hi, width_lo, components] = take(bytes, at + 3)?;
            header = Some(Header {
                width: u32::from(u16::from_be_bytes([width_hi, width_lo])),
                height: u32::from(u16::from_be_bytes([height_hi, height_lo])),
                animated: false,
                components,
            });
        }
        at += length;
        if marker == 0xDA {
            scans += 1;
            if scans > SCANS_MAX {
                return Err("it has too many scans");
            }
        }
    }
}

/// Finds the next marker at or after `at`, over entropy-coded data and fill bytes, and steps past it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Result<u8, &'static str> {
    loop {
        let rest = bytes.get(*at..).ok_or(CUT)?;
        let offset = rest.iter().position(|&byte| byte == 0xFF).ok_or(CUT)?;
        let [marker] = take(bytes, *at + offset + 1)?;
        *at += offset + 1;
        if marker != 0xFF {
            *at += 1;
        }
        if marker != 0xFF && marker != 0 {
            return Ok(marker);
        }
    }
}

/// Walks the chunks, each of which must lie inside of the file.
fn webp(bytes: &[u8]) -> Result<Header, &'static str> {
    let end = (u32::from_le_bytes(take(bytes, 4)?) as usize).saturating_add(8);
    if end > bytes.len() {
        return Err(CUT);
    }
    let mut canvas = None;
    let mut frame = None;
    let mut animated = false;
    let mut at = 12usize;
    while at + 8 <= end {
        let kind: [u8; 4] = take(bytes, at)?;
        let length = u32::from_le_bytes(take(bytes, at + 4)?) as usize;
        let body = at + 8;
        match &kind {
            b"VP8X" => {
                let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = take(bytes, body)?;
                animated |= flags & 0b10 != 0;
                canvas =
                    Some((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1));
            }
            b"VP8 " => {
                let [w0, w1, h0, h1] = take(bytes, body + 6)?;
                let side = |lo, hi| u32::from(u16::from_le_bytes([lo, hi]) & 0x3FFF);
                frame = Some((side(w0, w1), side(h0, h1)));
            }
            b"VP8L" => {
                let bits = u32::from_le_bytes(take(bytes, body + 1)?);
                frame = Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1));
            }
            b"ANIM" | b"ANMF" => animated = true,
            _ => {}
        }
        at = body.checked_add(length).and_then(|stop| stop.checked_add(length & 1)).ok_or(CUT)?;
        if at > end {
            return Err(CUT);
        }
    }
    let (width, height) = canvas.or(frame).ok_or("it has no picture chunk")?;
    if !animated && frame.is_none() {
        return Err("it has no picture chunk");
    }
    Ok(Header { width, height, animated, components: 3 })
}
