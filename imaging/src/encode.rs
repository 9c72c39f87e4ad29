//! Pixels to the bytes of a file.

use image::codecs::{
    jpeg::JpegEncoder,
    png::{CompressionType, FilterType, PngEncoder},
    webp::WebPEncoder,
};
use image::{ExtendedColorType, ImageEncoder, RgbImage, RgbaImage};

use crate::ImagingError;

/// How a picture is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Lossless PNG, with the quick compression that large assets need.
    Png,
    /// Baseline JPEG.
    Jpeg {
        /// 1 (smallest) to 100 (best).
        quality: u8,
    },
    /// Lossless WebP.
    Webp,
}

impl Encoding {
    /// The media type, as in an HTTP header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// The longest side that the format can store.
    fn side_max(self) -> u32 {
        match self {
            Self::Png => i32::MAX as u32,
            Self::Jpeg { .. } => 65_535,
            Self::Webp => 16_384,
        }
    }
}

/// Encodes `image`; the file has no metadata.
pub fn encode(image: &RgbImage, encoding: Encoding) -> Result<Vec<u8>, ImagingError> {
    write(image, image.dimensions(), ExtendedColorType::Rgb8, encoding)
}

/// As [`encode`], with transparency, which JPEG cannot store.
pub fn encode_transparent(image: &RgbaImage, encoding: Encoding) -> Result<Vec<u8>, ImagingError> {
    write(image, image.dimensions(), ExtendedColorType::Rgba8, encoding)
}

fn write(
    pixels: &[u8],
    (width, height): (u32, u32),
    colour: ExtendedColorType,
    encoding: Encoding,
) -> Result<Vec<u8>, ImagingError> {
    let unencodable = |reason: String| ImagingError::Unencodable { width, height, reason };
    let max = encoding.side_max();
    if width == 0 || height == 0 || width > max || height > max {
        return Err(unencodable(format!("{} has sides of 1 to {max}", encoding.content_type())));
    }
    let mut file = Vec::new();
    let written = match encoding {
        Encoding::Png => PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Adaptive)
            .write_image(pixels, width, height, colour),
        Encoding::Jpeg { quality } if !(1..=100).contains(&quality) => {
            return Err(ImagingError::Quality(quality));
        }
        Encoding::Jpeg { quality } => {
            JpegEncoder::new_with_quality(&mut file, quality).write_image(pixels, width, height, colour)
        }
        Encoding::Webp => WebPEncoder::new_lossless(&mut file).write_image(pixels, width, height, colour),
    };
    written.map_err(|error| unencodable(error.to_string()))?;
    Ok(file)
}
