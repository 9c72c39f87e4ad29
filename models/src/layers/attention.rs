//! Attention of every token to every token.

use candle_core::{D, Result, Tensor};

use super::norm::HeadNorms;
use super::rope::Rope;

/// Queries, keys and values by head, `[b, heads, n, head]` each.
pub(crate) struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Heads {
    /// Cuts `[b, n, 3 * width]` into heads, norms queries and keys and turns them by position.
    pub(crate) fn new(qkv: &Tensor, heads: usize, norms: &HeadNorms, rope: &Rope) -> Result<Self> {
        let (b, n, width) = qkv.dims3()?;
        let cut = qkv
            .reshape((b, n, 3, heads, width / (3 * heads)))? // (b, n, 3, heads, head)
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, n, head)
        Ok(Self {
            q: rope.rotate(&norms.query(&cut.get(0)?)?)?,
            k: rope.rotate(&norms.key(&cut.get(1)?)?)?,
            v: cut.get(2)?,
        })
    }

    /// The tokens of `self`, then those of `other`.
    pub(crate) fn then(&self, other: &Self) -> Result<Self> {
        let join = |one: &Tensor, two: &Tensor| Tensor::cat(&[one, two], 2);
        Ok(Self { q: join(&self.q, &other.q)?, k: join(&self.k, &other.k)?, v: join(&self.v, &other.v)? })
    }

    /// `softmax(q k^T / sqrt(head)) v`, `[b, n, width]`.
    pub(crate) fn attend(&self) -> Result<Tensor> {
        let scale = 1.0 / (self.q.dim(D::Minus1)? as f64).sqrt();
        let scores = (self.q.contiguous()? * scale)?.matmul(&self.k.t()?.contiguous()?)?;
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&self.v.contiguous()?)?;
        mixed.transpose(1, 2)?.flatten_from(2)
    }
}
