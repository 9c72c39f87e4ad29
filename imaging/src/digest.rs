//! What a picture is, whatever file it came in.

use image::RgbImage;
use sha2::{Digest, Sha256};

/// SHA-256 over width and height (32-bit little endian each) and the RGB bytes, row by row: equal for equal
/// pictures, whatever files they came from.
pub fn pixel_digest(image: &RgbImage) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(image.width().to_le_bytes());
    hash.update(image.height().to_le_bytes());
    hash.update(image.as_raw());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_pixels_and_shapes_apart() {
        let a = RgbImage::from_pixel(4, 2, image::Rgb([1, 2, 3]));
        assert_eq!(pixel_digest(&a), pixel_digest(&a.clone()));
        let turned = RgbImage::from_pixel(2, 4, image::Rgb([1, 2, 3]));
        assert_ne!(pixel_digest(&a), pixel_digest(&turned), "the same bytes in another shape");
        let mut b = a.clone();
        b.put_pixel(3, 1, image::Rgb([1, 2, 4]));
        assert_ne!(pixel_digest(&a), pixel_digest(&b));
    }
}
