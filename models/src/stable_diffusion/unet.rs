//! The UNet: noise in a latent, given its timestep and a description.

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::blocks::{Downsample, Residual, SpatialTransformer, Upsample};
use super::layers::{Conv2d, GroupNorm, silu};
use super::source::Scope;
use crate::layers::linear::Linear;

/// Sizes of the network, under the reference's names; the defaults are those of Stable Diffusion 1.5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UnetConfig {
    /// Channels of a latent; networks for inpainting have more and are not supported.
    pub(crate) in_channels: usize,
    /// Channels of a latent.
    pub(crate) out_channels: usize,
    /// Channels at each size.
    pub(crate) block_out_channels: Vec<usize>,
    /// What stands at each size on the way down; the way up is its mirror.
    pub(crate) down_block_types: Vec<DownBlockType>,
    /// Residual blocks at each size on the way down; one more on the way up.
    pub(crate) layers_per_block: usize,
    /// Attention heads at each size. The reference's name says otherwise, by an old mistake that its files keep.
    pub(crate) attention_head_dim: Heads,
    /// Width of the description's tokens.
    pub(crate) cross_attention_dim: usize,
    /// Groups of the group norms.
    pub(crate) norm_num_groups: usize,
    /// How the file stores the projections around attention.
    pub(crate) use_linear_projection: bool,
}

/// What stands at one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DownBlockType {
    /// Residual blocks, each with attention.
    CrossAttnDownBlock2D,
    /// Residual blocks.
    DownBlock2D,
}

/// One number for all sizes, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Heads {
    /// The same at each size.
    Same(usize),
    /// Its own at each size.
    Each(Vec<usize>),
}

impl Default for UnetConfig {
    fn default() -> Self {
        use DownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1_280, 1_280],
            down_block_types: vec![
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                DownBlock2D,
            ],
            layers_per_block: 2,
            attention_head_dim: Heads::Same(8),
            cross_attention_dim: 768,
            norm_num_groups: 32,
            use_linear_projection: false,
        }
    }
}

impl UnetConfig {
    /// Epsilon of the group norms outside of attention.
    const EPSILON: f64 = 1e-5;

    /// Width of a timestep's embedding.
    pub(crate) fn time_width(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// Heads at size `n`.
    pub(crate) fn heads(&self, n: usize) -> usize {
        match &self.attention_head_dim {
            Heads::Same(heads) => *heads,
            Heads::Each(heads) => heads.get(n).copied().unwrap_or(0),
        }
    }

    fn residual(&self, into: usize, out: usize, scope: &Scope<'_>) -> Result<Residual> {
        Residual::new(into, out, Some(self.time_width()), (self.norm_num_groups, Self::EPSILON), scope)
    }

    fn attention(&self, n: usize, scope: &Scope<'_>) -> Result<SpatialTransformer> {
        let channels = self.block_out_channels[n];
        let (context, linear) = (self.cross_attention_dim, self.use_linear_projection);
        SpatialTransformer::new(channels, self.heads(n), context, linear, self.norm_num_groups, scope)
    }
}

/// The network.
pub(crate) struct Unet {
    channels: usize,
    time: [Linear; 2],
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    middle: (Residual, SpatialTransformer, Residual),
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Residual blocks of one size, each with attention or without.
type Layers = Vec<(Residual, Option<SpatialTransformer>)>;

struct DownBlock {
    layers: Layers,
    downsample: Option<Downsample>,
}

struct UpBlock {
    layers: Layers,
    upsample: Option<Upsample>,
}

impl Unet {
    pub(crate) fn new(config: &UnetConfig, scope: &Scope<'_>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels.len() - 1);
        let width = config.time_width();
        let middle = scope.at("mid_block");
        Ok(Self {
            channels: first,
            time: [
                scope.at("time_embedding.linear_1").linear(first, width)?,
                scope.at("time_embedding.linear_2").linear(width, width)?,
            ],
            conv_in: scope.at("conv_in").conv3(config.in_channels, first)?,
            down: (0..=last).map(|n| DownBlock::new(config, n, scope)).collect::<Result<_>>()?,
            middle: (
                config.residual(channels[last], channels[last], &middle.nth("resnets", 0))?,
                config.attention(last, &middle.nth("attentions", 0))?,
                config.residual(channels[last], channels[last], &middle.nth("resnets", 1))?,
            ),
            up: (0..=last).rev().map(|n| UpBlock::new(config, n, scope)).collect::<Result<_>>()?,
            norm_out: scope.at("conv_norm_out").group_norm(
                first,
                config.norm_num_groups,
                UnetConfig::EPSILON,
            )?,
            conv_out: scope.at("conv_out").conv3(first, config.out_channels)?,
        })
    }

