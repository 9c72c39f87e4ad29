//! What can be wrong with a picture, in words its sender can act on.

use thiserror::Error;

/// Why a picture was refused or could not be made.
///
/// The message says what to do about it; [`ImagingError::code`] is the stable word for programs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImagingError {
    /// No bytes at all.
    #[error("the picture is empty: send the bytes of a PNG, JPEG or WebP file")]
    Empty,
    /// More bytes than the limit.
    #[error("the picture has {bytes} bytes, at most {max} are accepted: scale it down or compress it more")]
    TooLarge {
        /// Bytes received.
        bytes: usize,
        /// Most bytes accepted.
        max: usize,
    },
    /// The first bytes are of no format that is read here.
    #[error("this is not a PNG, JPEG or WebP picture: convert it to one of these")]
    FormatUnsupported,
    /// The format is known, the content is damaged or uses a feature that is not read.
    #[error("the {format} picture cannot be read ({reason}): save it again or send another")]
    Unreadable {
        /// Name of the format.
        format: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// A side is outside of the accepted range.
    #[error("the picture is {width}x{height} pixels, each side must be {min} to {max}: scale it")]
    Dimensions {
        /// Width in pixels, as stored.
        width: u32,
        /// Height in pixels, as stored.
        height: u32,
        /// Shortest accepted side.
        min: u32,
        /// Longest accepted side.
        max: u32,
    },
    /// Too many pixels in all.
    #[error("the picture has {pixels} pixels, at most {max} are accepted: scale it down")]
    Pixels {
        /// Width times height.
        pixels: u64,
        /// Most pixels accepted.
        max: u64,
    },
    /// One side is too many times longer than the other.
    #[error(
        "the picture is {width}x{height} pixels, the long side may be at most {max} times the short: crop it"
    )]
    Aspect {
        /// Width in pixels, as stored.
        width: u32,
        /// Height in pixels, as stored.
        height: u32,
        /// Largest accepted ratio of the sides.
        max: u32,
    },
    /// More than one frame.
    #[error("the {format} picture is animated: send a single frame")]
    Animated {
        /// Name of the format.
        format: &'static str,
    },
    /// A colour space whose conversion needs a profile, as in CMYK for print.
    #[error("the JPEG picture has {components} colour components (CMYK): convert it to sRGB")]
    ColourUnsupported {
        /// Colour components in its header.
        components: u8,
    },
    /// A picture that the target format cannot hold.
    #[error(
        "a picture of {width}x{height} pixels cannot be encoded ({reason}): choose another size or format"
    )]
    Unencodable {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Which rule it breaks.
        reason: String,
    },
    /// A JPEG quality outside of 1 to 100.
    #[error("the JPEG quality {0} is outside of 1 to 100: choose one inside")]
    Quality(u8),
    /// A size that cannot be scaled to, or a picture that cannot be scaled from.
    #[error("a picture cannot be scaled to {width}x{height} pixels ({reason}): choose sides of 1 to 65535")]
    Unscalable {
        /// Width asked for.
        width: u32,
        /// Height asked for.
        height: u32,
        /// Which rule it breaks.
        reason: String,
    },
}

impl ImagingError {
    /// The stable word for this error, as it appears in answers of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "image_empty",
            Self::TooLarge { .. } => "image_too_large",
            Self::FormatUnsupported => "image_format_unsupported",
            Self::Unreadable { .. } => "image_unreadable",
            Self::Dimensions { .. } | Self::Pixels { .. } => "image_dimensions",
            Self::Aspect { .. } => "image_aspect",
            Self::Animated { .. } => "image_animated",
            Self::ColourUnsupported { .. } => "image_colour_unsupported",
            Self::Unencodable { .. } => "image_unencodable",
            Self::Quality(_) => "image_quality",
            Self::Unscalable { .. } => "image_unscalable",
        }
    }
}
