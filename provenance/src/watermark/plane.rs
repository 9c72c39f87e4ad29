//! One number for each pixel, and means over boxes of them.

use kraftr_imaging::RgbImage;

/// Numbers by rows.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) values: Vec<f32>,
}

/// Luma (ITU-R BT.601, as in JPEG) of a pixel.
pub(crate) fn luma(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

impl Plane {
    /// The luma of `image`, 0 to 255.
    pub(crate) fn luma(image: &RgbImage) -> Self {
        let values = image.chunks_exact(3).map(luma).collect();
        Self { width: image.width() as usize, height: image.height() as usize, values }
    }

    /// The luma of `image` in means over rectangles of about equal size, so that at most `pixels_max` are left; the
    /// picture itself where it has no more. Memory is bounded by the result's, whatever the size of `image`.
    pub(crate) fn luma_shrunk(image: &RgbImage, pixels_max: usize) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let factor = ((width * height) as f64 / pixels_max as f64).sqrt();
        if factor <= 1.0 {
            return Self::luma(image);
        }
        let shrunk = |side: usize| ((side as f64 / factor) as usize).max(1);
        let (columns, rows) = (shrunk(width), shrunk(height));
        let shares = Shares::new(width, columns);
        let mut values = vec![0.0; columns * rows];
        let mut line = vec![0.0; columns];
        let tall = rows as f64 / height as f64;
        for (y, pixels) in image.chunks_exact(width * 3).enumerate() {
            shares.sum(pixels, &mut line);
            // The source row may lie across the border of two rows of the result.
            let (top, bottom) = (y as f64 * tall, (y + 1) as f64 * tall);
            let first = (top as usize).min(rows - 1);
            let border = ((first + 1) as f64).min(bottom);
            add(&mut values[first * columns..][..columns], &line, (border - top) as f32);
            if bottom > border && first + 1 < rows {
                add(&mut values[(first + 1) * columns..][..columns], &line, (bottom - border) as f32);
            }
        }
        Self { width: columns, height: rows, values }
    }

    /// The same shape with other values.
    pub(crate) fn with(&self, values: Vec<f32>) -> Self {
        Self { width: self.width, height: self.height, values }
    }

    /// The mean over the box of `radius` pixels around each pixel, of what of it lies in the picture, of what `of` makes
    /// of each value.
    pub(crate) fn box_mean(&self, radius: usize, of: impl Fn(f32) -> f32) -> Self {
        let (width, height) = (self.width, self.height);
        let counts: Vec<f32> =
            (0..width).map(|x| span(x, radius, width)).map(|n| (n as f32).recip()).collect();
        // The means across of the rows that lie in a box; each gives its place to the row that enters when it leaves.
        let rows = 2 * radius + 1;
        let mut across = vec![0.0; rows * width];
        let mut line = vec![0.0; width];
        let mut sums = vec![0.0; width];
        let mut values = Vec::with_capacity(width * height);
        for y in 0..height + radius {
            let row = &mut across[y % rows * width..][..width];
            add(&mut sums, row, -1.0);
            if y < height {
                let entering = &self.values[y * width..][..width];
                line.iter_mut().zip(entering).for_each(|(line, value)| *line = of(*value));
                means_across(&line, radius, &counts, row);
                add(&mut sums, row, 1.0);
            } else {
                row.fill(0.0);
            }
            if y >= radius {
                let scale = (span(y - radius, radius, height) as f32).recip();
                values.extend(sums.iter().map(|sum| sum * scale));
            }
        }
        self.with(values)
    }

    /// The part of this size from there on.
    pub(crate) fn part(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let rows = self.values.chunks_exact(self.width).skip(top).take(height);
        Self { width, height, values: rows.flat_map(|row| row[left..left + width].iter().copied()).collect() }
    }

    /// The means of square blocks of `side` pixels, without the rest at the right and the bottom.
    pub(crate) fn blocks(&self, side: usize) -> Self {
        let (width, height) = (self.width / side, self.height / side);
        let mut values = vec![0.0; width * height];
        let scale = ((side * side) as f32).recip();
        for (y, row) in self.values.chunks_exact(self.width).take(height * side).enumerate() {
            let blocks = &mut values[y / side * width..][..width];
            for (block, pixels) in blocks.iter_mut().zip(row.chunks_exact(side)) {
                *block += pixels.iter().sum::<f32>() * scale;
            }
        }
        Self { width, height, values }
    }

    /// The variance in the box of `radius` pixels around each pixel.
    pub(crate) fn variance(&self, radius: usize) -> Self {
        // Around the middle of the levels, where squares are small, less is lost to rounding.
        let centred = |value: f32| value - 128.0;
        let mut variance = self.box_mean(radius, |value| centred(value).powi(2));
        let mean = self.box_mean(radius, centred);
        let both = variance.values.iter_mut().zip(&mean.values);
        both.for_each(|(square, mean)| *square = (*square - mean * mean).max(0.0));
        variance
    }

    /// What is left of each pixel without the mean of the box around it, and the mean square of that over the same box.
    pub(crate) fn detail(&self, radius: usize) -> (Self, Self) {
        let mut detail = self.box_mean(radius, |value| value);
        detail.values.iter_mut().zip(&self.values).for_each(|(mean, value)| *mean = value - *mean);
        let mut power = detail.box_mean(radius, |value| value * value);
        // Running sums end a little below zero where they should end at it.
        power.values.iter_mut().for_each(|value| *value = value.max(0.0));
        (detail, power)
    }
}