    /// Answers for latents `[b, in, h, w]`, each at its own timestep, described by `context`, `[b, m, width]`.
    pub(crate) fn forward(&self, x: &Tensor, times: &[f64], context: &Tensor) -> Result<Tensor> {
        let time = waves(times, self.channels, x.device())?;
        let time = silu(&self.time[0].forward(&time.unsqueeze(1)?)?)?; // (b, 1, width)
        let time = silu(&self.time[1].forward(&time)?)?;
        let mut x = self.conv_in.forward(x)?;
        let mut skipped = vec![x.clone()];
        for block in &self.down {
            for layer in &block.layers {
                x = run(layer, &x, &time, context)?;
                skipped.push(x.clone());
            }
            if let Some(downsample) = &block.downsample {
                x = downsample.forward(&x)?;
                skipped.push(x.clone());
            }
        }
        let (before, attention, after) = &self.middle;
        x = attention.forward(&before.forward(&x, Some(&time))?, context)?;
        x = after.forward(&x, Some(&time))?;
        for block in &self.up {
            for layer in &block.layers {
                let skip = skipped.pop().expect("the way up is the mirror of the way down");
                x = run(layer, &Tensor::cat(&[&x, &skip], 1)?, &time, context)?;
            }
            if let Some(upsample) = &block.upsample {
                x = upsample.forward(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.active(&x)?)
    }
}

fn run(
    (residual, attention): &(Residual, Option<SpatialTransformer>),
    x: &Tensor,
    time: &Tensor,
    context: &Tensor,
) -> Result<Tensor> {
    let x = residual.forward(x, Some(time))?;
    attention.as_ref().map_or(Ok(x.clone()), |attention| attention.forward(&x, context))
}

/// Cosines and sines of the times at falling frequencies, `[b, width]`.
fn waves(times: &[f64], width: usize, device: &Device) -> Result<Tensor> {
    let half = width / 2;
    let angle = |time: f64, n: usize| time * (-(10_000f64.ln()) * n as f64 / half as f64).exp();
    let wave = |time: f64| {
        let cosines = (0..half).map(move |n| angle(time, n).cos() as f32);
        cosines.chain((0..half).map(move |n| angle(time, n).sin() as f32))
    };
    Tensor::from_vec(times.iter().flat_map(|time| wave(*time)).collect(), (times.len(), width), device)
}

impl DownBlock {
    fn new(config: &UnetConfig, n: usize, scope: &Scope<'_>) -> Result<Self> {
        let scope = scope.nth("down_blocks", n);
        let channels = &config.block_out_channels;
        let into = |layer| if layer == 0 { channels[n.saturating_sub(1)] } else { channels[n] };
        let residual = |layer| config.residual(into(layer), channels[n], &scope.nth("resnets", layer));
        let downsample = || Downsample::new(channels[n], false, &scope);
        Ok(Self {
            layers: layers(config, n, config.layers_per_block, residual, &scope)?,
            downsample: (n + 1 < channels.len()).then(downsample).transpose()?,
        })
    }
}

impl UpBlock {
    /// The block that mirrors size `n` of the way down.
    fn new(config: &UnetConfig, n: usize, scope: &Scope<'_>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let scope = scope.nth("up_blocks", last - n);
        let count = config.layers_per_block + 1;
        let residual = |layer: usize| {
            // From below, from the way down at this size, and at last from where that came from.
            let below = if layer == 0 { channels[(n + 1).min(last)] } else { channels[n] };
            let skip = if layer + 1 == count { channels[n.saturating_sub(1)] } else { channels[n] };
            config.residual(below + skip, channels[n], &scope.nth("resnets", layer))
        };
        let upsample = || Upsample::new(channels[n], &scope);
        Ok(Self {
            layers: layers(config, n, count, residual, &scope)?,
            upsample: (n > 0).then(upsample).transpose()?,
        })
    }
}

fn layers(
    config: &UnetConfig,
    n: usize,
    count: usize,
    residual: impl Fn(usize) -> Result<Residual>,
    scope: &Scope<'_>,
) -> Result<Layers> {
    let attends = config.down_block_types[n] == DownBlockType::CrossAttnDownBlock2D;
    let attention = |layer| config.attention(n, &scope.nth("attentions", layer));
    (0..count).map(|layer| Ok((residual(layer)?, attends.then(|| attention(layer)).transpose()?))).collect()
}
