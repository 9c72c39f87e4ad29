//! What of a picture may be its mark.

use super::plane::Plane;

/// The constant that SSIM adds to variances: marks grow as the root of variance and this.
const MASKING: f32 = 58.5;
/// Largest residual, in units of the root mean square.
const CLIP: f32 = 6.0;

/// A way of looking at a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Radius of the boxes that a pixel is compared with.
    radius: usize,
    /// Variance of what codecs and cameras add, which plain ground does not show.
    noise: f32,
}

impl Look {
    /// For most pictures.
    pub(crate) const SHARP: Self = Self { radius: 2, noise: 14.0 };
    /// For those that lost their fine detail, and the noise with it, to blur or to a denoiser.
    pub(crate) const SOFT: Self = Self { radius: 4, noise: 3.0 };
}

/// The residual of `luma`: what differs from the surroundings, weighted as a matched filter would, by the height that
/// the mark has there over the power of what hides it.
pub(crate) fn residual(luma: &Plane, look: Look) -> Plane {
    let (mut residual, power) = luma.detail(look.radius);
    let mut squares = 0.0;
    for (value, power) in residual.values.iter_mut().zip(&power.values) {
        *value *= (MASKING + 2.0 * power).sqrt() / (power + look.noise);
        squares += *value * *value;
    }
    let limit = CLIP * (squares / residual.values.len() as f32).sqrt();
    residual.values.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
    residual
}
