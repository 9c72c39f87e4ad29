//! Normalisation: layer norm whose affine part comes from outside, and RMS norm of attention heads.

use candle_core::{D, Result, Tensor};

use super::modulation::Pieces;
use crate::weights::Tensors;

/// Added to variances and mean squares, as in the reference.
const EPSILON: f64 = 1e-6;

/// `(1 + scale) * layer_norm(x) + shift` over the last dimension; shift is piece `n`, scale the next.
pub(crate) fn modulated(x: &Tensor, pieces: &Pieces, n: usize) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    normed.broadcast_mul(&(pieces.piece(n + 1)? + 1.0)?)?.broadcast_add(&pieces.piece(n)?)
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
        rms(q, &self.query)
    }

    /// Norms keys, `[.., head]`.
    pub(crate) fn key(&self, k: &Tensor) -> Result<Tensor> {
        rms(k, &self.key)
    }
}

fn rms(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + EPSILON)?.sqrt()?)?.broadcast_mul(scale)
}
