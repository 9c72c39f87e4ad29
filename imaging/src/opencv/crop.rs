use image::{Pixel as _, Rgb, RgbImage};

/// The part of `image` around `centre` (x, y in its pixels), `width` times `height` pixels that each cover `step`
/// pixels of `image`; black where there is no image. As `warpAffine` with `INTER_LINEAR` does for a scaling.
pub fn crop(image: &RgbImage, centre: [f64; 2], step: f64, width: u32, height: u32) -> RgbImage {
    let [across, down] = [(centre[0], width), (centre[1], height)].map(|(centre, side)| {
        let from = |at: u32| (f64::from(at) - f64::from(side) / 2.0) * step + centre;
        (0..side).map(|at| from(at) as f32).collect::<Vec<_>>()
    });
    RgbImage::from_fn(width, height, |x, y| between(image, across[x as usize], down[y as usize]))
}

/// The mean of the four pixels around (x, y) by their nearness.
fn between(image: &RgbImage, x: f32, y: f32) -> Rgb<u8> {
    let (left, top) = (x.floor(), y.floor());
    let (right, bottom) = (x - left, y - top);
    let mut sum = [0f32; 3];
    for (dy, down) in [(0, 1.0 - bottom), (1, bottom)] {
        for (dx, across) in [(0, 1.0 - right), (1, right)] {
            let at = (left as i64 + dx, top as i64 + dy);
            let (Ok(x), Ok(y)) = (u32::try_from(at.0), u32::try_from(at.1)) else { continue };
            let Some(pixel) = image.get_pixel_checked(x, y) else { continue };
            for (sum, byte) in sum.iter_mut().zip(pixel.channels()) {
                *sum += f32::from(*byte) * across * down;
            }
        }
    }
    Rgb(sum.map(|value| value.round_ties_even() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_is_scaled_and_black_outside() {
        let image = RgbImage::from_fn(4, 2, |x, y| [(40 * x + 100 * y) as u8; 3].into());
        let whole = crop(&image, [2.0, 1.0], 1.0, 4, 2);
        assert!(whole == image);
        let doubled = crop(&image, [2.0, 1.0], 0.5, 8, 4);
        let row = |y: u32| doubled.pixels().skip(8 * y as usize).take(8).map(|p| p.0[0]).collect::<Vec<_>>();
        assert_eq!(row(0), [0, 20, 40, 60, 80, 100, 120, 60]);
        assert_eq!(row(1), [50, 70, 90, 110, 130, 150, 170, 85]);
        let beyond = crop(&image, [-20.0, 1.0], 1.0, 4, 2);
        assert!(beyond.as_raw().iter().all(|byte| *byte == 0));
    }
}
