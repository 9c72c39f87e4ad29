//! How strong a mark may be before it counts as seen.

use kraftr_imaging::RgbImage;

use super::plane::Plane;

/// Mean square of the change to a channel at most: a PSNR of 42.03 dB.
pub(crate) const SQUARE_MAX: f32 = 4.07;
/// Loss of SSIM at most, from what a picture of the same pixels has.
pub(crate) const SSIM_LOSS_MAX: f32 = 0.0094;
/// Root mean square of the change on plain ground at most.
pub(crate) const PLAIN_MAX: f32 = 0.7;
/// Standard deviation under which a window is plain.
pub(crate) const PLAIN_DEVIATION: f32 = 2.0;
/// Plain pixels that are a wall, not a gap.
pub(crate) const PLAIN_PIXELS: usize = 250;
/// Loss of SSIM at a quarter of the size at most, as the root mean square over places: what SSIMULACRA 2 weighs most.
pub(crate) const SEEN_MAX: f32 = 0.003;
/// Variance that rounding to whole levels adds.
pub(crate) const ROUNDING: f32 = 1.0 / 12.0;
/// Side of SSIM's windows (Wang et al. 2004 as scikit-image computes it), and how many are looked at.
const WINDOW: usize = 2 * SSIM_RADIUS + 1;
/// Radius of these windows.
pub(crate) const SSIM_RADIUS: usize = 3;
const WINDOWS: usize = 12_000;
/// Steps in which the height is found that loses so much.
const STEPS: usize = 5;
const C1: f32 = 6.5025;
pub(crate) const C2: f32 = 58.5225;

/// The heights up to which a pattern stays within each limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The mean square of the change.
    pub(crate) energy: f32,
    /// The change on plain ground.
    pub(crate) plain: f32,
    /// SSIM, where it is less than the others.
    pub(crate) ssim: f32,
    /// The change as it is seen at a quarter of the size.
    pub(crate) seen: f32,
}

impl Limits {
    /// Of `pattern`, a change of luma for each pixel of `image`, that is to be multiplied by a height, from the variance
    /// of the luma in SSIM's windows and the height up to which it is not seen.
    pub(crate) fn new(image: &RgbImage, variance: &Plane, pattern: &[f32], seen: f32) -> Self {
        let mean = pattern.iter().map(|change| change * change).sum::<f32>() / pattern.len() as f32;
        let energy = ((SQUARE_MAX - ROUNDING) / mean.max(f32::MIN_POSITIVE)).sqrt();
        let plain = plain(variance, pattern);
        let ssim = windows_limit(&Windows::new(image, pattern), energy.min(plain).min(seen));
        Self { energy, plain, ssim, seen }
    }

    /// The height that keeps all limits.
    pub(crate) fn height(self) -> f32 {
        self.energy.min(self.plain).min(self.ssim).min(self.seen)
    }
}

fn plain(variance: &Plane, pattern: &[f32]) -> f32 {
    let limit = PLAIN_DEVIATION * PLAIN_DEVIATION;
    let changes = pattern.iter().zip(&variance.values).filter(|(_, variance)| **variance < limit);
    let (count, sum) = changes.fold((0, 0.0), |(count, sum), (change, _)| (count + 1, sum + change * change));
    if count < PLAIN_PIXELS {
        return f32::INFINITY;
    }
    ((PLAIN_MAX * PLAIN_MAX - ROUNDING) * count as f32 / sum.max(f32::MIN_POSITIVE)).sqrt()
}

/// The greatest height at which the windows lose no more than they may; no limit where it is above `most`.
fn windows_limit(windows: &Windows, most: f32) -> f32 {
    if windows.loss(most) <= SSIM_LOSS_MAX {
        return f32::INFINITY;
    }
    // The loss grows with the height's square, and less than that where it is great.
    (0..STEPS).fold(most, |height, _| height * (SSIM_LOSS_MAX / windows.loss(height)).sqrt())
}

/// Moments of a channel and of the pattern in a window.
struct Moments {
    mean: f32,
    variance: f32,
    /// Of the pattern.
    change_mean: f32,
    change_variance: f32,
    covariance: f32,
}

/// Windows spread evenly over a picture.
struct Windows(Vec<Moments>);

impl Windows {
    fn new(image: &RgbImage, pattern: &[f32]) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (columns, rows) = (width.saturating_sub(WINDOW - 1), height.saturating_sub(WINDOW - 1));
        let step = ((columns * rows) as f64 / WINDOWS as f64).sqrt().max(1.0);
        let (across, down) = ((columns as f64 / step) as usize, (rows as f64 / step) as usize);
        let mut moments = Vec::with_capacity(across * down * 3);
        for y in 0..down {
            for x in 0..across {
                let place = |at: usize| ((at as f64 + 0.5) * step) as usize;
                let start = place(y) * width + place(x);
                moments.extend(window(image, pattern, width, start));
            }
        }
        Self(moments)
    }

    /// The mean loss at `height`, beside what rounding alone costs, which is part of every change.
    fn loss(&self, height: f32) -> f32 {
        self.0.iter().map(|moments| 1.0 - moments.ssim(height)).sum::<f32>() / self.0.len().max(1) as f32
    }
}

fn window(image: &[u8], pattern: &[f32], width: usize, start: usize) -> [Moments; 3] {
    let mut sums = [[0.0f32; 3]; 3];
    let (mut change_sum, mut change_squares) = (0.0, 0.0);
    for y in 0..WINDOW {
        let from = start + y * width;
        let pixels = image[from * 3..(from + WINDOW) * 3].chunks_exact(3);
        for (pixel, change) in pixels.zip(&pattern[from..from + WINDOW]) {
            change_sum += change;
            change_squares += change * change;
            for (sums, level) in sums.iter_mut().zip(pixel) {
                let level = f32::from(*level);
                sums[0] += level;
                sums[1] += level * level;
                sums[2] += level * change;
            }
        }
    }
    let count = (WINDOW * WINDOW) as f32;
    // The covariances of SSIM are those of a sample.
    let unbiased = count / (count - 1.0);
    let change_mean = change_sum / count;
    sums.map(|[sum, squares, products]| {
        let mean = sum / count;
        Moments {
            mean,
            variance: (squares / count - mean * mean).max(0.0) * unbiased,
            change_mean,
            change_variance: (change_squares / count - change_mean * change_mean).max(0.0) * unbiased,
            covariance: (products / count - mean * change_mean) * unbiased,
        }
    })
}

impl Moments {
    /// SSIM of the window with itself and `height` times the pattern, rounded.
    fn ssim(&self, height: f32) -> f32 {
        let changed = self.mean + height * self.change_mean;
        let shared = self.variance + height * self.covariance;
        let changed_variance = shared + height * (self.covariance + height * self.change_variance) + ROUNDING;
        (2.0 * self.mean * changed + C1) * (2.0 * shared + C2)
            / ((self.mean.powi(2) + changed.powi(2) + C1) * (self.variance + changed_variance + C2))
    }
}
