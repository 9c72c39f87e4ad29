//! Which coded bit each coefficient carries, and with which sign: the secret part of the mark.

use super::transform::{Block, LINES};
use crate::Key;
use crate::key::Stream;
use crate::payload::CODED_BITS;

/// What one block carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The coded bit of each rank.
    bits: [u16; LINES],
    /// The line of each rank: a flat block uses the first one only.
    order: [usize; LINES],
    /// The sign of a coded 1 on each line.
    pub(super) signs: [f32; LINES],
}

impl Place {
    /// The lines of `block` that carry the mark, each with its coded bit.
    pub(super) fn carried(&self, block: &Block) -> impl Iterator<Item = (usize, usize)> {
        self.order.into_iter().zip(self.bits.map(usize::from)).take(block.lines)
    }
}

/// The places of `blocks` blocks in reading order.
///
/// In every run of as many blocks as there are coded bits, each rank carries each bit once, in an order of its own:
/// no bit depends on one region, and all are repeated equally often.
pub(super) fn places(key: &Key, blocks: usize) -> Vec<Place> {
    let mut stream = Stream::new(key.derive("watermark 1 layout", &[]));
    let mut places = Vec::with_capacity(blocks);
    let mut bits = [[0; CODED_BITS]; LINES];
    while places.len() < blocks {
        for rank in &mut bits {
            for (n, bit) in rank.iter_mut().enumerate() {
                *bit = n as u16;
            }
            stream.shuffle(rank);
        }
        let count = CODED_BITS.min(blocks - places.len());
        places.extend((0..count).map(|n| {
            let draw = stream.next_u32();
            Place {
                bits: std::array::from_fn(|rank| bits[rank][n]),
                order: order(draw >> LINES),
                signs: std::array::from_fn(|line| if draw >> line & 1 == 1 { 1.0 } else { -1.0 }),
            }
        }));
    }
    places
}

/// The three lines that coarse JPEG quantisation spares most come first, in turns.
fn order(draw: u32) -> [usize; LINES] {
    let turn = (draw % 3) as usize;
    [turn, (turn + 1) % 3, (turn + 2) % 3, 3, 4]
}
