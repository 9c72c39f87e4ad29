//! A linear layer with what comes before it (adaptive layer norm) and after it (GELU, gate and
//! residual) done on the rows at hand.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::math;
use super::tile::{self, PANEL};

/// Rows that one task carries through all panels: a panel stays in the first cache, the packed rows
/// in the second.
const CHUNK: usize = 64;

/// Weights in panels of 48 columns, `[panel][k][PANEL]`, the last one filled up with zeros.
pub(crate) struct Packed {
    panels: Vec<f32>,
    bias: Vec<f32>,
    into: usize,
    out: usize,
}

/// Rows of one or several sources side by side.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The numbers.
    pub(crate) data: &'a [f32],
    /// Where the first row starts.
    pub(crate) offset: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one batch entry to the next.
    pub(crate) entry: usize,
    /// Numbers taken from each row.
    pub(crate) width: usize,
}

/// Shift, scale or gate of each batch entry: numbers `offset..` of its `stride`.
#[derive(Clone, Copy)]
pub(crate) struct PerEntry<'a> {
    /// The numbers.
    pub(crate) data: &'a [f32],
    /// From one batch entry to the next.
    pub(crate) stride: usize,
    /// Where the vector starts.
    pub(crate) offset: usize,
}

/// What happens to a row before the product.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a> {
    /// Nothing.
    Nothing,
    /// Layer norm, then `* (1 + scale) + shift`.
    Norm {
        /// Added.
        shift: PerEntry<'a>,
        /// Multiplied, less one.
        scale: PerEntry<'a>,
    },
}

/// What happens to a row after the product.
#[derive(Clone, Copy)]
pub(crate) enum After<'a> {
    /// Nothing.
    Nothing,
    /// GELU on the columns from this one on.
    Gelu(usize),
    /// `residual + gate * y`.
    Gated {
        /// Contiguous, shaped as the result.
        residual: &'a [f32],
        /// A vector of each batch entry.
        gate: PerEntry<'a>,
    },
}

impl<'a> Source<'a> {
    fn row(&self, entry: usize, row: usize) -> &'a [f32] {
        &self.data[self.offset + entry * self.entry + row * self.row..][..self.width]
    }
}

impl<'a> PerEntry<'a> {
    fn of(&self, entry: usize, width: usize) -> &'a [f32] {
        &self.data[entry * self.stride + self.offset..][..width]
    }
}

impl Packed {
    /// Packs `weight`, `[out][into]`, and `bias`, empty or `[out]`.
    pub(crate) fn new(weight: &[f32], bias: &[f32], into: usize, out: usize) -> Self {
        let panels = out.div_ceil(PANEL);
        let mut packed = vec![0.0; panels * into * PANEL];
        for (column, row) in weight.chunks_exact(into).enumerate() {
            let panel = &mut packed[column / PANEL * into * PANEL..][..into * PANEL];
            for (k, value) in row.iter().enumerate() {
                panel[k * PANEL + column % PANEL] = *value;
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(panels * PANEL, 0.0);
        Self { panels: packed, bias: padded, into, out }
    }

    /// Columns of the result.
    pub(crate) fn out(&self) -> usize {
        self.out
    }

    /// The layer over `entries` batch entries of `rows` rows each: `[entries][rows][out]`.
    pub(crate) fn run(
        &self,
        entries: usize,
        rows: usize,
        sources: &[Source<'_>],
        before: Before<'_>,
        after: After<'_>,
    ) -> Vec<f32> {
        assert_eq!(
            sources.iter().map(|source| source.width).sum::<usize>(),
            self.into,
            "sources side by side are as wide as the layer's input"
        );
        let arch = Arch::new();
        let mut result = vec![0.0; entries * rows * self.out];
        result.par_chunks_mut(CHUNK * self.out).enumerate().for_each(|(n, result)| {
            arch.dispatch(Chunk { layer: self, first: n * CHUNK, rows, sources, before, after, result });
        });
        result
    }
}

/// Some rows of a result.
struct Chunk<'a> {
    layer: &'a Packed,
    first: usize,
    rows: usize,
    sources: &'a [Source<'a>],
    before: Before<'a>,
    after: After<'a>,
    result: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Packed { into, out, .. } = *self.layer;
        let height = tile::rows::<S>();
        let count = self.result.len() / out;
        let packed = self.pack(count, height);
        let mut product = [0.0; 8 * PANEL];
        let product = &mut product[..height * PANEL];
        for (n, panel) in self.layer.panels.chunks_exact(into * PANEL).enumerate() {
            let columns = n * PANEL..out.min((n + 1) * PANEL);
            for (block, a) in packed.chunks_exact(into * height).enumerate() {
                tile::multiply(simd, a, panel, product);
                for (r, product) in product.chunks_exact_mut(PANEL).enumerate() {
                    let row = block * height + r;
                    if row < count {
                        self.after.apply(
                            &mut product[..columns.len()],
                            &self.layer.bias[columns.clone()],
                            Place { row: self.first + row, rows: self.rows, column: columns.start, out },
                            &mut self.result[row * out..][columns.clone()],
                        );
                    }
                }
            }
        }
    }
}

