//! Foreign bytes to pixels, within limits that are checked before a pixel is decoded.

use std::io::Cursor;
use std::panic;

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageResult, Rgb, RgbImage, RgbaImage};

use crate::{ImagingError, header, surplus};

/// Most memory that profiles, texts and one row of a PNG may take while it is read; larger is refused.
const PNG_METADATA_BYTES_MAX: u64 = 16 << 20;

/// What a picture may be at most; all of it is checked against the header.
///
/// Memory while decoding is bounded by about 12 bytes for each of `pixels_max` and a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the file.
    pub bytes_max: usize,
    /// Shortest side, in pixels.
    pub side_min: u32,
    /// Longest side, in pixels.
    pub side_max: u32,
    /// Most pixels in all.
    pub pixels_max: u64,
    /// The long side is at most this many times the short.
    pub aspect_max: u32,
}

/// The formats that are read, told by their first bytes, never by a file name or a content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// Portable Network Graphics.
    Png,
    /// JPEG, baseline or progressive, grey or colour.
    Jpeg,
    /// WebP, lossy or lossless.
    Webp,
}

impl SourceFormat {
    /// The media type, as in an HTTP header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Webp => "WebP",
        }
    }

    /// What the first bytes say; `None` when it is none of these.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"\xFF\xD8\xFF") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::Webp)
        } else {
            None
        }
    }
}

/// A picture and what it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Upright pixels; transparency is laid over white.
    pub image: RgbImage,
    /// The format of the file.
    pub format: SourceFormat,
}

/// Upright pixels, as a file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pixels {
    /// Of a picture without transparency.
    Opaque(RgbImage),
    /// Of one with it; colours are not multiplied by it.
    Transparent(RgbaImage),
}

impl Pixels {
    /// What is seen of them on white paper.
    pub fn over_white(self) -> RgbImage {
        match self {
            Self::Opaque(image) => image,
            Self::Transparent(image) => over_white(&image),
        }
    }
}

/// Decodes a foreign picture.
///
/// The format is told by the bytes; size, sides, pixels, aspect and completeness are checked on the header
/// before a pixel is decoded. The Exif orientation is applied, transparency is laid over white, 16-bit
/// samples become 8-bit, and all metadata stays behind. Samples are taken as sRGB: an embedded colour
/// profile is not applied. A JPEG that lost data in the middle and still has its end mark decodes, with
/// invented pixels there, as it does in browsers.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImagingError> {
    let (pixels, format) = upright(bytes, limits)?;
    Ok(Decoded { image: pixels.over_white(), format })
}

/// As [`decode`], with the transparency of a picture that has some.
pub fn decode_transparent(bytes: &[u8], limits: &Limits) -> Result<Pixels, ImagingError> {
    upright(bytes, limits).map(|(pixels, _)| pixels)
}

/// The pixels of a file as they are to be seen.
fn upright(bytes: &[u8], limits: &Limits) -> Result<(Pixels, SourceFormat), ImagingError> {
    if bytes.is_empty() {
        return Err(ImagingError::Empty);
    }
    if bytes.len() > limits.bytes_max {
        return Err(ImagingError::TooLarge { bytes: bytes.len(), max: limits.bytes_max });
    }
    let format = SourceFormat::sniff(bytes).ok_or(ImagingError::FormatUnsupported)?;
    let header = header::read(bytes, format)?;
    limits.check(header.width, header.height)?;
    if header.animated {
        return Err(ImagingError::Animated { format: format.name() });
    }
    if !matches!(header.components, 1 | 3) {
        return Err(ImagingError::ColourUnsupported { components: header.components });
    }
    if format == SourceFormat::Png && surplus::has_surplus(bytes) {
        let reason = "its data goes on after its last row".to_owned();
        return Err(ImagingError::Unreadable { format: format.name(), reason });
    }
    // A decoder that panics on bytes made to break it must not take its caller along.
    let outcome = panic::catch_unwind(|| match format {
        SourceFormat::Png => png(bytes),
        SourceFormat::Jpeg => JpegDecoder::new(Cursor::new(bytes)).and_then(pixels),
        SourceFormat::Webp => WebPDecoder::new(Cursor::new(bytes)).and_then(pixels),
    });
    let Ok(decoded) = outcome else {
        let reason = "its decoder gave up".to_owned();
        return Err(ImagingError::Unreadable { format: format.name(), reason });
    };
    let (pixels, orientation) = decoded.map_err(|error| unreadable(format, &error))?;
    if (pixels.width(), pixels.height()) != (header.width, header.height) {
        let reason = "its headers disagree on the size".to_owned();
        return Err(ImagingError::Unreadable { format: format.name(), reason });
    }
    // Turned as bytes: a turned copy of deeper samples would take more memory than the limits promise.
    let pixels = if pixels.color().has_alpha() {
        let mut upright = DynamicImage::ImageRgba8(pixels.into_rgba8());
        upright.apply_orientation(orientation);
        Pixels::Transparent(upright.into_rgba8())
    } else {
        let mut upright = DynamicImage::ImageRgb8(pixels.into_rgb8());
        upright.apply_orientation(orientation);
        Pixels::Opaque(upright.into_rgb8())
    };
    Ok((pixels, format))
}

impl Limits {
    /// What holds a picture of one size in a file of so many bytes, as when our own file is read back.
    pub const fn exactly(width: u32, height: u32, bytes: usize) -> Self {
        let (short, long) = if width < height { (width, height) } else { (height, width) };
        Self {
            bytes_max: bytes,
            side_min: short,
            side_max: long,
            pixels_max: width as u64 * height as u64,
            aspect_max: long,
        }
    }

    fn check(&self, width: u32, height: u32) -> Result<(), ImagingError> {
        let (short, long) = (width.min(height), width.max(height));
        if short < self.side_min.max(1) || long > self.side_max {
            let (min, max) = (self.side_min.max(1), self.side_max);
            return Err(ImagingError::Dimensions { width, height, min, max });
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.pixels_max {
            return Err(ImagingError::Pixels { pixels, max: self.pixels_max });
        }
        if u64::from(long) > u64::from(short) * u64::from(self.aspect_max) {
            return Err(ImagingError::Aspect { width, height, max: self.aspect_max });
        }
        Ok(())
    }
}

fn png(bytes: &[u8]) -> ImageResult<(DynamicImage, Orientation)> {
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(PNG_METADATA_BYTES_MAX);
    PngDecoder::with_limits(Cursor::new(bytes), limits).and_then(pixels)
}

fn pixels(mut decoder: impl ImageDecoder) -> ImageResult<(DynamicImage, Orientation)> {
    let orientation = decoder.orientation()?;
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

fn unreadable(format: SourceFormat, error: &ImageError) -> ImagingError {
    ImagingError::Unreadable { format: format.name(), reason: error.to_string() }
}

/// What a transparent picture shows on white paper.
pub fn over_white(picture: &RgbaImage) -> RgbImage {
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (from, to) in picture.pixels().zip(opaque.pixels_mut()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        let blend = |sample: u32| ((sample * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        *to = Rgb([blend(r), blend(g), blend(b)]);
    }
    opaque
}
