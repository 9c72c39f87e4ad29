//! What UNet and autoencoder are built of: attention, residual blocks, changes of size.

use candle_core::{D, DType, Module as _, Result, Tensor};
use candle_nn::LayerNorm;

use super::layers::{Conv2d, GroupNorm, widely};
use super::source::Scope;
use crate::layers::linear::Linear;

/// Scores that are held at once; a query sees every key, so a picture's tokens squared would not fit.
const SCORES_MAX: usize = 1 << 25;

/// `softmax(q k^T / sqrt(head) + mask) v`: queries `[b, n, width]`, keys and values `[b, m, width]`, in their type. Scores
/// are made in f32 whatever that is: those of some checkpoints are beyond what f16 holds.
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (b, n, width) = x.dims3()?;
        x.to_dtype(DType::F32)?.reshape((b, n, heads, width / heads))?.transpose(1, 2)?.contiguous() // (b, heads, n, head)
    };
    let stored = q.dtype();
    let (q, k, v) = (split(q)?, split(k)?.t()?.contiguous()?, split(v)?);
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let (n, rows) = (q.dim(2)?, q.dim(0)? * heads);
    let at_once = (SCORES_MAX / (rows * k.dim(D::Minus1)?).max(1)).clamp(1, n);
    let parts = (0..n).step_by(at_once).map(|from| {
        let count = at_once.min(n - from);
        let scores = (q.narrow(2, from, count)?.contiguous()?.matmul(&k)? * scale)?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(&mask.narrow(0, from, count)?)?,
            None => scores,
        };
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
    });
    let mixed = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)?;
    mixed.to_dtype(stored)?.transpose(1, 2)?.flatten_from(2) // (b, n, width)
}

/// Two convolutions beside a shortcut.
pub(crate) struct Residual {
    norms: [GroupNorm; 2],
    convs: [Conv2d; 2],
    time: Option<Linear>,
    shortcut: Option<Conv2d>,
}

impl Residual {
    /// `time` is the width of the timestep's embedding, where there is one.
    pub(crate) fn new(
        into: usize,
        out: usize,
        time: Option<usize>,
        (groups, epsilon): (usize, f64),
        scope: &Scope<'_>,
    ) -> Result<Self> {
        let time = time.map(|width| scope.at("time_emb_proj").linear(width, out)).transpose()?;
        let shortcut = if into == out { None } else { Some(scope.at("conv_shortcut").conv1(into, out)?) };
        Ok(Self {
            norms: [
                scope.at("norm1").group_norm(into, groups, epsilon)?,
                scope.at("norm2").group_norm(out, groups, epsilon)?,
            ],
            convs: [scope.at("conv1").conv3(into, out)?, scope.at("conv2").conv3(out, out)?],
            time,
            shortcut,
        })
    }

    /// `[b, into, h, w]` to `[b, out, h, w]`; `time` is `[b, 1, width]`, active.
    pub(crate) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut inner = self.convs[0].forward(&self.norms[0].active(x)?)?;
        if let (Some(layer), Some(time)) = (&self.time, time) {
            let shift = layer.forward(time)?.transpose(1, 2)?.unsqueeze(3)?; // (b, out, 1, 1)
            inner = inner.broadcast_add(&shift)?;
        }
        let inner = self.convs[1].forward(&self.norms[1].active(&inner)?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)? + inner,
            None => x + inner,
        }
    }
}

/// Attention of pixels to each other and to the description.
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    inwards: Linear,
    block: TransformerBlock,
    outwards: Linear,
}

struct TransformerBlock {
    norms: [LayerNorm; 3],
    own: CrossAttention,
    described: CrossAttention,
    gate: Linear,
    out: Linear,
}

