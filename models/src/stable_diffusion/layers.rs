//! Layers of the networks in every precision: numbers are stored in the weights' type; whatever adds many of them up, or
//! bends them, does so in f32 and rounds once.

use candle_core::{DType, Result, Tensor};

/// `f` of `x` in f32, back in the type of `x`.
pub(crate) fn widely(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

/// `x * sigmoid(x)`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    widely(x, Tensor::silu)
}

/// A convolution over square pictures.
pub(crate) struct Conv2d {
    weight: Tensor,
    /// `[1, out, 1, 1]`.
    bias: Tensor,
    padding: usize,
    stride: usize,
}

impl Conv2d {
    /// Of `[out, in, side, side]` and `[out]`.
    pub(crate) fn new(weight: Tensor, bias: &Tensor, padding: usize, stride: usize) -> Result<Self> {
        Ok(Self { weight, bias: bias.reshape((1, bias.elem_count(), 1, 1))?, padding, stride })
    }

    /// `[b, in, h, w]` to `[b, out, ..]`, in the weights' type whatever `x` has.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let stored = self.weight.dtype();
        // The CPU adds up halves in halves, or not at all; a GPU does it in f32.
        let added = if self.weight.device().is_cpu() { DType::F32 } else { stored };
        let x = x.to_dtype(stored)?.to_dtype(added)?;
        let y = x.conv2d(&self.weight.to_dtype(added)?, self.padding, self.stride, 1, 1)?.to_dtype(stored)?;
        y.broadcast_add(&self.bias)
    }
}

/// A group norm with its scale and shift, in f32.
pub(crate) struct GroupNorm {
    /// `[1, c, 1, 1]`.
    scale: Tensor,
    /// Likewise.
    shift: Tensor,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// Of `[c]` and `[c]`.
    pub(crate) fn new(scale: &Tensor, shift: &Tensor, groups: usize, epsilon: f64) -> Result<Self> {
        let affine = |x: &Tensor| x.to_dtype(DType::F32)?.reshape((1, x.elem_count(), 1, 1));
        Ok(Self { scale: affine(scale)?, shift: affine(shift)?, groups, epsilon })
    }

    /// `[b, c, h, w]`, normed over groups of channels.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        widely(x, |x| self.normed(x))
    }

    /// The same, then [`silu`].
    pub(crate) fn active(&self, x: &Tensor) -> Result<Tensor> {
        widely(x, |x| self.normed(x)?.silu())
    }

    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        let grouped = x.reshape((x.dim(0)?, self.groups, ()))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(2)? + self.epsilon)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.reshape(x.shape())?;
        normed.broadcast_mul(&self.scale)?.broadcast_add(&self.shift)
    }
}
