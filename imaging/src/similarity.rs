//! How far apart two pictures of one size are.

use image::RgbImage;

use crate::ImagingError;

/// What equal pictures count as: more than any two different ones of a sensible size have.
const EQUAL_DB: f64 = 100.0;
/// Side of the windows of [`ssim`].
const WINDOW: usize = 8;
/// Distance between two windows.
const STRIDE: usize = 4;

/// Peak signal-to-noise ratio over all channels in decibels; 100 for equal pictures.
pub fn psnr(one: &RgbImage, other: &RgbImage) -> Result<f64, ImagingError> {
    same_size(one, other)?;
    let squares = one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / one.as_raw().len().max(1) as f64;
    Ok(if mean == 0.0 { EQUAL_DB } else { (10.0 * (255.0 * 255.0 / mean).log10()).min(EQUAL_DB) })
}

/// Mean structural similarity of the luma (Wang, Bovik, Sheikh and Simoncelli 2004, constants 0.01 and 0.03) over
/// windows of 8 x 8 pixels, every 4 pixels; 1 for equal pictures. A picture smaller than a window is one window.
pub fn ssim(one: &RgbImage, other: &RgbImage) -> Result<f64, ImagingError> {
    same_size(one, other)?;
    let (width, height) = (one.width() as usize, one.height() as usize);
    let (one, other) = (luma(one), luma(other));
    let (mut sum, mut windows) = (0.0, 0.0);
    for top in corners(height) {
        for left in corners(width) {
            let rows = top..(top + WINDOW).min(height);
            let pairs = rows.flat_map(|y| {
                let columns = y * width + left..y * width + (left + WINDOW).min(width);
                columns.map(|at| (one[at], other[at]))
            });
            sum += of_window(pairs);
            windows += 1.0;
        }
    }
    Ok(sum / windows)
}

fn corners(side: usize) -> impl Iterator<Item = usize> {
    (0..=side.saturating_sub(WINDOW)).step_by(STRIDE)
}

fn of_window(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut n, mut x, mut y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in pairs {
        n += 1.0;
        x += a;
        y += b;
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    let (mean_x, mean_y) = (x / n, y / n);
    let (var_x, var_y, covariance) =
        (xx / n - mean_x * mean_x, yy / n - mean_y * mean_y, xy / n - mean_x * mean_y);
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
        / ((mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2))
}

/// BT.601.
fn luma(picture: &RgbImage) -> Vec<f64> {
    let of = |[r, g, b]: [u8; 3]| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    picture.pixels().map(|pixel| of(pixel.0)).collect()
}

fn same_size(one: &RgbImage, other: &RgbImage) -> Result<(), ImagingError> {
    if one.dimensions() == other.dimensions() {
        return Ok(());
    }
    let (width, height) = other.dimensions();
    let reason = format!("it is compared with one of {}x{}", one.width(), one.height());
    Err(ImagingError::Unscalable { width, height, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(of: impl Fn(u32, u32) -> u8) -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| [of(x, y); 3].into())
    }

    #[test]
    fn equal_pictures_are_equal_and_other_sizes_are_refused() {
        let ramp = picture(|x, y| (x * 3 + y) as u8);
        assert!((psnr(&ramp, &ramp).unwrap() - 100.0).abs() < 1e-9);
        assert!((ssim(&ramp, &ramp).unwrap() - 1.0).abs() < 1e-9);
        assert!(psnr(&ramp, &RgbImage::new(1, 1)).is_err() && ssim(&ramp, &RgbImage::new(1, 1)).is_err());
        let dot = RgbImage::new(1, 1);
        assert!((ssim(&dot, &dot).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn known_differences() {
        // Everywhere 5 apart: 20 log10(255 / 5).
        let (one, other) = (picture(|_, _| 100), picture(|_, _| 105));
        assert!((psnr(&one, &other).unwrap() - 34.151_4).abs() < 1e-3);
        // Without structure only the means count: (2 a b + c1) / (a² + b² + c1).
        let expected = (2.0 * 100.0 * 105.0 + 6.502_5) / (100.0 * 100.0 + 105.0 * 105.0 + 6.502_5);
        assert!((ssim(&one, &other).unwrap() - expected).abs() < 1e-6);
        let noisy = picture(|x, y| if (x + y) % 2 == 0 { 60 } else { 140 });
        let inverse = picture(|x, y| if (x + y) % 2 == 0 { 140 } else { 60 });
        assert!(ssim(&noisy, &inverse).unwrap() < -0.9);
        assert!(ssim(&noisy, &one).unwrap() < 0.2);
    }
}
