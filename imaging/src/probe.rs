//! What a file says about itself, read by us before any decoder sees it: the walk over its chunks allocates
//! nothing and knows nothing of pixels.

mod jpeg;
mod png;
mod webp;

use image::metadata::Orientation;

use crate::{ImagingError, SourceFormat};

/// What the container says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Pixels across, as stored: before the orientation is applied.
    pub(crate) width: u32,
    /// Pixels down, as stored.
    pub(crate) height: u32,
    /// How the stored picture is to be turned.
    pub(crate) orientation: Orientation,
}

impl Header {
    fn new(width: u32, height: u32, exif: Option<&[u8]>) -> Self {
        let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
        Self { width, height, orientation }
    }
}

/// Tells the format by its first bytes.
pub(crate) fn sniff(bytes: &[u8]) -> Result<SourceFormat, ImagingError> {
    if bytes.is_empty() {
        return Err(ImagingError::Empty);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(SourceFormat::Png);
    }
    if bytes.starts_with(b"\xff\xd8\xff") {
        return Ok(SourceFormat::Jpeg);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(SourceFormat::Webp);
    }
    Err(ImagingError::FormatUnsupported { found: name(bytes) })
}

/// Reads the header of a file of this format, and makes sure that the file goes on to its end.
pub(crate) fn header(format: SourceFormat, bytes: &[u8]) -> Result<Header, ImagingError> {
    match format {
        SourceFormat::Png => png::header(bytes),
        SourceFormat::Jpeg => jpeg::header(bytes),
        SourceFormat::Webp => webp::header(bytes),
    }
}

/// A name for what else is often sent.
fn name(bytes: &[u8]) -> &'static str {
    let brand = if bytes.get(4..8) == Some(b"ftyp") { bytes.get(8..12).unwrap_or_default() } else { &[] };
    match bytes {
        [b'G', b'I', b'F', b'8', ..] => "a GIF",
        [b'B', b'M', ..] => "a BMP",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF or camera raw file",
        [b'%', b'P', b'D', b'F', ..] => "a PDF",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
        _ if matches!(brand, b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1") => "a HEIC",
        _ if matches!(brand, b"avif" | b"avis") => "an AVIF",
        _ if std::str::from_utf8(&bytes[..bytes.len().min(256)]).is_ok() => "text",
        _ => "of an unknown kind",
    }
}

fn truncated(format: SourceFormat) -> ImagingError {
    ImagingError::Truncated { format }
}

fn unreadable(format: SourceFormat, reason: &str) -> ImagingError {
    ImagingError::Unreadable { format, reason: reason.to_owned() }
}
