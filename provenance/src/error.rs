use kraftr_imaging::ImagingError;

/// Why a picture could not be marked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// Too few pixels to carry the payload.
    #[error("a picture of {width}x{height} pixels is too small for a watermark: each side needs {side_min}")]
    TooSmall {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Pixels that a side needs.
        side_min: u32,
    },
    /// The mark could not be read back from the encoded picture, however strong it was made.
    #[error(
        "the watermark cannot be read back from the encoded picture: encode it less coarsely, or render it anew"
    )]
    NotReadable,
    /// The picture could not be encoded, or its bytes not decoded again.
    #[error(transparent)]
    Imaging(#[from] ImagingError),
}

impl MarkError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "watermark_image_too_small",
            Self::NotReadable => "watermark_not_readable",
            Self::Imaging(error) => error.code(),
        }
    }
}

/// Why a key or a ring of keys was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes in hexadecimal. The text is not repeated, as it may be most of a secret.
    #[error("a watermark key is 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
    Secret,
    /// A name that is empty, long or has characters beyond `a-z`, `0-9`, `-` and `_`.
    #[error("the name of a watermark key is 1 to 32 of a-z, 0-9, - and _")]
    Id,
    /// A ring without a key to embed with.
    #[error("a key ring needs a key: the first one embeds, all are tried on detection")]
    Empty,
    /// More keys than the false-positive bound allows for.
    #[error("a key ring has at most {max} keys, not {keys}: retire the oldest")]
    TooMany {
        /// Keys given.
        keys: usize,
        /// Keys that are taken.
        max: usize,
    },
    /// Two keys under one name.
    #[error("two watermark keys are named {id}: name each after when it was made")]
    Duplicate {
        /// The name.
        id: String,
    },
}
