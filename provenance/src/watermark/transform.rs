//! Where a key puts its carriers, and the 8x8 cosine patterns they are.

use std::f32::consts::PI;
use std::sync::LazyLock;

use super::SIDE_MIN;
use crate::Key;
use crate::key::Stream;
use crate::payload::CODED_BITS;

/// Pixels of a block's side; the grid begins at the top left corner, as JPEG's does.
pub(crate) const SIDE: usize = 8;

/// Vertical and horizontal frequency of each carrier: those that JPEG's example table (ITU-T T.81, K.1)
/// quantises with 10 to 16 at quality 50, without the two lowest, whose patterns show on flat grounds.
const CARRIERS: [(usize, usize); 8] = [(1, 1), (1, 2), (2, 1), (2, 0), (0, 2), (2, 2), (0, 3), (3, 0)];

/// Carriers that a picture has at least, where its blocks suffice: 16 for each coded bit.
const SLOTS_AIM: usize = 6_000;

/// One carrier of one coded bit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Index of the pattern.
    pub(crate) carrier: u8,
    /// Index of the coded bit.
    pub(crate) bit: u16,
    /// Shift of the lattice, in steps, 0 to 1.
    pub(crate) dither: f32,
}

impl Slot {
    /// The pattern of the slot.
    pub(crate) fn pattern(self) -> &'static Pattern {
        &PATTERNS[usize::from(self.carrier)]
    }
}

/// The carriers of a picture under one key.
pub(crate) struct Layout {
    /// Carriers in each block.
    pub(crate) per_block: usize,
    /// Carriers in each row of blocks.
    pub(crate) per_row: usize,
    /// `per_block` slots for each block, by rows of blocks.
    pub(crate) slots: Vec<Slot>,
}

impl Layout {
    /// The layout of a picture of this size in pixels, or none if it is too small.
    pub(crate) fn new(width: u32, height: u32, key: &Key) -> Option<Self> {
        if width.min(height) < SIDE_MIN {
            return None;
        }
        let (columns, rows) = (width as usize / SIDE, height as usize / SIDE);
        let per_block = SLOTS_AIM.div_ceil(columns * rows).min(CARRIERS.len());
        let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
        let mut random = Stream::new(key.derive("layout", &size));
        let mut bits: Vec<u16> = (0..CODED_BITS as u16).collect();
        let mut carriers: [u8; CARRIERS.len()] = std::array::from_fn(|index| index as u8);
        let slots = (0..columns * rows * per_block).map(|index| {
            let (turn, place) = (index % CODED_BITS, index % per_block);
            if turn == 0 {
                random.shuffle(&mut bits);
            }
            // As much of a shuffle (Fisher and Yates) as the block needs: it has no carrier twice.
            let chosen = place + random.below((CARRIERS.len() - place) as u32) as usize;
            carriers.swap(place, chosen);
            let dither = random.below(1 << 16) as f32 / 65_536.0;
            Slot { carrier: carriers[place], bit: bits[turn], dither }
        });
        Some(Self { per_block, per_row: columns * per_block, slots: slots.collect() })
    }
}

/// An orthonormal cosine pattern, or the luma of a block, by rows.
pub(crate) type Pattern = [f32; SIDE * SIDE];

static PATTERNS: LazyLock<[Pattern; CARRIERS.len()]> = LazyLock::new(|| {
    CARRIERS.map(|(vertical, horizontal)| {
        std::array::from_fn(|at| wave(vertical, at / SIDE) * wave(horizontal, at % SIDE))
    })
});

fn wave(frequency: usize, at: usize) -> f32 {
    let norm = if frequency == 0 { 1.0 / SIDE as f32 } else { 2.0 / SIDE as f32 }.sqrt();
    norm * ((2 * at + 1) as f32 * frequency as f32 * PI / (2 * SIDE) as f32).cos()
}

/// How much of `pattern` is in `luma`.
pub(crate) fn project(luma: &Pattern, pattern: &Pattern) -> f32 {
    luma.iter().zip(pattern).map(|(a, b)| a * b).sum()
}

/// The luma (ITU-R BT.601, as in JPEG) of the block at `column` in `rows`, which are eight rows of
/// `width` RGB pixels.
pub(crate) fn luma(rows: &[u8], width: usize, column: usize) -> Pattern {
    let mut block = [0.0; SIDE * SIDE];
    for (y, line) in block.chunks_exact_mut(SIDE).enumerate() {
        let start = (y * width + column * SIDE) * 3;
        for (value, pixel) in line.iter_mut().zip(rows[start..start + SIDE * 3].chunks_exact(3)) {
            *value = 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_orthonormal() {
        for (i, a) in PATTERNS.iter().enumerate() {
            for (j, b) in PATTERNS.iter().enumerate() {
                assert!((project(a, b) - f32::from(u8::from(i == j))).abs() < 1e-5, "{i} {j}");
            }
        }
    }

    #[test]
    fn a_block_has_a_carrier_once_and_bits_share_evenly() {
        for (width, height) in [(128, 128), (137, 259), (384, 576), (1024, 1024)] {
            let layout = Layout::new(width, height, &Key::development()).unwrap();
            let mut uses = [0usize; CODED_BITS];
            for block in layout.slots.chunks_exact(layout.per_block) {
                let mut carriers: Vec<u8> = block.iter().map(|slot| slot.carrier).collect();
                carriers.sort_unstable();
                carriers.dedup();
                assert_eq!(carriers.len(), layout.per_block);
            }
            for slot in &layout.slots {
                uses[usize::from(slot.bit)] += 1;
            }
            let (least, most) = (uses.iter().min().unwrap(), uses.iter().max().unwrap());
            assert!(*least >= 5 && most - least <= 1, "{least} {most}");
        }
        assert!(Layout::new(127, 4000, &Key::development()).is_none());
    }
}
