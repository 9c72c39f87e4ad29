//! Scaling and cropping to the rounding of OpenCV, for networks whose training pictures went through it.
//!
//! [`crate::resize`] is better for the eye; a network sees what it was trained on only here. Formulas: OpenCV's
//! `imgproc` manual (`resize`, `warpAffine`); its 8-bit paths work in fixed point, and so do these.

mod crop;
mod taps;

pub use crop::crop;

use image::{ImageBuffer, Pixel};

use self::taps::Taps;
use crate::ImagingError;
use crate::resize::check_sides;

/// How pixels are weighed; OpenCV's names are `INTER_AREA` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// The mean over the area of each target pixel; where a side grows, a kind of linear one for both.
    Area,
    /// A windowed sinc of four lobes over eight pixels, never widened: for scaling up.
    Lanczos4,
    /// Between the two nearest pixels, never widened.
    Linear,
    /// The pixel nearest to the centre of each target pixel, as Pillow chooses it.
    NearestExact,
}

/// Scales `image` to `width` times `height` pixels; the aspect is the caller's.
pub fn resize<P>(
    image: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> Result<ImageBuffer<P, Vec<u8>>, ImagingError>
where
    P: Pixel<Subpixel = u8>,
{
    check_sides(image, width, height)?;
    if image.dimensions() == (width, height) {
        return Ok(image.clone());
    }
    let source = Source {
        bytes: image.as_raw(),
        channels: usize::from(P::CHANNEL_COUNT),
        width: image.width() as usize,
        height: image.height() as usize,
    };
    let (w, h) = (width as usize, height as usize);
    let bytes = match interpolation {
        Interpolation::Area if w <= source.width && h <= source.height => area(&source, w, h),
        Interpolation::Area => {
            linear(&source, &Taps::between_edges(source.width, w), &Taps::between_edges(source.height, h))
        }
        Interpolation::Lanczos4 => {
            let (across, down) = (Taps::lanczos4(source.width, w), Taps::lanczos4(source.height, h));
            lanczos4(&source, &across, &down)
        }
        Interpolation::Linear => {
            linear(&source, &Taps::linear(source.width, w), &Taps::linear(source.height, h))
        }
        Interpolation::NearestExact => nearest_exact(&source, w, h),
    };
    Ok(ImageBuffer::from_raw(width, height, bytes).expect("every target pixel was computed"))
}

/// Interleaved bytes, row by row.
struct Source<'a> {
    bytes: &'a [u8],
    channels: usize,
    width: usize,
    height: usize,
}

impl Source<'_> {
    fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * self.channels;
        &self.bytes[y * stride..][..stride]
    }

    /// Every row, weighed across: `[height, target width, channels]`.
    fn across<W: Copy, T>(&self, taps: &Taps<W>, weigh: impl Fn(W, u8) -> T) -> Vec<T>
    where
        T: Copy + Default + std::ops::Add<Output = T>,
    {
        let mut weighed = Vec::with_capacity(self.height * taps.len() * self.channels);
        for y in 0..self.height {
            let row = self.row(y);
            for tap in taps.iter() {
                for channel in 0..self.channels {
                    let parts =
                        tap.iter().map(|(x, weight)| weigh(*weight, row[x * self.channels + channel]));
                    weighed.push(parts.fold(T::default(), |sum, part| sum + part));
                }
            }
        }
        weighed
    }
}

/// One row of `values` (`[rows, stride]`).
fn row<T>(values: &[T], y: usize, stride: usize) -> &[T] {
    &values[y * stride..][..stride]
}

fn area(source: &Source<'_>, width: usize, height: usize) -> Vec<u8> {
    let (across, down) = (Taps::area(source.width, width), Taps::area(source.height, height));
    let stride = width * source.channels;
    let weighed = source.across(&across, |weight: f32, byte| weight * f32::from(byte));
    // Halving both sides is the one case in which OpenCV rounds halves up.
    let halved = source.width == 2 * width && source.height == 2 * height;
    let mut bytes = Vec::with_capacity(height * stride);
    for tap in down.iter() {
        for at in 0..stride {
            let sum: f32 = tap.iter().map(|(y, weight)| weight * row(&weighed, *y, stride)[at]).sum();
            bytes.push(if halved { (sum + 0.5) as u8 } else { sum.round_ties_even() as u8 });
        }
    }
    bytes
}

