//! The autoencoder: pictures to latents an eighth of their size, and back.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::blocks::{Downsample, Residual, Upsample, attend, to_pixels, to_tokens};
use super::layers::{Conv2d, GroupNorm};
use super::source::Scope;
use crate::layers::linear::Linear;

/// Sizes of the network, under the reference's names; the defaults are those of Stable Diffusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct VaeConfig {
    /// Channels of a latent.
    pub(crate) latent_channels: usize,
    /// Channels at each size.
    pub(crate) block_out_channels: Vec<usize>,
    /// Residual blocks at each size on the way in; one more on the way out.
    pub(crate) layers_per_block: usize,
    /// Groups of the group norms.
    pub(crate) norm_num_groups: usize,
    /// What latents are multiplied by, so that their variance is about one.
    pub(crate) scaling_factor: f64,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: 0.182_15,
        }
    }
}

impl VaeConfig {
    const EPSILON: f64 = 1e-6;

    /// Pixels of a side for each pixel of a latent's side.
    pub(crate) fn reduction(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    fn residual(&self, into: usize, out: usize, scope: &Scope<'_>) -> Result<Residual> {
        Residual::new(into, out, None, (self.norm_num_groups, Self::EPSILON), scope)
    }

    fn norm(&self, channels: usize, scope: &Scope<'_>) -> Result<GroupNorm> {
        scope.group_norm(channels, self.norm_num_groups, Self::EPSILON)
    }
}

/// The network.
pub(crate) struct Autoencoder {
    encoder: Encoder,
    quant: Conv2d,
    post_quant: Conv2d,
    decoder: Decoder,
    scaling: f64,
    latent: usize,
}

struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<(Vec<Residual>, Option<Downsample>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    blocks: Vec<(Vec<Residual>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Autoencoder {
    pub(crate) fn new(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self> {
        let latent = config.latent_channels;
        Ok(Self {
            encoder: Encoder::new(config, &scope.at("encoder"))?,
            quant: scope.at("quant_conv").conv1(2 * latent, 2 * latent)?,
            post_quant: scope.at("post_quant_conv").conv1(latent, latent)?,
            decoder: Decoder::new(config, &scope.at("decoder"))?,
            scaling: config.scaling_factor,
            latent,
        })
    }

    /// Pictures `[b, 3, h, w]` between -1 and 1 to the most likely latents.
    pub(crate) fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let mean = self.quant.forward(&self.encoder.forward(pictures)?)?.narrow(1, 0, self.latent)?;
        mean * self.scaling
    }

    /// Latents to pictures.
    pub(crate) fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.forward(&self.post_quant.forward(&(latents / self.scaling)?)?)
    }
}

impl Encoder {
    fn new(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let block = |n: usize| {
            let scope = scope.nth("down_blocks", n);
            let into = |layer| if layer == 0 { channels[n.saturating_sub(1)] } else { channels[n] };
            let residual = |layer| config.residual(into(layer), channels[n], &scope.nth("resnets", layer));
            let downsample = (n < last).then(|| Downsample::new(channels[n], true, &scope));
            Ok(((0..config.layers_per_block).map(residual).collect::<Result<_>>()?, downsample.transpose()?))
        };
        Ok(Self {
            conv_in: scope.at("conv_in").conv3(3, channels[0])?,
            blocks: (0..=last).map(block).collect::<Result<_>>()?,
            middle: Middle::new(config, &scope.at("mid_block"))?,
            norm_out: config.norm(channels[last], &scope.at("conv_norm_out"))?,
            conv_out: scope.at("conv_out").conv3(channels[last], 2 * config.latent_channels)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for (residuals, downsample) in &self.blocks {
            x = through(residuals, x)?;
            if let Some(downsample) = downsample {
                x = downsample.forward(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.active(&self.middle.forward(&x)?)?)
    }
}

impl Decoder {
    fn new(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let block = |n: usize| {
            let scope = scope.nth("up_blocks", last - n);
            let into = |layer| if layer == 0 { channels[(n + 1).min(last)] } else { channels[n] };
            let residual = |layer| config.residual(into(layer), channels[n], &scope.nth("resnets", layer));
            let upsample = (n > 0).then(|| Upsample::new(channels[n], &scope));
            Ok(((0..=config.layers_per_block).map(residual).collect::<Result<_>>()?, upsample.transpose()?))
        };
        Ok(Self {
            conv_in: scope.at("conv_in").conv3(config.latent_channels, channels[last])?,
            middle: Middle::new(config, &scope.at("mid_block"))?,
            blocks: (0..=last).rev().map(block).collect::<Result<_>>()?,
            norm_out: config.norm(channels[0], &scope.at("conv_norm_out"))?,
            conv_out: scope.at("conv_out").conv3(channels[0], 3)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(x)?)?;
        for (residuals, upsample) in &self.blocks {
            x = through(residuals, x)?;
            if let Some(upsample) = upsample {
                x = upsample.forward(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.active(&x)?)
    }
}

fn through(residuals: &[Residual], x: Tensor) -> Result<Tensor> {
    residuals.iter().try_fold(x, |x, residual| residual.forward(&x, None))
}

/// The smallest size: attention between two residual blocks.
struct Middle {
    residuals: [Residual; 2],
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl Middle {
    fn new(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self> {
        let channels = config.block_out_channels[config.block_out_channels.len() - 1];
        let residual = |n| config.residual(channels, channels, &scope.nth("resnets", n));
        let attention = scope.nth("attentions", 0);
        // Files of Stable Diffusion 1.5 and 2.1 still have the older names.
        let linear = |name, older| attention.renamed(name, older).linear(channels, channels);
        Ok(Self {
            residuals: [residual(0)?, residual(1)?],
            norm: config.norm(channels, &attention.at("group_norm"))?,
            query: linear("to_q", "query")?,
            key: linear("to_k", "key")?,
            value: linear("to_v", "value")?,
            out: linear("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.residuals[0].forward(x, None)?;
        let tokens = to_tokens(&self.norm.forward(&x)?)?;
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&tokens));
        let mixed = self.out.forward(&attend(&q?, &k?, &v?, 1, None)?)?;
        self.residuals[1].forward(&(&x + to_pixels(&mixed, &x)?)?, None)
    }
}
