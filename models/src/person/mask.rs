//! Which pixels of a picture are meant, and how such a set grows.
//!
//! Every operation gives what OpenCV's function of that kind gives, border rules and chamfer distances included: the
//! pictures that the try-on network was trained on were masked with it.

/// A set of pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mask {
    width: usize,
    height: usize,
    set: Vec<bool>,
}

/// How far a mask grows to each side, in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) left: usize,
    pub(crate) right: usize,
    pub(crate) up: usize,
    pub(crate) down: usize,
}

impl Mask {
    /// Row by row.
    pub(crate) fn new(width: usize, height: usize, set: Vec<bool>) -> Self {
        assert_eq!(set.len(), width * height, "a mask has a value for every pixel");
        Self { width, height, set }
    }

    /// Whether each pixel is meant, row by row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = bool> {
        self.set.iter().copied()
    }

    fn with(&self, set: Vec<bool>) -> Self {
        Self::new(self.width, self.height, set)
    }

    /// Pixels for which `both` holds of this and the other mask.
    pub(crate) fn combine(&self, other: &Self, both: impl Fn(bool, bool) -> bool) -> Self {
        self.with(self.set.iter().zip(&other.set).map(|(ours, theirs)| both(*ours, *theirs)).collect())
    }

    /// The smallest upright rectangle around all of it, filled.
    pub(crate) fn bounding_box(&self) -> Self {
        let mut sides: Option<[usize; 4]> = None;
        for (at, _) in self.set.iter().enumerate().filter(|(_, set)| **set) {
            let (x, y) = (at % self.width, at / self.width);
            let [left, top, right, bottom] = sides.unwrap_or([x, y, x, y]);
            sides = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        }
        let Some([left, top, right, bottom]) = sides else { return self.clone() };
        let inside = |at: usize| {
            (left..=right).contains(&(at % self.width)) && (top..=bottom).contains(&(at / self.width))
        };
        self.with((0..self.set.len()).map(inside).collect())
    }

    /// Grows by a rectangle.
    pub(crate) fn grown(&self, by: Growth) -> Self {
        let across = self.grown_in_rows(by.left, by.right);
        across.transposed().grown_in_rows(by.up, by.down).transposed()
    }

    /// Grows by a disc of that radius.
    pub(crate) fn grown_by_disc(&self, radius: usize) -> Self {
        let mut set = vec![false; self.set.len()];
        for dy in 0..=radius {
            let r = radius as f64;
            let reach = (r * (1.0 - (dy * dy) as f64 / (r * r).max(1.0)).sqrt()).round_ties_even() as usize;
            let row = self.grown_in_rows(reach, reach);
            let shift = dy * self.width;
            for (at, _) in row.set.iter().enumerate().filter(|(_, set)| **set) {
                if at + shift < set.len() {
                    set[at + shift] = true;
                }
                if at >= shift {
                    set[at - shift] = true;
                }
            }
        }
        self.with(set)
    }

    fn grown_in_rows(&self, left: usize, right: usize) -> Self {
        let mut set = vec![false; self.set.len()];
        for (from, to) in self.set.chunks_exact(self.width).zip(set.chunks_exact_mut(self.width)) {
            // Everything up to here has been filled.
            let mut filled = 0;
            for (x, _) in from.iter().enumerate().filter(|(_, set)| **set) {
                let end = (x + right + 1).min(self.width);
                let start = x.saturating_sub(left).max(filled);
                to[start.min(end)..end].fill(true);
                filled = end;
            }
        }
        self.with(set)
    }

    fn transposed(&self) -> Self {
        let at = |n: usize| self.set[n % self.height * self.width + n / self.height];
        Self::new(self.height, self.width, (0..self.set.len()).map(at).collect())
    }

    /// The mask as if it had been painted with a soft round brush of that radius: grown, its outline smoothed, without
    /// holes, and never less than before.
    pub(crate) fn brushed(&self, radius: usize) -> Self {
        let grown = self.grown_by_disc(radius);
        let inside = grown.distances();
        let outside = grown.with(grown.set.iter().map(|set| !set).collect()).distances();
        // Negative inside.
        let signed: Vec<f32> = inside.iter().zip(&outside).map(|(to_mask, out)| to_mask - out).collect();
        let smooth = blurred(&signed, self.width, radius as f64 / 2.5);
        let smooth = self.with(smooth.iter().map(|value| *value <= 0.0).collect());
        smooth.without_holes().combine(self, |smooth, before| smooth || before)
    }

    /// Fills what cannot be reached from the top left corner over pixels that are not set.
    ///
    /// That makes a hole of ground that the mask parts from that corner, and of all ground when the corner is set: so
    /// did the reference when it made the training pictures.
    fn without_holes(&self) -> Self {
        let mut reached = vec![false; self.set.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if self.set[at] || std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let (x, y) = (at % self.width, at / self.width);
            open.extend((x > 0).then(|| at - 1));
            open.extend((x + 1 < self.width).then(|| at + 1));
            open.extend((y > 0).then(|| at - self.width));
            open.extend((y + 1 < self.height).then(|| at + self.width));
        }
        self.with(reached.into_iter().map(|reached| !reached).collect())
    }

    /// For every pixel the distance to the nearest one that is set, in pixels, as `distanceTransform` with a 5 x 5
    /// chamfer approximates it; very far when none is set.
    pub(crate) fn distances(&self) -> Vec<f32> {
        /// One step straight, diagonal, and like a knight's, in 65,536ths.
        const STEPS: [i64; 3] = [65_536, 91_750, 143_976];
        const FAR: i64 = (i32::MAX >> 2) as i64;
        /// Neighbours above and to the left: columns, rows, kind of step.
        const BEFORE: [(isize, isize, usize); 8] = [
            (-1, -2, 2),
            (1, -2, 2),
            (-2, -1, 2),
            (-1, -1, 1),
            (0, -1, 0),
            (1, -1, 1),
            (2, -1, 2),
            (-1, 0, 0),
        ];
        let (width, height) = (self.width as isize, self.height as isize);
        let mut far: Vec<i64> = self.set.iter().map(|set| if *set { 0 } else { FAR }).collect();
        // Down with what lies before, then up with its mirror image.
        for sign in [1, -1] {
            for n in 0..far.len() {
                let at = if sign > 0 { n } else { far.len() - 1 - n };
                let (x, y) = (at as isize % width, at as isize / width);
                for (dx, dy, kind) in BEFORE {
                    let (x, y) = (x + sign * dx, y + sign * dy);
                    if (0..width).contains(&x) && (0..height).contains(&y) {
                        far[at] = far[at].min(far[(y * width + x) as usize] + STEPS[kind]);
                    }
                }
            }
        }
        far.into_iter().map(|far| far.min(FAR) as f32 / 65_536.0).collect()
    }
}

