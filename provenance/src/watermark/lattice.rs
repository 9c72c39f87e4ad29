//! The spectral lines of a tile, and what a key makes of each.

use std::f32::consts::FRAC_1_SQRT_2;
use std::sync::LazyLock;

use rustfft::num_complex::Complex32;

use crate::Key;
use crate::key::Stream;
use crate::payload::CODED_BITS;

/// Canonical pixels of a tile's side.
pub(crate) const TILE: usize = 128;
/// Length of the shortest and longest line, in steps of 1/[`TILE`] cycles for each canonical pixel: wavelengths of
/// 14.2 to 4.3. Slower ones show on plain ground, faster ones do not outlive JPEG and thumbnails.
pub(crate) const RADII: (f32, f32) = (9.0, 30.0);
/// Lines nearer to an axis than this are left to edges, borders and the blocks of codecs.
const OFF_AXIS: i16 = 2;
/// One line in so many is known to the detector beforehand.
const KNOWN_IN: usize = 8;

/// A line of the tile's spectrum. Its mirror image through the origin is implied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line {
    pub(crate) u: i16,
    pub(crate) v: i16,
}

impl Line {
    /// Distance from the origin, in steps.
    pub(crate) fn radius(self) -> f32 {
        f32::from(self.u).hypot(f32::from(self.v))
    }
}

/// All lines, shortest first.
pub(crate) fn lines() -> &'static [Line] {
    static LINES: LazyLock<Vec<Line>> = LazyLock::new(|| {
        let reach = RADII.1 as i16;
        let mut lines: Vec<Line> = (OFF_AXIS..=reach)
            .flat_map(|v| (-reach..=reach).map(move |u| Line { u, v }))
            .filter(|line| line.u.abs() >= OFF_AXIS && (RADII.0..=RADII.1).contains(&line.radius()))
            .collect();
        lines.sort_by_key(|line| (i32::from(line.u).pow(2) + i32::from(line.v).pow(2), line.v, line.u));
        lines
    });
    &LINES
}

/// How much weaker fast lines are: a line's height is its length to the power of minus this.
pub(crate) const TILT: f32 = 0.1;

/// The share of a mark's power that is left in means over boxes of `side` pixels, each `pitch` canonical pixels wide.
pub(crate) fn power_in_boxes(side: usize, pitch: f64) -> f32 {
    let response = |steps: i16| {
        let half = std::f64::consts::PI * f64::from(steps) / TILE as f64 * pitch;
        (half * side as f64).sin() / (side as f64 * half.sin())
    };
    let (mut kept, mut all) = (0.0, 0.0);
    for line in lines() {
        let power = f64::from(line.radius().powf(-2.0 * TILT));
        kept += power * (response(line.u) * response(line.v)).powi(2);
        all += power;
    }
    (kept / all) as f32
}

/// A line with the value that it has in every mark of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) line: Line,
    pub(crate) value: Complex32,
}

/// A line that carries two coded bits, one by its real and one by its imaginary part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carrier {
    pub(crate) line: Line,
    /// Index of the coded bit and the sign that it is multiplied with, for the real and the imaginary part.
    pub(crate) slots: [(u16, f32); 2],
}

/// What a key makes of the lines.
#[derive(Debug, Clone)]
pub(crate) struct Lattice {
    pub(crate) known: Vec<Known>,
    pub(crate) carriers: Vec<Carrier>,
}

impl Lattice {
    pub(crate) fn new(key: &Key) -> Self {
        let mut random = Stream::new(key.derive("lattice", &[]));
        let mut known = Vec::new();
        let mut carrying = Vec::new();
        // One of each few neighbours in radius, so that every ring has known lines.
        for group in lines().chunks(KNOWN_IN) {
            let chosen = random.below(group.len() as u32) as usize;
            for (at, line) in group.iter().enumerate() {
                if at == chosen {
                    let value = Complex32::new(sign(&mut random), sign(&mut random)) * FRAC_1_SQRT_2;
                    known.push(Known { line: *line, value });
                } else {
                    carrying.push(*line);
                }
            }
        }
        let mut bits: Vec<u16> = (0..CODED_BITS as u16).collect();
        let mut turn = CODED_BITS;
        let mut slot = |random: &mut Stream| {
            if turn == CODED_BITS {
                random.shuffle(&mut bits);
                turn = 0;
            }
            turn += 1;
            (bits[turn - 1], sign(random))
        };
        let carriers =
            carrying.into_iter().map(|line| Carrier { line, slots: [slot(&mut random), slot(&mut random)] });
        let carriers = carriers.collect();
        Self { known, carriers }
    }

    /// Each line with the value that it has in a mark of these coded bits, all of length 1.
    pub(crate) fn values(&self, coded: &[f32; CODED_BITS]) -> impl Iterator<Item = (Line, Complex32)> {
        let part = |(bit, sign): (u16, f32)| coded[usize::from(bit)] * sign * FRAC_1_SQRT_2;
        let known = self.known.iter().map(|known| (known.line, known.value));
        let carriers = self.carriers.iter().map(move |carrier| {
            (carrier.line, Complex32::new(part(carrier.slots[0]), part(carrier.slots[1])))
        });
        known.chain(carriers)
    }
}

fn sign(random: &mut Stream) -> f32 {
    if random.next_u32() >> 31 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_known_or_carries_and_bits_share_evenly() {
        let lattice = Lattice::new(&Key::development());
        assert_eq!(lines().len(), 1158);
        assert_eq!(lattice.known.len(), 145);
        assert_eq!(lattice.known.len() + lattice.carriers.len(), lines().len());
        let mut uses = [0; CODED_BITS];
        lattice
            .carriers
            .iter()
            .flat_map(|carrier| carrier.slots)
            .for_each(|(bit, _)| uses[usize::from(bit)] += 1);
        assert!(uses.iter().all(|uses| (3..=4).contains(uses)));
        let mut seen: Vec<_> = lattice.carriers.iter().map(|carrier| carrier.line).collect();
        seen.extend(lattice.known.iter().map(|known| known.line));
        seen.sort_by_key(|line| (line.u, line.v));
        seen.dedup();
        assert_eq!(seen.len(), lines().len());
    }

    #[test]
    fn keys_know_different_lines() {
        let known = |key: &Key| Lattice::new(key).known;
        let (a, b) = (known(&Key::development()), known(&Key::from_hex("b", &"5a".repeat(32)).unwrap()));
        let same = a.iter().zip(&b).filter(|(a, b)| a.line == b.line && a.value == b.value).count();
        assert!(same < 15, "{same}");
    }
}
