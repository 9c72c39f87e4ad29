//! Pictures and pixels between -1 and 1: fitting into the network's frame and back.

use std::borrow::Cow;

use kraftr_imaging::opencv::{self, Interpolation};
use kraftr_imaging::{Filter, GrayImage, RgbImage, resize};

use crate::error::ModelError;

/// Where a picture lies in the frame after fitting: offset and size in pixels of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Placement {
    /// In the middle of a frame, with the aspect of `size` kept and the odd pixel of padding at the right and below.
    pub(crate) fn within(frame: [u32; 2], size: (u32, u32)) -> Self {
        let (width, height) = scaled(size, scale(frame, size));
        let (width, height) = (width.min(frame[0]), height.min(frame[1]));
        Self { x: (frame[0] - width) / 2, y: (frame[1] - height) / 2, width, height }
    }
}

/// Pixels of a frame for one of a picture that just fits into it.
fn scale(frame: [u32; 2], (width, height): (u32, u32)) -> f64 {
    (f64::from(frame[0]) / f64::from(width)).min(f64::from(frame[1]) / f64::from(height))
}

/// Sides are cut to whole pixels as the reference cuts them, so a product just below a whole number loses a row.
fn scaled((width, height): (u32, u32), scale: f64) -> (u32, u32) {
    let side = |of: u32| ((scale * f64::from(of)) as u32).max(1);
    (side(width), side(height))
}

/// Scales `picture` down until its longer side has at most `side` pixels (Lanczos, for the eye and for finding poses).
pub(crate) fn shrink(picture: &RgbImage, side: u32) -> Result<Cow<'_, RgbImage>, ModelError> {
    let scale = scale([side, side], picture.dimensions());
    if scale >= 1.0 {
        return Ok(Cow::Borrowed(picture));
    }
    let (width, height) = scaled(picture.dimensions(), scale);
    Ok(Cow::Owned(resize(picture, width, height, Filter::Lanczos3)?))
}

/// Scales `picture` into a frame of width and height with its aspect kept and pads in black, as the network's training
/// pictures were: over areas down, by Lanczos of four lobes up.
pub(crate) fn fit(picture: &RgbImage, frame: [u32; 2]) -> Result<(RgbImage, Placement), ModelError> {
    let at = Placement::within(frame, picture.dimensions());
    let grows = scale(frame, picture.dimensions()) > 1.0;
    let interpolation = if grows { Interpolation::Lanczos4 } else { Interpolation::Area };
    let scaled = opencv::resize(picture, at.width, at.height, interpolation)?;
    let mut framed = RgbImage::new(frame[0], frame[1]);
    for (x, y, pixel) in scaled.enumerate_pixels() {
        framed.put_pixel(at.x + x, at.y + y, *pixel);
    }
    Ok((framed, at))
}

/// The same for a drawing, whose greys must not mix.
pub(crate) fn fit_drawing(drawing: &GrayImage, frame: [u32; 2]) -> Result<GrayImage, ModelError> {
    let at = Placement::within(frame, drawing.dimensions());
    let scaled = opencv::resize(drawing, at.width, at.height, Interpolation::NearestExact)?;
    let mut framed = GrayImage::new(frame[0], frame[1]);
    for (x, y, pixel) in scaled.enumerate_pixels() {
        framed.put_pixel(at.x + x, at.y + y, *pixel);
    }
    Ok(framed)
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
    Ok(resize(&picture, picture.width() * factor, picture.height() * factor, Filter::Lanczos3)?)
}

/// Scales to any size, for pictures that are looked at and thrown away.
pub(crate) fn scaled_roughly(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage, ModelError> {
    Ok(resize(picture, width, height, Filter::Bilinear)?)
}

/// Bytes to planes `[3, h, w]` between -1 and 1.
pub(crate) fn to_planes(picture: &RgbImage) -> Vec<f32> {
    let pixels = (picture.width() * picture.height()) as usize;
    let mut planes = vec![0.0; 3 * pixels];
    for (at, pixel) in picture.pixels().enumerate() {
        for (plane, byte) in pixel.0.iter().enumerate() {
            planes[plane * pixels + at] = from_byte(*byte);
        }
    }
    planes
}

/// A byte as a value between -1 and 1.
pub(crate) fn from_byte(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
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
        let (frame, at) = fit(&RgbImage::new(480, 720), [96, 144]).unwrap();
        assert_eq!(frame.dimensions(), (96, 144));
        assert_eq!(at, Placement { x: 0, y: 0, width: 96, height: 144 });
    }

    #[test]
    fn other_shapes_are_padded_in_black_and_unpadded_to_their_shape() {
        let white = RgbImage::from_pixel(300, 300, [255, 255, 255].into());
        let (frame, at) = fit(&white, [96, 144]).unwrap();
        assert_eq!(at, Placement { x: 0, y: 24, width: 96, height: 96 });
        assert_eq!(frame.get_pixel(50, 23).0, [0; 3]);
        assert_eq!(frame.get_pixel(50, 24).0, [255; 3]);
        assert_eq!(frame.get_pixel(50, 120).0, [0; 3]);
        let back = unpad(&frame, at);
        assert_eq!(back.dimensions(), (96, 96));
        assert!(back.pixels().all(|pixel| pixel.0 == [255; 3]));
    }

    #[test]
    fn pictures_are_shrunk_and_never_enlarged() {
        let size = |width, height| shrink(&RgbImage::new(width, height), 144).unwrap().dimensions();
        assert_eq!(size(100, 144), (100, 144));
        assert_eq!(size(300, 210), (144, 100));
        assert_eq!(size(3_000, 1), (144, 1));
    }

    #[test]
    fn a_drawing_lies_where_its_picture_lies() {
        for size in [(480, 720), (300, 301), (77, 20), (9, 200)] {
            let (picture, _) = fit(&RgbImage::from_pixel(size.0, size.1, [9; 3].into()), [96, 144]).unwrap();
            let drawing = fit_drawing(&GrayImage::from_pixel(size.0, size.1, [9].into()), [96, 144]).unwrap();
            assert!(
                picture.pixels().zip(drawing.pixels()).all(|(rgb, grey)| rgb.0[0] == grey.0[0]),
                "{size:?}"
            );
        }
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