/// Attention of one sequence to another.
struct CrossAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl SpatialTransformer {
    /// `context` is the width of the description's tokens; `linear` says how the file stores the projections.
    pub(crate) fn new(
        channels: usize,
        heads: usize,
        context: usize,
        linear: bool,
        groups: usize,
        scope: &Scope<'_>,
    ) -> Result<Self> {
        let projection = |name| {
            let scope = scope.at(name);
            if linear { scope.linear(channels, channels) } else { scope.linear_as_conv(channels, channels) }
        };
        Ok(Self {
            norm: scope.at("norm").group_norm(channels, groups, 1e-6)?,
            inwards: projection("proj_in")?,
            block: TransformerBlock::new(channels, heads, context, &scope.nth("transformer_blocks", 0))?,
            outwards: projection("proj_out")?,
        })
    }

    /// `[b, c, h, w]` and `[b, m, context]` to `[b, c, h, w]`.
    pub(crate) fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let tokens = to_tokens(&self.norm.forward(x)?)?;
        let tokens = self.block.forward(&self.inwards.forward(&tokens)?, context)?;
        x + to_pixels(&self.outwards.forward(&tokens)?, x)?
    }
}

impl TransformerBlock {
    fn new(width: usize, heads: usize, context: usize, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            norms: [
                scope.at("norm1").layer_norm(width)?,
                scope.at("norm2").layer_norm(width)?,
                scope.at("norm3").layer_norm(width)?,
            ],
            own: CrossAttention::new(width, width, heads, &scope.at("attn1"))?,
            described: CrossAttention::new(width, context, heads, &scope.at("attn2"))?,
            gate: scope.at("ff.net.0.proj").linear(width, 8 * width)?,
            out: scope.at("ff.net.2").linear(4 * width, width)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let normed = self.norms[0].forward(x)?;
        let x = (x + self.own.forward(&normed, &normed)?)?;
        let x = (&x + self.described.forward(&self.norms[1].forward(&x)?, context)?)?;
        let halves = self.gate.forward(&self.norms[2].forward(&x)?)?.chunk(2, D::Minus1)?;
        let gated =
            widely(&halves[1].contiguous()?, |gate| halves[0].to_dtype(DType::F32)? * gate.gelu_erf()?)?;
        &x + self.out.forward(&gated)?
    }
}

impl CrossAttention {
    fn new(width: usize, context: usize, heads: usize, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self {
            query: scope.at("to_q").linear_no_bias(width, width)?,
            key: scope.at("to_k").linear_no_bias(context, width)?,
            value: scope.at("to_v").linear_no_bias(context, width)?,
            out: scope.at("to_out.0").linear(width, width)?,
            heads,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(x)?, self.key.forward(context)?, self.value.forward(context)?);
        self.out.forward(&attend(&q, &k, &v, self.heads, None)?)
    }
}

/// `[b, c, h, w]` to `[b, h * w, c]`.
pub(crate) fn to_tokens(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

/// `[b, h * w, c]` to the shape of `like`, `[b, c, h, w]`.
pub(crate) fn to_pixels(tokens: &Tensor, like: &Tensor) -> Result<Tensor> {
    tokens.transpose(1, 2)?.contiguous()?.reshape(like.shape())
}

/// Half the size.
pub(crate) struct Downsample {
    conv: Conv2d,
    /// The autoencoder pads on the far sides only.
    far_only: bool,
}

impl Downsample {
    pub(crate) fn new(channels: usize, far_only: bool, scope: &Scope<'_>) -> Result<Self> {
        let padding = usize::from(!far_only);
        Ok(Self { conv: scope.at("downsamplers.0.conv").conv(channels, channels, 3, padding, 2)?, far_only })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.far_only {
            let padded = x.pad_with_zeros(D::Minus1, 0, 1)?.pad_with_zeros(D::Minus2, 0, 1)?;
            return self.conv.forward(&padded);
        }
        self.conv.forward(x)
    }
}

/// Twice the size.
pub(crate) struct Upsample(Conv2d);

impl Upsample {
    pub(crate) fn new(channels: usize, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self(scope.at("upsamplers.0.conv").conv3(channels, channels)?))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        self.0.forward(&x.upsample_nearest2d(2 * h, 2 * w)?)
    }
}