/// The mean of the values that are no further than `radius` away, from one over how many these are.
fn means_across(line: &[f32], radius: usize, counts: &[f32], out: &mut [f32]) {
    let mut sum: f32 = line[..radius.min(line.len())].iter().sum();
    for (x, (out, count)) in out.iter_mut().zip(counts).enumerate() {
        if let Some(entering) = line.get(x + radius) {
            sum += entering;
        }
        if x > radius {
            sum -= line[x - radius - 1];
        }
        *out = sum * count;
    }
}

/// How many of the pixels from `at - radius` to `at + radius` lie in `0..count`.
fn span(at: usize, radius: usize, count: usize) -> usize {
    (at + radius + 1).min(count) - at.saturating_sub(radius)
}

fn add(sums: &mut [f32], row: &[f32], factor: f32) {
    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * factor);
}

/// How the pixels of a row are shared among fewer.
struct Shares {
    /// For each source pixel the first pixel that it goes to, its share there, and in the next.
    targets: Vec<(usize, f32, f32)>,
}

impl Shares {
    fn new(from: usize, to: usize) -> Self {
        let wide = to as f64 / from as f64;
        let share = |x: usize| {
            let (left, right) = (x as f64 * wide, (x + 1) as f64 * wide);
            let first = (left as usize).min(to - 1);
            let border = ((first + 1) as f64).min(right);
            let rest = if first + 1 < to { right - border } else { 0.0 };
            (first, (border - left) as f32, rest as f32)
        };
        Self { targets: (0..from).map(share).collect() }
    }

    fn sum(&self, pixels: &[u8], line: &mut [f32]) {
        line.fill(0.0);
        for (pixel, (first, here, next)) in pixels.chunks_exact(3).zip(&self.targets) {
            let luma = luma(pixel);
            line[*first] += luma * here;
            if *next > 0.0 {
                line[first + 1] += luma * next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(width: usize, height: usize) -> Plane {
        let values = (0..width * height).map(|n| (n * 7919 % 256) as f32).collect();
        Plane { width, height, values }
    }

    #[test]
    fn boxes_are_means_of_what_lies_in_the_picture() {
        for (width, height, radius) in [(13, 9, 2), (4, 3, 5), (1, 1, 3)] {
            let plane = plane(width, height);
            let mean = plane.box_mean(radius, |value| value);
            for y in 0..height {
                for x in 0..width {
                    let near = |at: usize, to: usize| at.abs_diff(to) <= radius;
                    let inside: Vec<f32> = (0..width * height)
                        .filter(|n| near(n % width, x) && near(n / width, y))
                        .map(|n| plane.values[n])
                        .collect();
                    let expected = inside.iter().sum::<f32>() / inside.len() as f32;
                    assert!((mean.values[y * width + x] - expected).abs() < 0.01, "{x} {y}");
                }
            }
        }
    }

    #[test]
    fn variances_and_blocks_are_of_the_pixels_in_them() {
        let plane = plane(13, 9);
        let moments = |pixels: &[f32]| {
            let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
            (mean, pixels.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / pixels.len() as f32)
        };
        let inside =
            |left: usize, top: usize, side: usize| -> Vec<f32> { plane.part(left, top, side, side).values };
        let variance = plane.variance(2);
        for (x, y) in [(2, 2), (7, 5), (10, 6)] {
            let (_, expected) = moments(&inside(x - 2, y - 2, 5));
            let found = variance.values[y * 13 + x];
            assert!((found / expected - 1.0).abs() < 1e-3, "{x} {y}: {found} {expected}");
        }
        let blocks = plane.blocks(4);
        assert_eq!((blocks.width, blocks.height), (3, 2));
        for (n, found) in blocks.values.iter().enumerate() {
            let (expected, _) = moments(&inside(n % 3 * 4, n / 3 * 4, 4));
            assert!((found - expected).abs() < 1e-3, "{n}: {found} {expected}");
        }
    }

    #[test]
    fn shrinking_keeps_the_mean() {
        let image = RgbImage::from_fn(301, 203, |x, y| [(x * 3 % 256) as u8, (y * 5 % 256) as u8, 9].into());
        let mean = |plane: &Plane| plane.values.iter().sum::<f32>() / plane.values.len() as f32;
        let (whole, shrunk) = (Plane::luma(&image), Plane::luma_shrunk(&image, 10_000));
        assert!(shrunk.values.len() <= 10_000 && shrunk.values.len() > 9_000);
        assert!((mean(&whole) - mean(&shrunk)).abs() < 0.05);
        assert_eq!(Plane::luma_shrunk(&image, 301 * 203).values, whole.values);
    }
}
