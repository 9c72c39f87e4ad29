use kraftr_imaging::{
    Encoding, ImagingError, Limits, RgbImage, RgbaImage, decode, encode, encode_transparent, over_white,
};

use crate::{Key, KeyRing, MarkError, Strength, detect, embed};

/// The bytes of a picture that is known to carry its mark. It leaves the fleet as a preview, or
/// [signed](crate::credentials::Signed).
///
/// It is made by [`Marked::seal`] alone, from pixels, never from bytes:
///
/// ```
/// use kraftr_imaging::{Encoding, RgbImage};
/// use kraftr_provenance::{Key, Marked};
///
/// let picture = RgbImage::from_fn(256, 256, |x, y| [x as u8, y as u8, 128].into());
/// let marked = Marked::seal(&picture, *b"render 1", &Key::development(), Encoding::Png)?;
/// assert!(marked.bytes().starts_with(b"\x89PNG"));
/// # Ok::<(), kraftr_provenance::MarkError>(())
/// ```
///
/// ```compile_fail,E0451
/// use kraftr_imaging::Encoding;
/// use kraftr_provenance::Marked;
///
/// let unmarked = Marked { bytes: Vec::new(), width: 256, height: 256, encoding: Encoding::Png, payload: [0; 8] };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    bytes: Vec<u8>,
    width: u32,
    height: u32,
    encoding: Encoding,
    payload: [u8; 8],
}

impl Marked {
    /// Marks `image`, encodes it, and reads the mark back from the decoded bytes. Where it cannot be read it is made
    /// stronger, up to [`Strength::Strongest`].
    pub fn seal(
        image: &RgbImage,
        payload: [u8; 8],
        key: &Key,
        encoding: Encoding,
    ) -> Result<Self, MarkError> {
        Self::sealed(image, payload, key, encoding, |marked| encode(&marked, encoding))
    }

    /// As [`Marked::seal`], of a picture that keeps its transparency, and its pixels where nothing of them is seen. What
    /// it shows on white is marked. JPEG has no transparency: what it would show on white is to be sealed instead.
    pub fn seal_transparent(
        image: &RgbaImage,
        payload: [u8; 8],
        key: &Key,
        encoding: Encoding,
    ) -> Result<Self, MarkError> {
        let shown = over_white(image);
        Self::sealed(&shown, payload, key, encoding, |marked| {
            encode_transparent(&changed_alike(image, &shown, &marked), encoding)
        })
    }

    /// Marks what is `shown` and stores it as `store` says until the mark can be read.
    fn sealed(
        shown: &RgbImage,
        payload: [u8; 8],
        key: &Key,
        encoding: Encoding,
        store: impl Fn(RgbImage) -> Result<Vec<u8>, ImagingError>,
    ) -> Result<Self, MarkError> {
        let (width, height) = shown.dimensions();
        let keys = KeyRing::only(key);
        for strength in Strength::ALL {
            let bytes = store(embed(shown, payload, key, strength)?)?;
            let seen = decode(&bytes, &Limits::exactly(width, height, bytes.len()))?.image;
            if detect(&seen, &keys).payload == Some(payload) {
                return Ok(Self { bytes, width, height, encoding, payload });
            }
        }
        Err(MarkError::NotReadable)
    }

    /// The same pixels in another file.
    pub(crate) fn with_bytes(self, bytes: Vec<u8>) -> Self {
        Self { bytes, ..self }
    }

    /// What the mark carries.
    pub const fn payload(&self) -> [u8; 8] {
        self.payload
    }

    /// The encoded picture.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The encoded picture.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Pixels across.
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down.
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// How it is encoded.
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }
}

/// `image` with the changes that make `marked` of what it has `shown`, but for pixels that show nothing.
fn changed_alike(image: &RgbaImage, shown: &RgbImage, marked: &RgbImage) -> RgbaImage {
    let mut changed = image.clone();
    for ((pixel, shown), marked) in changed.pixels_mut().zip(shown.pixels()).zip(marked.pixels()) {
        if pixel.0[3] > 0 {
            for ((level, shown), marked) in pixel.0.iter_mut().zip(shown.0).zip(marked.0) {
                let change = i16::from(marked) - i16::from(shown);
                *level = (i16::from(*level) + change).clamp(0, 255) as u8;
            }
        }
    }
    changed
}
