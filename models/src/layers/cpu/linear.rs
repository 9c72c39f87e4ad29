//! A linear layer with what comes before it (adaptive layer norm) and after it (GELU, gate and
//! residual) done on the rows at hand.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::math;
use super::tile::{self, PANEL};

/// Most rows that one task carries through all panels: its part of a panel's product stays in the first cache,
/// and the weights are read once for all of them.
const ROWS: usize = 128;

/// Tasks for each thread, so that one that is held up does not hold up all.
const TASKS: usize = 4;

/// Numbers of k at a time: the panel's part stays in the first two caches while the rows go by.
const DEPTH: usize = 256;

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
        /// Shaped as the result.
        residual: Source<'a>,
        /// A vector of each batch entry.
        gate: PerEntry<'a>,
    },
}

impl<'a> Source<'a> {
    /// Row `row` of batch entry `entry`.
    #[inline(always)]
    pub(crate) fn row(&self, entry: usize, row: usize) -> &'a [f32] {
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
        let all = entries * rows;
        let chunk = all.div_ceil(TASKS * rayon::current_num_threads()).next_multiple_of(8).clamp(8, ROWS);
        let mut result = vec![0.0; all * self.out];
        result.par_chunks_mut(chunk * self.out).enumerate().for_each(|(n, result)| {
            arch.dispatch(Chunk { layer: self, first: n * chunk, rows, sources, before, after, result });
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
        let mut product = vec![0.0; count.next_multiple_of(height) * PANEL];
        for (n, panel) in self.layer.panels.chunks_exact(into * PANEL).enumerate() {
            product.fill(0.0);
            for (n, part) in panel.chunks(DEPTH * PANEL).enumerate() {
                let (first, depth) = (n * DEPTH * height, part.len() / PANEL * height);
                let blocks = packed.chunks_exact(into * height);
                for (a, product) in blocks.zip(product.chunks_exact_mut(height * PANEL)) {
                    tile::accumulate(simd, &a[first..][..depth], part, product);
                }
            }
            let columns = n * PANEL..out.min((n + 1) * PANEL);
            let results = self.result.chunks_exact_mut(out);
            for (row, (product, result)) in product.chunks_exact_mut(PANEL).zip(results).enumerate() {
                let at = self.first + row;
                self.after.apply(
                    &mut product[..columns.len()],
                    &self.layer.bias[columns.clone()],
                    Place { entry: at / self.rows, row: at % self.rows, column: columns.start, out },
                    &mut result[columns.clone()],
                );
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
        let mut values = vec![0.0; height * into];
        for (n, block) in packed.chunks_exact_mut(into * height).enumerate() {
            let rows = self.first + n * height..self.first + count.min((n + 1) * height);
            for (row, values) in rows.zip(values.chunks_exact_mut(into)) {
                let (entry, row) = (row / self.rows, row % self.rows);
                let mut at = 0;
                for source in self.sources {
                    values[at..at + source.width].copy_from_slice(source.row(entry, row));
                    at += source.width;
                }
                if let Before::Norm { shift, scale } = self.before {
                    norm(values, shift.of(entry, into), scale.of(entry, into));
                }
            }
            tile::transpose(&values, into, height, block);
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
    entry: usize,
    row: usize,
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
                let residual = &residual.row(place.entry, place.row)[place.column..][..product.len()];
                let gate = &gate.of(place.entry, place.out)[place.column..][..product.len()];
                for (((result, value), residual), gate) in
                    result.iter_mut().zip(product).zip(residual).zip(gate)
                {
                    *result = residual + gate * *value;
                }
            }
        }
    }
}
