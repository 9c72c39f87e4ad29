//! The mark itself: keyed lattices of DCT coefficients of the luma. README.md explains the method.

mod detect;
mod embed;
mod transform;

pub use detect::{Detection, detect};
pub use embed::embed;

/// Pixels that each side of a marked picture has at least: 256 blocks give each coded bit five carriers.
pub const SIDE_MIN: u32 = 128;

/// How coarsely carriers are quantised: more survives more compression and costs quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Invisible: for JPEG of quality 75 upward.
    Normal,
    /// For pictures that clip much of the mark, and coarser JPEG.
    Strong,
    /// The last resort, faintly visible on flat ground.
    Strongest,
}

impl Strength {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Strong, Self::Strongest];

    /// The step of the lattice, in units of an orthonormal 8x8 DCT of 8-bit luma.
    const fn step(self) -> f32 {
        match self {
            Self::Normal => 16.0,
            Self::Strong => 19.5,
            Self::Strongest => 24.0,
        }
    }
}
