//! Pictures and pixels between -1 and 1: fitting into the network's frame and back.

use kraftr_imaging::RgbImage;
use kraftr_imaging::{Filter, resize};

use crate::error::ModelError;

/// Where a picture lies in the frame after fitting: offset and size in pixels of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

/// Scales `picture` into a frame of `width` x `height` with its aspect kept (sides truncated to whole
/// pixels, at least one) and pads symmetrically in black.
pub(crate) fn fit(picture: &RgbImage, width: u32, height: u32) -> Result<(RgbImage, Placement), ModelError> {
    let ratio =
        (f64::from(width) / f64::from(picture.width())).min(f64::from(height) / f64::from(picture.height()));
    // The addition keeps 2:3 pictures from losing a row to a ratio like 0.19999999999999998.
    let side = |of: u32, max: u32| ((f64::from(of) * ratio + 1e-6) as u32).clamp(1, max);
    let (w, h) = (side(picture.width(), width), side(picture.height(), height));
    let at = Placement { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h };
    let scaled = resized(picture, w, h)?;
    if (w, h) == (width, height) {
        return Ok((scaled, at));
    }
    let mut frame = RgbImage::new(width, height);
    for (x, y, pixel) in scaled.enumerate_pixels() {
        frame.put_pixel(at.x + x, at.y + y, *pixel);
    }
    Ok((frame, at))
}

/// The part of a frame in which the picture lies.
pub(crate) fn unpad(frame: &RgbImage, at: Placement) -> RgbImage {
    RgbImage::from_fn(at.width, at.height, |x, y| *frame.get_pixel(at.x + x, at.y + y))
}

/// Enlarges by a whole factor.
pub(crate) fn enlarge(picture: RgbImage, factor: u32) -> Result<RgbImage, ModelError> {
    if factor == 1 {
        return Ok(picture);
    }
    resized(&picture, picture.width() * factor, picture.height() * factor)
}

fn resized(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage, ModelError> {
    if picture.dimensions() == (width, height) {
        return Ok(picture.clone());
    }
    resize(picture, width, height, Filter::Lanczos3).map_err(|error| ModelError::Resize(error.to_string()))
}

/// Bytes to planes `[3, h, w]` between -1 and 1.
pub(crate) fn to_planes(picture: &RgbImage) -> Vec<f32> {
    let pixels = (picture.width() * picture.height()) as usize;
    let mut planes = vec![0.0; 3 * pixels];
    for (at, pixel) in picture.pixels().enumerate() {
        for (plane, byte) in pixel.0.iter().enumerate() {
            planes[plane * pixels + at] = f32::from(*byte) / 127.5 - 1.0;
        }
    }
    planes
}

/// One value between -1 and 1 as a byte: `(x + 1) / 2 * 255`, truncated as the reference does.
pub(crate) fn to_byte(value: f32) -> u8 {
    // `as` saturates, so values outside the range become black or white.
    (f32::midpoint(value, 1.0) * 255.0) as u8
}

/// Planes `[3, h, w]` to bytes.
pub(crate) fn from_planes(planes: &[f32], width: u32, height: u32) -> RgbImage {
    let pixels = (width * height) as usize;
    RgbImage::from_fn(width, height, |x, y| {
        let at = (y * width + x) as usize;
        [0, 1, 2].map(|plane| to_byte(planes[plane * pixels + at])).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_the_frames_shape_is_not_padded() {
        let (frame, at) = fit(&RgbImage::new(480, 720), 96, 144).unwrap();
        assert_eq!(frame.dimensions(), (96, 144));
        assert_eq!(at, Placement { x: 0, y: 0, width: 96, height: 144 });
    }

    #[test]
    fn other_shapes_are_padded_in_black_and_unpadded_to_their_shape() {
        let white = RgbImage::from_pixel(300, 300, [255, 255, 255].into());
        let (frame, at) = fit(&white, 96, 144).unwrap();
        assert_eq!(at, Placement { x: 0, y: 24, width: 96, height: 96 });
        assert_eq!(frame.get_pixel(50, 23).0, [0; 3]);
        assert_eq!(frame.get_pixel(50, 24).0, [255; 3]);
        assert_eq!(frame.get_pixel(50, 120).0, [0; 3]);
        let back = unpad(&frame, at);
        assert_eq!(back.dimensions(), (96, 96));
        assert!(back.pixels().all(|pixel| pixel.0 == [255; 3]));
    }

    #[test]
    fn bytes_are_truncated_not_rounded() {
        assert_eq!(to_byte(-1.0), 0);
        assert_eq!(to_byte(0.0), 127);
        assert_eq!(to_byte(1.0), 255);
        assert_eq!(to_byte(-7.0), 0);
        assert_eq!(to_byte(7.0), 255);
    }

    #[test]
    fn every_byte_survives_the_way_there_and_back_within_one_level() {
        let ramp = RgbImage::from_fn(256, 1, |x, _| [x as u8; 3].into());
        let back = from_planes(&to_planes(&ramp), 256, 1);
        for (before, after) in ramp.pixels().zip(back.pixels()) {
            assert!(before.0[0].abs_diff(after.0[0]) <= 1);
        }
    }
}