/// A Gaussian blur of `values` (rows of `width`); beyond an edge lie the edge's values.
fn blurred(values: &[f32], width: usize, sigma: f64) -> Vec<f32> {
    let reach = (sigma * 8.0 + 1.0).round_ties_even() as i64 / 2;
    let bell = |x: i64| (-((x * x) as f64) / (2.0 * sigma * sigma)).exp();
    let sum: f64 = (-reach..=reach).map(bell).sum();
    let kernel: Vec<f32> = (-reach..=reach).map(|x| (bell(x) / sum) as f32).collect();
    let along = |values: &[f32], width: usize| -> Vec<f32> {
        // Rows become columns, so that the second call blurs the other way and turns back.
        let height = values.len() / width;
        let mut turned = vec![0.0; values.len()];
        for (y, row) in values.chunks_exact(width).enumerate() {
            for x in 0..width {
                let value = |n: usize| row[(x as i64 + n as i64 - reach).clamp(0, width as i64 - 1) as usize];
                turned[x * height + y] = kernel.iter().enumerate().map(|(n, k)| k * value(n)).sum();
            }
        }
        turned
    };
    along(&along(values, width), values.len() / width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let set = rows.iter().flat_map(|row| row.chars().map(|c| c == '#')).collect();
        Mask::new(rows[0].len(), rows.len(), set)
    }

    fn check(is: &Mask, expected: &[&str]) {
        let rows: Vec<String> = is
            .set
            .chunks(is.width)
            .map(|row| row.iter().map(|set| if *set { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn grows_by_what_is_asked_and_stops_at_edges() {
        let one = mask(&["......", "..#...", "......"]);
        check(&one.grown(Growth { left: 1, right: 2, up: 0, down: 1 }), &["......", ".####.", ".####."]);
        check(&one.grown(Growth { left: 9, right: 0, up: 9, down: 0 }), &["###...", "###...", "......"]);
        let disc = mask(&[".....", ".....", "..#..", ".....", "....."]).grown_by_disc(2);
        // As OpenCV rounds an ellipse of 5 x 5.
        check(&disc, &["..#..", "#####", "#####", "#####", "..#.."]);
    }

    #[test]
    fn holes_are_what_the_corner_does_not_reach() {
        let ring = mask(&[".....", ".###.", ".#.#.", ".###."]);
        check(&ring.without_holes(), &[".....", ".###.", ".###.", ".###."]);
        check(&mask(&["..", "##", ".."]).without_holes(), &["..", "##", "##"]);
    }

    #[test]
    fn distances_are_chamfered() {
        let far = mask(&["#...", "....", "...."]).distances();
        let expected = [0.0, 1.0, 2.0, 3.0, 1.0, 1.4, 2.1969, 3.1969, 2.0, 2.1969, 2.8, 3.5969];
        for (ours, expected) in far.iter().zip(expected) {
            assert!((ours - expected).abs() < 1e-4, "{far:?}");
        }
        assert!(mask(&["..."]).distances().iter().all(|far| *far > 8_000.0));
    }

    #[test]
    fn nothing_grows_from_nothing() {
        let nothing = mask(&["...", "..."]);
        assert_eq!(nothing.bounding_box(), nothing);
        assert_eq!(nothing.brushed(2), nothing);
    }
}
