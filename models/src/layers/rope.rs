//! Rotary position embedding over a grid: pairs of a head's values turn by angles made from position.

use candle_core::{DType, Device, Result, Tensor};

/// Cosines and sines of one grid, `[tokens, head / 2]` each, computed in f64.
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Tables of a grid of rows and columns. Token positions are (0, row, column); axis `i` turns
    /// `axes[i]` values of a head by `position * theta^(-2 j / axes[i])`.
    pub(crate) fn new(
        [rows, columns]: [usize; 2],
        axes: &[usize],
        theta: f64,
        device: &Device,
    ) -> Result<Self> {
        let mut angles = Vec::new();
        for token in 0..rows * columns {
            let position = [0, token / columns, token % columns];
            for (at, width) in position.into_iter().zip(axes) {
                for pair in (0..*width).step_by(2) {
                    angles.push(at as f64 * theta.powf(-(pair as f64) / *width as f64));
                }
            }
        }
        let shape = (rows * columns, axes.iter().sum::<usize>() / 2);
        let table = |turn: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| turn(*angle) as f32).collect();
            Tensor::from_vec(values, shape, device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Cosines and sines, for the fused loops.
    pub(crate) fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// Turns `[b, heads, n, head]`, where `n` is one grid or several, one after the other. In f32 whatever the
    /// precision, as the reference does.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (b, heads, n, head) = x.dims4()?;
        let grids = n / self.cos.dim(0)?;
        let (cos, sin) = (self.cos.repeat((grids, 1))?, self.sin.repeat((grids, 1))?);
        let turned = candle_nn::rotary_emb::rope_i(&x.to_dtype(DType::F32)?.contiguous()?, &cos, &sin)?;
        turned.to_dtype(x.dtype())?.reshape((b, heads, n, head))
    }
}
