//! How much of a mark each place of a picture hides.

use super::masking::Masking;
use super::plane::Plane;

/// Variance that stands for the eye's own noise: plain ground is marked as ground of this variance would be.
const FLOOR: f32 = 20.0;
/// Variance beyond which more hides no more: single edges would have most of the mark.
const CEILING: f32 = 150.0;
/// What a place is given of its own variance; the rest is the least among its neighbours, so that an edge beside a
/// plain wall does not ring.
const OWN: f32 = 0.2;
/// Distance of these neighbours in canonical pixels: beyond the boxes, so that those beside an edge see little of it.
const REACH: f64 = 6.0;
/// Radius of the boxes in which variance is measured, in canonical pixels.
const RADIUS: f64 = 5.0;
/// Bounds of what brightness alone makes of the mark's height.
const VISIBILITY: (f32, f32) = (0.7, 1.25);

/// What of a picture hides marks.
pub(crate) struct Texture {
    /// Variance around each pixel that hides the mark.
    hiding: Vec<f32>,
    /// What brightness makes of the height.
    brightness: Vec<f32>,
}

impl Texture {
    /// Of a picture's luma, a pixel of which is `pitch` canonical pixels wide.
    pub(crate) fn new(luma: &Plane, pitch: f64) -> Self {
        let pixels = |canonical: f64| ((canonical / pitch).round() as usize).max(1);
        let (_, mut variance) = luma.detail(pixels(RADIUS));
        variance.values.iter_mut().for_each(|variance| *variance = variance.min(CEILING));
        let sheltered = sheltered(&variance, pixels(REACH));
        let hiding = sheltered.into_iter().map(|variance| FLOOR + 2.0 * variance).collect();
        let table: Vec<f32> = (0..=255).map(|luma| brightness(luma as f32)).collect();
        let brightness = luma.values.iter().map(|luma| table[(luma + 0.5) as usize]).collect();
        Self { hiding, brightness }
    }

    /// The height of the mark at each pixel, in arbitrary units.
    pub(crate) fn heights(&self, masking: Masking) -> Vec<f32> {
        let power = Power::new(masking.0);
        let heights = self.hiding.iter().zip(&self.brightness);
        heights.map(|(hiding, brightness)| power.of(*hiding) * brightness).collect()
    }

    /// The variance that hides the mark at a pixel.
    pub(crate) fn hiding(&self, pixel: usize) -> f32 {
        self.hiding[pixel]
    }

    /// What brightness makes of the mark's height at a pixel.
    pub(crate) fn brightness(&self, pixel: usize) -> f32 {
        self.brightness[pixel]
    }
}

/// A step of luma is seen as a step of its light's cube root (as in SSIMULACRA 2's XYB): more on dark ground.
fn brightness(luma: f32) -> f32 {
    let seen = |luma: f32| ((luma / 255.0).powf(2.2) + 0.0038).cbrt();
    let slope = |luma: f32| seen(luma + 0.5) - seen(luma - 0.5);
    let clamped = luma.clamp(0.5, 254.5);
    (slope(128.0) / slope(clamped)).clamp(VISIBILITY.0, VISIBILITY.1)
}

/// Each value with the least of eight places `reach` away.
fn sheltered(variance: &Plane, reach: usize) -> Vec<f32> {
    let (width, height) = (variance.width, variance.height);
    // The least of three in a row, then of three such in a column, is the least of nine.
    let mut across = vec![0.0; width * height];
    for (row, out) in variance.values.chunks_exact(width).zip(across.chunks_exact_mut(width)) {
        for (x, out) in out.iter_mut().enumerate() {
            *out = row[x].min(row[x.saturating_sub(reach)]).min(row[(x + reach).min(width - 1)]);
        }
    }
    let mut values = Vec::with_capacity(width * height);
    for y in 0..height {
        let row = |y: usize| &across[y * width..][..width];
        let (above, here, below) = (row(y.saturating_sub(reach)), row(y), row((y + reach).min(height - 1)));
        let own = &variance.values[y * width..][..width];
        for (((above, here), below), own) in above.iter().zip(here).zip(below).zip(own) {
            values.push(OWN * own + (1.0 - OWN) * above.min(*here).min(*below));
        }
    }
    values
}

/// A power of numbers from 1 to 2^9, from a table: exact to 0.4 %.
struct Power(Vec<f32>);

impl Power {
    const SHIFT: u32 = 16;
    const FIRST: u32 = 1.0f32.to_bits() >> Self::SHIFT;

    fn new(exponent: f32) -> Self {
        let entry =
            |index: u32| f32::from_bits(((Self::FIRST + index) << Self::SHIFT) | 1 << (Self::SHIFT - 1));
        Self((0..9 * 128).map(|index| entry(index).powf(exponent)).collect())
    }

    fn of(&self, value: f32) -> f32 {
        let index = (value.to_bits() >> Self::SHIFT).saturating_sub(Self::FIRST) as usize;
        self.0[index.min(self.0.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_near() {
        for exponent in [0.45, 0.6] {
            let power = Power::new(exponent);
            for value in [1.0f32, 20.0, 77.7, 320.0, 511.0] {
                assert!((power.of(value) / value.powf(exponent) - 1.0).abs() < 0.005, "{value}");
            }
        }
    }

    #[test]
    fn an_edge_beside_a_wall_is_plain() {
        let values = (0..64 * 64).map(|n| if n % 64 < 32 { 200.0 } else { 90.0 }).collect();
        let luma = Plane { width: 64, height: 64, values };
        let heights = Texture::new(&luma, 1.0).heights(Masking(0.6));
        let at = |x: usize| heights[32 * 64 + x];
        assert!(at(29) < 4.0 * at(5), "{} {}", at(29), at(5));
        let noisy = (0..64 * 64u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as f32).collect();
        let busy = Texture::new(&Plane { width: 64, height: 64, values: noisy }, 1.0).heights(Masking(0.6));
        assert!(busy[32 * 64 + 32] > 3.5 * at(5), "{} {}", busy[32 * 64 + 32], at(5));
    }
}
