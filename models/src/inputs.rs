//! What renders are made from: one type a task.

use std::fmt;

use kraftr_imaging::{GrayImage, RgbImage};
use kraftr_protocol::{Category, GarmentPhoto};

/// What one render is made from. A release takes the inputs of its task and refuses others.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// A garment to put on a person.
    TryOn(TryOn),
    /// A picture to paint after a description.
    TextToImage(TextToImage),
}

/// The pictures of a try-on.
#[derive(Debug, Clone)]
pub struct TryOn {
    /// The person to dress, any size.
    pub person: RgbImage,
    /// The garment, any size.
    pub garment: RgbImage,
    /// Where the garment is worn.
    pub category: Category,
    /// How the garment was photographed.
    pub garment_photo: GarmentPhoto,
}

/// What a picture is in a try-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The person to dress.
    Person,
    /// The garment, photographed like that.
    Garment(GarmentPhoto),
}

/// A picture described in words.
#[derive(Clone)]
pub struct TextToImage {
    /// What is to be seen. It is content: it goes into no log.
    pub prompt: String,
    /// What is there already; without it everything is painted.
    pub kept: Option<Kept>,
}

impl fmt::Debug for TextToImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextToImage").field("kept", &self.kept.is_some()).finish_non_exhaustive()
    }
}

/// What of a given picture stays as it is while the rest is painted.
#[derive(Clone)]
pub struct Kept {
    /// The picture, of exactly the [size](kraftr_protocol::ReleaseManifest::size) that the release paints: where in the
    /// frame the subject stands is composition, which the caller knows about and a network does not.
    pub picture: RgbImage,
    /// White stays, black is painted, grey is mixed; of the picture's size.
    pub matte: GrayImage,
}

impl Kept {
    /// `painted` where the matte is black, the picture where it is white, byte for byte. All three of one size.
    pub(crate) fn over(&self, painted: &RgbImage) -> RgbImage {
        let mix = |of: u8, kept: u8, painted: u8| {
            let (of, kept, painted) = (u32::from(of), u32::from(kept), u32::from(painted));
            ((of * kept + (255 - of) * painted + 127) / 255) as u8
        };
        let mut composed = painted.clone();
        let given = self.matte.pixels().zip(self.picture.pixels());
        for (pixel, (matte, kept)) in composed.pixels_mut().zip(given) {
            for channel in 0..3 {
                pixel.0[channel] = mix(matte.0[0], kept.0[channel], pixel.0[channel]);
            }
        }
        composed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_stays_and_black_is_painted() {
        let kept = Kept {
            picture: RgbImage::from_fn(256, 1, |x, _| [x as u8, 200, 0].into()),
            matte: GrayImage::from_fn(256, 1, |x, _| [[0, 255, 128][x as usize % 3]].into()),
        };
        let composed = kept.over(&RgbImage::from_pixel(256, 1, [7, 100, 255].into()));
        for (x, _, pixel) in composed.enumerate_pixels() {
            let expect = match x % 3 {
                0 => [7, 100, 255],
                1 => [x as u8, 200, 0],
                _ => [pixel.0[0], 150, 127],
            };
            assert_eq!(pixel.0, expect, "{x}");
        }
    }

    /// Descriptions are content.
    #[test]
    fn a_description_is_not_printed() {
        let inputs = TextToImage { prompt: "the secret garden".to_owned(), kept: None };
        assert!(!format!("{:?}", Inputs::TextToImage(inputs)).contains("secret"));
    }
}
