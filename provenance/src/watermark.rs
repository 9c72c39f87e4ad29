//! The mark itself: a tile of spectral lines that repeats over the luma. README.md explains the method.

mod climb;
mod detect;
mod embed;
mod lattice;
mod masking;
mod plane;
mod pose;
mod quality;
mod relief;
mod residual;
mod search;
mod spectrum;
mod texture;
mod tile;
mod windows;

pub use detect::{ATTEMPTS_MAX, Detection, attempts, detect};
pub use embed::embed;

/// Pixels that each side of a marked picture has at least.
pub const SIDE_MIN: u32 = 128;
/// Pixels that each side of a picture has at least in which a mark is looked for: fewer do not hold one.
const SIDE_READ_MIN: u32 = 48;

/// Side in pixels of the square picture whose pixels are canonical ones.
const CANONICAL: f64 = 705.0;
/// Pixels of the smallest canonical pixel: smaller pictures hold fewer tiles instead.
const SCALE_MIN: f64 = 0.5;

/// Pixels of a canonical pixel in a picture as it was marked: a mark grows with its picture, so that it needs no search
/// after the whole picture was scaled.
fn canonical_scale(width: usize, height: usize) -> f64 {
    proportional_scale(width, height).max(SCALE_MIN)
}

/// Pixels of a canonical pixel in a picture that was scaled from one large enough to be marked in proportion.
fn proportional_scale(width: usize, height: usize) -> f64 {
    ((width * height) as f64).sqrt() / CANONICAL
}

/// How high a mark stands out: more survives more and is seen sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Invisible.
    Normal,
    /// For pictures and encodings that leave little of the mark.
    Strong,
    /// The last resort, faintly visible on plain ground.
    Strongest,
}

impl Strength {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Strong, Self::Strongest];

    /// Height in units of the invisible one.
    const fn factor(self) -> f32 {
        match self {
            Self::Normal => 1.0,
            Self::Strong => 1.6,
            Self::Strongest => 3.0,
        }
    }
}
