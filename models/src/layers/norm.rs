//! Normalisation: layer norm whose affine part comes from outside, and RMS norm of attention heads.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use super::modulation::Pieces;
use crate::weights::Tensors;

/// Added to variances and mean squares, as in the reference.
const EPSILON: f32 = 1e-6;

/// `(1 + scale) * layer_norm(x) + shift` over the last dimension; shift is piece `n`, scale the next.
/// A row at a time, since the kernel (sums in f32 in every precision) takes one scale and one shift.
pub(crate) fn modulated(x: &Tensor, pieces: &Pieces, n: usize) -> Result<Tensor> {
    let (shift, scale) = (pieces.piece(n)?, (pieces.piece(n + 1)? + 1.0)?);
    let rows = (0..x.dim(0)?).map(|row| {
        let affine = |of: &Tensor| of.get(row)?.squeeze(0)?.contiguous();
        ops::layer_norm(&x.narrow(0, row, 1)?.contiguous()?, &affine(&scale)?, &affine(&shift)?, EPSILON)
    });
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
}

/// Learned scales of the RMS norms of queries and keys, each as wide as a head.
pub(crate) struct HeadNorms {
    query: Tensor,
    key: Tensor,
}

impl HeadNorms {
    /// The scales below `name`.
    pub(crate) fn load(tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        Ok(Self {
            query: tensors.get(&format!("{name}.query_norm.scale"))?,
            key: tensors.get(&format!("{name}.key_norm.scale"))?,
        })
    }

    /// Given scales.
    #[cfg(test)]
    pub(crate) fn new(query: Tensor, key: Tensor) -> Self {
        Self { query, key }
    }

    /// Scales of queries and keys, for the fused loops.
    pub(crate) fn scales(&self) -> (&Tensor, &Tensor) {
        (&self.query, &self.key)
    }

    /// Norms queries, `[.., head]`.
    pub(crate) fn query(&self, q: &Tensor) -> Result<Tensor> {
        ops::rms_norm(&q.contiguous()?, &self.query, EPSILON)
    }

    /// Norms keys, `[.., head]`.
    pub(crate) fn key(&self, k: &Tensor) -> Result<Tensor> {
        ops::rms_norm(&k.contiguous()?, &self.key, EPSILON)
    }
}
