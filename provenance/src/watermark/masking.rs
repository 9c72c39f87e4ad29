//! How a mark follows the texture of its picture.

use super::lattice::power_in_boxes;
use super::plane::Plane;
use super::quality::{
    C2, Limits, PLAIN_DEVIATION, PLAIN_MAX, PLAIN_PIXELS, ROUNDING, SEEN_MAX, SQUARE_MAX, SSIM_LOSS_MAX,
    SSIM_RADIUS,
};
use super::texture::Texture;

/// How a mark's height grows with the variance of its place: as the variance to this power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Masking(pub(crate) f32);

/// Powers among which one is chosen, the flattest masking first.
const POWERS: [f32; 11] = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8];
/// How much more a steeper masking must promise: at the same promise the flatter one is less seen.
const STEEPER_GAIN: f32 = 1.01;
/// Pixels of the side of a block, in whose middle a picture is looked at.
const BLOCK: usize = 4;
/// Blocks that are looked at, about.
const PLACES: usize = 8_000;
/// The constant that SSIMULACRA 2 adds to variances, in levels of medium ground.
const SEEN_C2: f32 = 78.0;
/// Variance of what copies add.
const NOISE: f32 = 60.0;

/// What there is to know of a place before it is marked.
struct Place {
    /// Logarithm of the variance that hides the mark.
    hiding: f32,
    /// Square of what brightness makes of the height.
    brightness: f32,
    /// Whether it counts as plain.
    plain: bool,
    /// What SSIM loses by a mark of height 1.
    ssim: f32,
    /// What it loses at a quarter of the size.
    seen: f32,
    /// Variance of what a detector has to tell a mark from.
    noise: f32,
}

/// Places spread over a picture.
pub(crate) struct Places {
    places: Vec<Place>,
    /// Pixels that a place stands for.
    pixels: usize,
}

/// What a masking promises.
struct Outlook {
    limits: Limits,
    /// Mean over places of the power of the highest mark over that of what it is to be told from.
    power: f32,
}

impl Places {
    /// Of a picture's luma, a pixel of which is `pitch` canonical pixels wide, with its variance in SSIM's windows.
    pub(crate) fn new(luma: &Plane, variance: &Plane, texture: &Texture, pitch: f64) -> Self {
        let blocks = luma.blocks(BLOCK);
        let coarse = blocks.variance(SSIM_RADIUS);
        let kept = power_in_boxes(BLOCK, pitch);
        let place = |block: usize| {
            let middle = |block: usize| block * BLOCK + BLOCK / 2;
            let pixel = middle(block / blocks.width) * luma.width + middle(block % blocks.width);
            let (variance, brightness) = (variance.values[pixel], texture.brightness(pixel).powi(2));
            Place {
                hiding: texture.hiding(pixel).ln(),
                brightness,
                plain: variance < PLAIN_DEVIATION * PLAIN_DEVIATION,
                ssim: (2.0 * variance + C2).recip(),
                seen: kept / (2.0 * coarse.values[block] + SEEN_C2 * brightness),
                noise: variance + NOISE,
            }
        };
        // An odd step does not keep to some columns of a picture whose width is a power of 2.
        let step = (blocks.values.len() / PLACES) | 1;
        let places = (0..blocks.values.len()).step_by(step).map(place).collect();
        Self { places, pixels: step * BLOCK * BLOCK }
    }

    /// The masking by which most of a mark may be put into the picture, and the height up to which such a mark is not
    /// seen at a quarter of the size.
    pub(crate) fn best(&self) -> (Masking, f32) {
        let [flattest, steeper @ ..] = POWERS.map(Masking);
        let mut best = (flattest, self.outlook(flattest));
        for masking in steeper {
            let outlook = self.outlook(masking);
            if outlook.power > STEEPER_GAIN * best.1.power {
                best = (masking, outlook);
            }
        }
        (best.0, best.1.limits.seen)
    }

    /// What a mark that follows texture so may be, about: of the mark itself only its power is known yet.
    fn outlook(&self, masking: Masking) -> Outlook {
        let (mut square, mut plain, mut ssim, mut seen, mut power) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut plain_places = 0;
        for place in &self.places {
            let change = place.brightness * (2.0 * masking.0 * place.hiding).exp();
            square += change;
            ssim += change * place.ssim;
            seen += (change * place.seen).powi(2);
            power += change / place.noise;
            if place.plain {
                plain += change;
                plain_places += 1;
            }
        }
        let count = self.places.len() as f32;
        let limit = |most: f32, sum: f32, count: f32| (most * count / sum.max(f32::MIN_POSITIVE)).sqrt();
        let limits = Limits {
            energy: limit(SQUARE_MAX - ROUNDING, square, count),
            plain: if plain_places * self.pixels < PLAIN_PIXELS {
                f32::INFINITY
            } else {
                limit(PLAIN_MAX * PLAIN_MAX - ROUNDING, plain, plain_places as f32)
            },
            ssim: limit(SSIM_LOSS_MAX, ssim, count),
            seen: limit(SEEN_MAX, (seen * count).sqrt(), count),
        };
        Outlook { limits, power: limits.height().powi(2) * power / count }
    }
}

#[cfg(test)]
mod tests {
    use kraftr_imaging::RgbImage;

    use super::*;
    use crate::watermark::lattice::Lattice;
    use crate::watermark::tile::Tile;
    use crate::{Key, payload};

    const SIDE: u32 = 256;

    /// A wall that is busy from `from` on.
    fn wall(from: u32) -> RgbImage {
        RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let noise = (y * SIDE + x).wrapping_mul(2_654_435_761) >> 24;
            let level = if y < from { 150 + noise / 200 } else { 100 + noise / 3 };
            [level as u8; 3].into()
        })
    }

    fn places(image: &RgbImage) -> (Places, Plane, Texture) {
        let luma = Plane::luma(image);
        let (texture, variance) = (Texture::new(&luma, 1.0), luma.variance(SSIM_RADIUS));
        (Places::new(&luma, &variance, &texture, 1.0), variance, texture)
    }

    #[test]
    fn limits_are_foreseen() {
        let image = wall(128);
        let (places, variance, texture) = places(&image);
        let key = Key::development();
        let tile = Tile::new(&Lattice::new(&key), &payload::encode([5; 8], &key));
        let wave = tile.spread(SIDE as usize, SIDE as usize, 1.0);
        for masking in [Masking(0.35), Masking(0.7)] {
            let pattern: Vec<f32> =
                texture.heights(masking).iter().zip(&wave).map(|(height, wave)| height * wave).collect();
            let foreseen = places.outlook(masking).limits;
            let limits = Limits::new(&image, &variance, &pattern, f32::INFINITY);
            for (foreseen, limit) in [(foreseen.energy, limits.energy), (foreseen.plain, limits.plain)] {
                assert!((foreseen / limit - 1.0).abs() < 0.05, "{masking:?}: {foreseen} {limit}");
            }
        }
    }

    #[test]
    fn the_more_a_picture_is_plain_the_steeper_is_its_masking() {
        let power = |from: u32| places(&wall(from)).0.best().0.0;
        let (busy, mixed, plain) = (power(0), power(232), power(244));
        assert!(busy < mixed && mixed < plain, "{busy} {mixed} {plain}");
    }
}
