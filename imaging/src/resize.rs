//! Scaling, and pictures side by side.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{GenericImage, ImageBuffer, Pixel, Rgb, RgbImage};

use crate::ImagingError;

/// The longest side that is scaled to: a wrong number is an error, never an allocation of gigabytes.
const SIDE_MAX: u32 = 65_535;

/// How pixels are weighed when a picture is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The nearest pixel: for masks and label maps.
    Nearest,
    /// The mean over the area of each target pixel.
    Box,
    /// A triangle, widened when scaling down.
    Bilinear,
    /// A windowed sinc of three lobes: the sharpest, for photographs.
    Lanczos3,
}

impl Filter {
    fn algorithm(self) -> ResizeAlg {
        match self {
            Self::Nearest => ResizeAlg::Nearest,
            Self::Box => ResizeAlg::Convolution(FilterType::Box),
            Self::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Self::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
        }
    }
}

/// Scales `image` to `width` times `height` pixels; the aspect is the caller's.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Result<RgbImage, ImagingError> {
    check_sides(image, width, height)?;
    let unscalable = |reason: String| ImagingError::Unscalable { width, height, reason };
    if image.dimensions() == (width, height) {
        return Ok(image.clone());
    }
    // By its type: choosing among all pixel types when it runs would compile every one of them.
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw())
        .map_err(|error| unscalable(error.to_string()))?;
    let mut pixels = RgbImage::new(width, height);
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels)
        .map_err(|error| unscalable(error.to_string()))?;
    let options = ResizeOptions::new().resize_alg(filter.algorithm());
    Resizer::new()
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| unscalable(error.to_string()))?;
    Ok(pixels)
}

/// Refuses pictures without pixels, and targets that are out of range.
pub(crate) fn check_sides<P: Pixel>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    width: u32,
    height: u32,
) -> Result<(), ImagingError> {
    let unscalable = |reason: &str| ImagingError::Unscalable { width, height, reason: reason.to_owned() };
    if !(1..=SIDE_MAX).contains(&width) || !(1..=SIDE_MAX).contains(&height) {
        return Err(unscalable("a side is out of range"));
    }
    if image.width() == 0 || image.height() == 0 {
        return Err(unscalable("the picture has no pixels"));
    }
    Ok(())
}

/// Sets pictures side by side, each scaled to `height`, with white gaps between them.
pub fn contact_sheet(pictures: &[&RgbImage], height: u32) -> Result<RgbImage, ImagingError> {
    let scaled = pictures
        .iter()
        .map(|picture| {
            let scale = f64::from(height) / f64::from(picture.height().max(1));
            let width = (f64::from(picture.width()) * scale).round().max(1.0) as u32;
            resize(picture, width, height, Filter::Lanczos3)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let gap = (height / 32).max(2);
    let gaps = u64::from(gap) * (scaled.len() as u64).saturating_sub(1);
    let width = scaled.iter().map(|picture| u64::from(picture.width())).sum::<u64>() + gaps;
    let width =
        u32::try_from(width).ok().filter(|width| (1..=SIDE_MAX).contains(width)).ok_or_else(|| {
            let reason = format!("{} pictures side by side are {width} pixels wide", pictures.len());
            ImagingError::Unscalable { width: width.min(u64::from(u32::MAX)) as u32, height, reason }
        })?;
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let mut left = 0;
    for picture in &scaled {
        sheet.copy_from(picture, left, 0).expect("the sheet is as wide as its pictures and gaps");
        left += picture.width() + gap;
    }
    Ok(sheet)
}

/// Sets pictures below each other, flush left on white, with gaps between them.
pub fn stack(pictures: &[RgbImage]) -> Result<RgbImage, ImagingError> {
    let width = pictures.iter().map(RgbImage::width).max().unwrap_or(0);
    let gap = (pictures.iter().map(RgbImage::height).max().unwrap_or(0) / 32).max(2);
    let height = pictures.iter().map(|picture| u64::from(picture.height())).sum::<u64>()
        + u64::from(gap) * (pictures.len() as u64).saturating_sub(1);
    let fits = u32::try_from(height).ok().filter(|height| (1..=SIDE_MAX).contains(height) && width > 0);
    let height = fits.ok_or_else(|| {
        let reason = format!("{} pictures below each other are {height} pixels high", pictures.len());
        ImagingError::Unscalable { width, height: height.min(u64::from(u32::MAX)) as u32, reason }
    })?;
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let mut top = 0;
    for picture in pictures {
        sheet.copy_from(picture, 0, top).expect("the sheet is as high as its pictures and gaps");
        top += picture.height() + gap;
    }
    Ok(sheet)
}
