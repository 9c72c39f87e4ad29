//! The mark itself: coded bits on 8x8 DCT coefficients of luma. README.md explains the method.

mod detect;
mod embed;
mod layout;
mod transform;

pub use detect::{Detection, detect};
pub use embed::embed;

use crate::MarkError;
use kraftr_imaging::RgbImage;

/// Pixels that each side of a marked picture has at least: 256 blocks carry 480 coded bits.
pub const SIDE_MIN: u32 = 128;

/// How much of the picture the mark may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Invisible: for every picture that reads back with it.
    Normal,
    /// For pictures that leave little room, such as white ones.
    Strong,
    /// The last resort, faintly visible on flat ground.
    Strongest,
}

impl Strength {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Strong, Self::Strongest];

    const fn factor(self) -> f32 {
        match self {
            Self::Normal => 1.0,
            Self::Strong => 1.5,
            Self::Strongest => 2.25,
        }
    }
}

fn check_size(image: &RgbImage) -> Result<(), MarkError> {
    let (width, height) = image.dimensions();
    if width.min(height) < SIDE_MIN {
        return Err(MarkError::TooSmall { width, height, side_min: SIDE_MIN });
    }
    Ok(())
}
