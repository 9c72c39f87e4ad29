//! Shift, scale and gate, made from the conditioning vector of each row.

use candle_core::{Result, Tensor};

use super::cpu::view::LentPieces;
use super::linear::Linear;
use crate::weights::Tensors;

/// The layer that makes them.
pub(crate) struct Modulation {
    linear: Linear,
    width: usize,
}

impl Modulation {
    /// The layer `name`, for tokens of `width`.
    pub(crate) fn load(tensors: &Tensors<'_>, name: &str, width: usize) -> Result<Self> {
        Ok(Self::new(Linear::load(tensors, name)?, width))
    }

    /// A given layer, for tokens of `width`.
    pub(crate) fn new(linear: Linear, width: usize) -> Self {
        Self { linear, width }
    }

    /// `active` is the `SiLU` of the conditioning vectors, `[b, width]`.
    pub(crate) fn forward(&self, active: &Tensor) -> Result<Pieces> {
        Ok(Pieces { all: self.linear.forward(&active.unsqueeze(1)?)?.squeeze(1)?, width: self.width })
    }
}

/// The pieces of one layer side by side, `[b, pieces * width]`.
pub(crate) struct Pieces {
    all: Tensor,
    width: usize,
}

impl Pieces {
    /// Piece `n`, `[b, 1, width]`.
    pub(crate) fn piece(&self, n: usize) -> Result<Tensor> {
        self.all.narrow(1, n * self.width, self.width)?.unsqueeze(1)
    }

    /// All pieces, for the fused loops.
    pub(crate) fn lend(&self) -> LentPieces<'_> {
        LentPieces::new(&self.all, self.width)
    }

    /// `x + gate * y` with piece `gate`; `[b, n, width]`.
    pub(crate) fn gated(&self, gate: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        x + y.broadcast_mul(&self.piece(gate)?)?
    }
}