fn lanczos4(source: &Source<'_>, across: &Taps<i32>, down: &Taps<i32>) -> Vec<u8> {
    const BITS: u32 = 2 * taps::COEFFICIENT_BITS;
    let stride = across.len() * source.channels;
    let weighed = source.across(across, |weight, byte| weight * i32::from(byte));
    let mut bytes = Vec::with_capacity(down.len() * stride);
    for tap in down.iter() {
        for at in 0..stride {
            let parts =
                tap.iter().map(|(y, weight)| i64::from(*weight) * i64::from(row(&weighed, *y, stride)[at]));
            let sum: i64 = parts.sum();
            bytes.push(((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8);
        }
    }
    bytes
}

fn linear(source: &Source<'_>, across: &Taps<i32>, down: &Taps<i32>) -> Vec<u8> {
    let stride = across.len() * source.channels;
    let weighed = source.across(across, |weight, byte| weight * i32::from(byte));
    let mut bytes = Vec::with_capacity(down.len() * stride);
    for tap in down.iter() {
        for at in 0..stride {
            // Each row loses its low bits on its own before the two are added.
            let part = |(y, weight): &(usize, i32)| (weight * (row(&weighed, *y, stride)[at] >> 4)) >> 16;
            let sum: i32 = tap.iter().map(part).sum();
            bytes.push(((sum + 2) >> 2).clamp(0, 255) as u8);
        }
    }
    bytes
}

fn nearest_exact(source: &Source<'_>, width: usize, height: usize) -> Vec<u8> {
    let nearest = |of: usize, to: usize| -> Vec<usize> {
        // Pillow walks from centre to centre, and which side an exact half falls to is the sum's rounding.
        let step = of as f64 / to as f64;
        let centres = std::iter::successors(Some(0.5 * step), |centre| Some(centre + step));
        centres.take(to).map(|centre| (centre as usize).min(of - 1)).collect()
    };
    let (across, down) = (nearest(source.width, width), nearest(source.height, height));
    let mut bytes = Vec::with_capacity(width * height * source.channels);
    for y in down {
        let row = source.row(y);
        for x in &across {
            bytes.extend_from_slice(&row[x * source.channels..][..source.channels]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;

    const RAMP_AREA: &[u8] = &[17, 167, 112, 74];
    const RAMP_AREA_FRACTIONS: &[u8] = &[3, 30, 113, 220, 28, 196, 107, 42];
    const RAMP_AREA_GROWING: &[u8] = &[2, 23, 44, 148, 128, 109, 112, 126, 141];
    const RAMP_LANCZOS4: &[u8] = &[
        0, 2, 5, 15, 51, 99, 151, 226, 255, 1, 8, 63, 138, 139, 102, 106, 129, 142, 4, 15, 121, 255, 228,
        106, 61, 34, 9,
    ];
    const RAMP_LINEAR: &[u8] = &[
        0, 5, 15, 35, 65, 101, 148, 205, 250, 2, 23, 61, 130, 128, 109, 111, 126, 141, 3, 40, 107, 225, 191,
        117, 74, 47, 31,
    ];
    const RAMP_LINEAR_DOWN: &[u8] = &[12, 122, 110, 133];
    const RAMP_NEAREST: &[u8] = &[0, 40, 90, 250, 3, 255, 128, 31, 3, 255, 128, 31];

    fn check(width: u32, values: &[u8], to: (u32, u32), interpolation: Interpolation, expected: &[u8]) {
        let height = values.len() as u32 / width;
        let image = GrayImage::from_raw(width, height, values.to_vec()).unwrap();
        let scaled = resize(&image, to.0, to.1, interpolation).unwrap().into_raw();
        // OpenCV has several code paths for linear interpolation, which differ in the last bit.
        let slack = u8::from(matches!(interpolation, Interpolation::Linear | Interpolation::Area));
        let near = scaled.iter().zip(expected).all(|(ours, theirs)| ours.abs_diff(*theirs) <= slack);
        assert!(near && scaled.len() == expected.len(), "{interpolation:?}: {scaled:?}, not {expected:?}");
    }

    // The expected values are what cv2.resize 5.0.0 answers.
    #[test]
    fn scaled_as_opencv_scales() {
        let ramp = [0, 10, 40, 90, 160, 250, 3, 77, 255, 128, 64, 31];
        check(6, &ramp, (2, 2), Interpolation::Area, RAMP_AREA);
        check(6, &ramp, (4, 2), Interpolation::Area, RAMP_AREA_FRACTIONS);
        check(6, &ramp, (9, 1), Interpolation::Area, RAMP_AREA_GROWING);
        check(6, &ramp, (9, 3), Interpolation::Lanczos4, RAMP_LANCZOS4);
        check(6, &ramp, (9, 3), Interpolation::Linear, RAMP_LINEAR);
        check(6, &ramp, (4, 1), Interpolation::Linear, RAMP_LINEAR_DOWN);
        check(6, &ramp, (4, 3), Interpolation::NearestExact, RAMP_NEAREST);
        check(4, &[0, 1, 2, 3, 1, 1, 3, 4], (2, 1), Interpolation::Area, &[1, 3]);
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let flat = GrayImage::from_pixel(13, 7, Luma([201]));
        for (to, interpolation) in [
            ((5, 3), Interpolation::Area),
            ((29, 31), Interpolation::Lanczos4),
            ((29, 5), Interpolation::Linear),
            ((9, 40), Interpolation::NearestExact),
        ] {
            let scaled = resize(&flat, to.0, to.1, interpolation).unwrap();
            assert!(scaled.pixels().all(|pixel| pixel.0[0].abs_diff(201) <= 1), "{interpolation:?}");
        }
    }

    #[test]
    fn sides_that_make_no_sense_are_refused() {
        let image = GrayImage::new(4, 4);
        for to in [(0, 4), (4, 70_000)] {
            let refused = resize(&image, to.0, to.1, Interpolation::Linear);
            assert!(matches!(refused, Err(ImagingError::Unscalable { .. })), "{to:?}");
        }
        let refused = resize(&GrayImage::new(0, 4), 4, 4, Interpolation::Area);
        assert!(matches!(refused, Err(ImagingError::Unscalable { .. })));
    }
}
