//! `x W^T + b` over the last dimension.

use candle_core::{Result, Tensor};

use crate::weights::Tensors;

/// A linear layer; weight `[out, in]` as checkpoints store it.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// The layer whose tensors are `name.weight` and, if there is one, `name.bias`.
    pub(crate) fn load(tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        let bias = format!("{name}.bias");
        let bias = if tensors.has(&bias) { Some(tensors.get(&bias)?) } else { None };
        Self::new(tensors.get(&format!("{name}.weight"))?, bias)
    }

    /// A layer of given numbers.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight, bias })
    }

    /// `[.., in]` to `[.., out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let into = shape.pop().unwrap_or(1);
        shape.push(self.weight.dim(0)?);
        let y = x.reshape(((), into))?.matmul(&self.weight.t()?)?.reshape(shape)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
