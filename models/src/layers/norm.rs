//! Normalisation: layer norm whose affine part comes from outside, and RMS norm of attention heads.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm};

use super::modulation::Pieces;
use crate::weights::Tensors;

/// Added to variances and mean squares, as in the reference.
pub(crate) const EPSILON: f32 = 1e-6;

/// `(1 + scale) * layer_norm(x) + shift` over the last dimension; shift is piece `n`, scale the next. Statistics
/// are made in f32 whatever type `x` has.
pub(crate) fn modulated(x: &Tensor, pieces: &Pieces<'_>, n: usize) -> Result<Tensor> {
    let piece = |n: usize| pieces.piece(n)?.squeeze(1); // (b, width)
    let (shift, scale) = (piece(n)?.to_dtype(x.dtype())?, (piece(n + 1)? + 1.0)?.to_dtype(x.dtype())?);
    // Shift and scale are the affine part of an ordinary layer norm, which is one kernel, but each entry's own.
    let normed = |entry: usize| {
        layer_norm(&x.narrow(0, entry, 1)?.contiguous()?, &scale.get(entry)?, &shift.get(entry)?, EPSILON)
    };
    Tensor::cat(&(0..x.dim(0)?).map(normed).collect::<Result<Vec<_>>>()?, 0)
}

/// Learned scales of the RMS norms of queries and keys, each as wide as a head.
pub(crate) struct HeadNorms {
    query: Tensor,
    key: Tensor,
}

impl HeadNorms {
    /// The scales below `name`, in f32.
    pub(crate) fn load(tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        let scale = |of: &str| tensors.get(&format!("{name}.{of}_norm.scale"))?.to_dtype(DType::F32);
        Ok(Self { query: scale("query")?, key: scale("key")? })
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

    /// Norms queries, `[.., head]` in f32 without gaps.
    pub(crate) fn query(&self, q: &Tensor) -> Result<Tensor> {
        rms_norm(q, &self.query, EPSILON)
    }

    /// Norms keys, `[.., head]` in f32 without gaps.
    pub(crate) fn key(&self, k: &Tensor) -> Result<Tensor> {
        rms_norm(k, &self.key, EPSILON)
    }
}
