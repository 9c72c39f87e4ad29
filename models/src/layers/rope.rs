//! Rotary position embedding over a grid: pairs of a head's values turn by angles made from position.

use candle_core::{Device, Result, Tensor};

/// Cosines and sines of one grid, `[tokens, head / 2]` each, computed in f64.
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
    /// Both, repeated for each head of a token: `[tokens, heads * head / 2]`.
    tiled: [Tensor; 2],
}

impl Rope {
    /// Tables of a grid of rows and columns, for so many heads. Token positions are (0, row, column); axis `i` turns
    /// `axes[i]` values of a head by `position * theta^(-2 j / axes[i])`.
    pub(crate) fn new(
        [rows, columns]: [usize; 2],
        axes: &[usize],
        theta: f64,
        heads: usize,
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
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let tiled = [cos.repeat((1, heads))?, sin.repeat((1, heads))?];
        Ok(Self { cos, sin, tiled })
    }

    /// Cosines and sines, for the fused loops.
    pub(crate) fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// Turns `[b, n, heads, head]`, where `n` is one grid or several, one after the other, in f32 without gaps.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (b, n, heads, head) = x.dims4()?;
        // Pairs turn each by itself, so that all heads of a token are one row whose angles repeat: no transposition.
        let [cos, sin] = &self.tiled;
        let grids = n / cos.dim(0)?;
        let row = x.reshape((b * grids, 1, n / grids, heads * head))?;
        candle_nn::rotary_emb::rope_i(&row, cos, sin)?.reshape(x.shape())
    }
}