impl Chunk<'_> {
    /// The rows after `before`, in blocks of `height` rows: `[block][k][height]`.
    #[inline(always)]
    fn pack(&self, count: usize, height: usize) -> Vec<f32> {
        let into = self.layer.into;
        let mut packed = vec![0.0; count.div_ceil(height) * into * height];
        let mut values = vec![0.0; into];
        for n in 0..count {
            let (entry, row) = ((self.first + n) / self.rows, (self.first + n) % self.rows);
            let mut at = 0;
            for source in self.sources {
                values[at..at + source.width].copy_from_slice(source.row(entry, row));
                at += source.width;
            }
            if let Before::Norm { shift, scale } = self.before {
                norm(&mut values, shift.of(entry, into), scale.of(entry, into));
            }
            let block = &mut packed[n / height * into * height..][..into * height];
            for (column, value) in block.chunks_exact_mut(height).zip(&values) {
                column[n % height] = *value;
            }
        }
        packed
    }
}

#[inline(always)]
fn norm(values: &mut [f32], shift: &[f32], scale: &[f32]) {
    let n = values.len() as f32;
    let mean = math::sum(values, |x| x) / n;
    let variance = math::sum(values, |x| (x - mean) * (x - mean)) / n;
    let inverse = 1.0 / (variance + 1e-6).sqrt();
    for ((value, shift), scale) in values.iter_mut().zip(shift).zip(scale) {
        *value = (*value - mean) * inverse * (1.0 + scale) + shift;
    }
}

/// Where a piece of a row lies in the whole result.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    column: usize,
    out: usize,
}

impl After<'_> {
    #[inline(always)]
    fn apply(&self, product: &mut [f32], bias: &[f32], place: Place, result: &mut [f32]) {
        for (value, bias) in product.iter_mut().zip(bias) {
            *value += bias;
        }
        match self {
            Self::Nothing => result.copy_from_slice(product),
            Self::Gelu(from) => {
                let plain = from.saturating_sub(place.column).min(product.len());
                result[..plain].copy_from_slice(&product[..plain]);
                for (result, value) in result[plain..].iter_mut().zip(&product[plain..]) {
                    *result = math::gelu(*value);
                }
            }
            Self::Gated { residual, gate } => {
                let residual = &residual[place.row * place.out + place.column..][..product.len()];
                let gate = &gate.of(place.row / place.rows, place.out)[place.column..][..product.len()];
                for (((result, value), residual), gate) in
                    result.iter_mut().zip(product).zip(residual).zip(gate)
                {
                    *result = residual + gate * *value;
                }
            }
        }
    }
}
