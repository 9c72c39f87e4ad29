//! Parts of a picture that were moved differently, by perspective or by bending.

use super::plane::Plane;
use super::pose::Matrix;
use super::search;
use super::spectrum::Spectrum;

/// Windows in each direction. Each is half as wide and half as high as the picture, and overlaps its neighbours by half.
const COUNT: usize = 3;

/// A part of a picture, small enough that all of it was moved alike.
pub(crate) struct Window {
    pub(crate) spectrum: Spectrum,
    /// Lattices that may be the mark's here, best first.
    pub(crate) lattices: Vec<Matrix>,
}

/// The windows of a residual, with lattices that differ a little from an upright one of this `scale`.
pub(crate) fn windows(residual: &Plane, scale: f64) -> Vec<Window> {
    let (width, height) = (residual.width / 2, residual.height / 2);
    let start = |index: usize, side: usize, part: usize| index * (side - part) / (COUNT - 1);
    let window = |index: usize| {
        let left = start(index % COUNT, residual.width, width);
        let top = start(index / COUNT, residual.height, height);
        let spectrum = Spectrum::new(&residual.part(left, top, width, height));
        let lattices = search::nearby(&spectrum, scale);
        Window { spectrum, lattices }
    };
    (0..COUNT * COUNT).map(window).collect()
}
