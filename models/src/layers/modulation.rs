//! Shift, scale and gate, made from the conditioning vector of each row.
//!
//! They depend on time and category alone, and the times of a sample are known before its first step: so the
//! layers of a whole network are computed together, for all steps at once, into one table.

use candle_core::{DType, Result, Tensor};

use super::cpu::view::LentPieces;
use super::linear::Linear;
use crate::weights::Tensors;

/// The modulation layers of a network, in the order in which they were loaded.
pub(crate) struct Modulations {
    layers: Vec<Linear>,
    /// Width of a token, and so of a piece.
    width: usize,
    columns: usize,
}

/// Where one layer's pieces lie in a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(usize);

impl Modulations {
    /// No layers yet, for tokens of `width`.
    pub(crate) fn new(width: usize) -> Self {
        Self { layers: Vec::new(), width, columns: 0 }
    }

    /// Loads the layer `name`.
    pub(crate) fn load(&mut self, tensors: &Tensors<'_>, name: &str) -> Result<Place> {
        Ok(self.push(Linear::load(tensors, name)?))
    }

    /// Adds a layer.
    pub(crate) fn push(&mut self, layer: Linear) -> Place {
        let place = Place(self.columns);
        self.columns += layer.out();
        self.layers.push(layer);
        place
    }

    /// Every layer's pieces, `[rows, columns]` in f32; `active` is the `SiLU` of the conditioning vectors,
    /// `[rows, width]`.
    pub(crate) fn table(&self, active: &Tensor) -> Result<Tensor> {
        let active = active.unsqueeze(0)?;
        let pieces = self.layers.iter().map(|layer| layer.forward(&active)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 2)?.squeeze(0)?.to_dtype(DType::F32)
    }

    /// The pieces at `place`, of the rows of a table that are in a pass.
    pub(crate) fn pieces<'a>(&self, rows: &'a Tensor, place: Place) -> Pieces<'a> {
        Pieces { rows, offset: place.0, width: self.width }
    }
}

/// The pieces of one layer, for each row of a pass.
#[derive(Clone, Copy)]
pub(crate) struct Pieces<'a> {
    rows: &'a Tensor,
    offset: usize,
    width: usize,
}

impl<'a> Pieces<'a> {
    /// Piece `n`, `[b, 1, width]`.
    pub(crate) fn piece(&self, n: usize) -> Result<Tensor> {
        self.rows.narrow(1, self.offset + n * self.width, self.width)?.unsqueeze(1)
    }

    /// The table, the column in it where piece `n` begins, and how many columns that has.
    #[cfg(feature = "cuda")]
    pub(crate) fn columns(&self, n: usize) -> (&'a Tensor, usize, usize) {
        (self.rows, self.offset + n * self.width, self.width)
    }

    /// All pieces, for the fused loops.
    pub(crate) fn lend(&self) -> LentPieces<'a> {
        LentPieces::new(self.rows, self.offset, self.width)
    }

    /// `x + gate * y` with piece `gate`; `[b, n, width]`.
    pub(crate) fn gated(&self, gate: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        x + y.broadcast_mul(&self.piece(gate)?.to_dtype(y.dtype())?)?
    }
}
