//! SegFormer: four stages of attention over ever fewer tokens, and a head that looks at all of them.
//!
//! Source: arxiv.org/abs/2105.15203, in the arrangement of the `transformers` package 5 (`modeling_segformer.py`),
//! whose checkpoints it reads. candle's port of it leaves out a bias and scales its features to the nearest pixel,
//! so its classes differ from the reference's along every edge.

use candle_core::{D, Module as _, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, LayerNorm, Linear};
use serde::{Deserialize, Serialize};

use super::parse::Label;
use crate::weights::Tensors;
use crate::weights::contract::Expected;

/// PyTorch's default for both kinds of norm.
const EPSILON: f64 = 1e-5;

/// Sizes of a network; the default is the published one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Each stage, from fine to coarse.
    pub(crate) stages: Vec<Stage>,
    /// Channels of a stage's features in the head.
    pub(crate) decoder: usize,
    /// Classes.
    pub(crate) labels: usize,
}

/// Sizes of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    /// Blocks.
    pub(crate) depth: usize,
    /// Channels.
    pub(crate) width: usize,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Keys and values are made of squares with this side.
    pub(crate) reduction: usize,
    /// Side of the squares that become tokens; they overlap.
    pub(crate) patch: usize,
    /// Distance between those squares.
    pub(crate) stride: usize,
}

/// Inner width of a feed-forward part in widths of its stage.
const MLP_RATIO: usize = 4;

impl Default for Config {
    /// The largest but one of the paper.
    fn default() -> Self {
        let stage = |depth, width, heads, reduction| {
            let (patch, stride) = if reduction == 8 { (7, 4) } else { (3, 2) };
            Stage { depth, width, heads, reduction, patch, stride }
        };
        Self {
            stages: vec![stage(3, 64, 1, 8), stage(8, 128, 2, 4), stage(27, 320, 5, 2), stage(3, 512, 8, 1)],
            decoder: 768,
            labels: Label::COUNT,
        }
    }
}

impl Config {
    /// Everything that cannot be built.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let size = |of: &usize| (1..=65_536).contains(of);
        let stage = |stage: &Stage| {
            let Stage { depth, width, heads, reduction, patch, stride } = stage;
            [width, heads, reduction, patch, stride].into_iter().all(size)
                && (1..=1_000).contains(depth)
                && width.is_multiple_of(*heads)
        };
        let mut mistakes = Vec::new();
        if !(1..=8).contains(&self.stages.len()) || !self.stages.iter().all(stage) {
            let must = "must be 1 to 8, each of positive sizes, with a width that is a multiple of its heads";
            mistakes.push(format!("config.parser.stages: {must}"));
        }
        if !size(&self.decoder) {
            mistakes.push("config.parser.decoder: must be 1 to 65536".to_owned());
        }
        if self.labels != Label::COUNT {
            mistakes.push(format!("config.parser.labels: must be {}", Label::COUNT));
        }
        mistakes
    }

    /// Every tensor of the checkpoint.
    pub(crate) fn contract(&self) -> Vec<Expected> {
        let mut list = List::default();
        let mut channels = 3;
        for (n, stage) in self.stages.iter().enumerate() {
            let encoder = "segformer.encoder";
            let d = stage.width;
            list.layer(
                &format!("{encoder}.patch_embeddings.{n}.proj"),
                &[d, channels, stage.patch, stage.patch],
            );
            list.norm(&format!("{encoder}.patch_embeddings.{n}.layer_norm"), d);
            for block in (0..stage.depth).map(|block| format!("{encoder}.block.{n}.{block}")) {
                list.norm(&format!("{block}.layer_norm_1"), d);
                for part in ["self.query", "self.key", "self.value", "output.dense"] {
                    list.layer(&format!("{block}.attention.{part}"), &[d, d]);
                }
                if stage.reduction > 1 {
                    let sr = format!("{block}.attention.self.sr");
                    list.layer(&sr, &[d, d, stage.reduction, stage.reduction]);
                    list.norm(&format!("{block}.attention.self.layer_norm"), d);
                }
                list.norm(&format!("{block}.layer_norm_2"), d);
                list.layer(&format!("{block}.mlp.dense1"), &[MLP_RATIO * d, d]);
                list.layer(&format!("{block}.mlp.dwconv.dwconv"), &[MLP_RATIO * d, 1, 3, 3]);
                list.layer(&format!("{block}.mlp.dense2"), &[d, MLP_RATIO * d]);
            }
            list.norm(&format!("{encoder}.layer_norm.{n}"), d);
            list.layer(&format!("decode_head.linear_c.{n}.proj"), &[self.decoder, d]);
            channels = d;
        }
        let fused = self.decoder * self.stages.len();
        list.tensor("decode_head.linear_fuse.weight", &[self.decoder, fused, 1, 1], true);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            list.tensor(&format!("decode_head.batch_norm.{part}"), &[self.decoder], true);
        }
        list.tensor("decode_head.batch_norm.num_batches_tracked", &[], false);
        list.layer("decode_head.classifier", &[self.labels, self.decoder, 1, 1]);
        list.0
    }
}

#[derive(Default)]
struct List(Vec<Expected>);

impl List {
    fn tensor(&mut self, name: &str, shape: &[usize], used: bool) {
        self.0.push(Expected { name: name.to_owned(), older: None, shape: shape.to_vec(), used });
    }

    fn layer(&mut self, name: &str, shape: &[usize]) {
        self.tensor(&format!("{name}.weight"), shape, true);
        self.tensor(&format!("{name}.bias"), &shape[..1], true);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.layer(name, &[width]);
    }
}

/// The network.
pub(crate) struct Segformer {
    stages: Vec<Encoder>,
    head: Head,
}

impl Segformer {
    pub(crate) fn load(config: &Config, tensors: &Tensors<'_>) -> Result<Self> {
        let stages = config.stages.iter().enumerate().map(|(n, stage)| Encoder::load(n, stage, tensors));
        Ok(Self { stages: stages.collect::<Result<_>>()?, head: Head::load(config.stages.len(), tensors)? })
    }

    /// Logits `[b, labels, h / 4, w / 4]` of pictures `[b, 3, h, w]`.
    pub(crate) fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut features = Vec::with_capacity(self.stages.len());
        let mut x = pictures.clone();
        for stage in &self.stages {
            x = stage.forward(&x)?;
            features.push(x.clone());
        }
        self.head.forward(&features)
    }
}

/// One stage of the encoder.
struct Encoder {
    patches: Conv2d,
    patch_norm: LayerNorm,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Encoder {
    fn load(n: usize, stage: &Stage, tensors: &Tensors<'_>) -> Result<Self> {
        let of = |name: &str| format!("segformer.encoder.{name}.{n}");
        let blocks = (0..stage.depth).map(|block| Block::load(&of("block"), block, stage, tensors));
        let patches = of("patch_embeddings");
        Ok(Self {
            patches: conv(tensors, &format!("{patches}.proj"), stage.stride, stage.patch / 2)?,
            patch_norm: layer_norm(tensors, &format!("{patches}.layer_norm"))?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: layer_norm(tensors, &of("layer_norm"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.patches.forward(x)?;
        let (_, _, h, w) = x.dims4()?;
        let mut x = self.patch_norm.forward(&to_tokens(&x)?)?;
        for block in &self.blocks {
            x = block.forward(&x, [h, w])?;
        }
        to_planes(&self.norm.forward(&x)?, [h, w])
    }
}

struct Block {
    norms: [LayerNorm; 2],
    attention: Attention,
    feed_forward: FeedForward,
}

impl Block {
    fn load(stage: &str, n: usize, sizes: &Stage, tensors: &Tensors<'_>) -> Result<Self> {
        let of = |name: &str| format!("{stage}.{n}.{name}");
        Ok(Self {
            norms: [layer_norm(tensors, &of("layer_norm_1"))?, layer_norm(tensors, &of("layer_norm_2"))?],
            attention: Attention::load(&of("attention"), sizes, tensors)?,
            feed_forward: FeedForward {
                widen: linear(tensors, &of("mlp.dense1"))?,
                depthwise: Depthwise::load(tensors, &of("mlp.dwconv.dwconv"))?,
                narrow: linear(tensors, &of("mlp.dense2"))?,
            },
        })
    }

    /// `[b, h * w, width]` to the same.
    fn forward(&self, x: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
        let [first, second] = &self.norms;
        let x = (x + self.attention.forward(&first.forward(x)?, grid)?)?;
        &x + self.feed_forward.forward(&second.forward(&x)?, grid)?
    }
}

struct Attention {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    reduction: Option<(Conv2d, LayerNorm)>,
}

impl Attention {
    fn load(name: &str, stage: &Stage, tensors: &Tensors<'_>) -> Result<Self> {
        let reduction = if stage.reduction > 1 {
            let squares = conv(tensors, &format!("{name}.self.sr"), stage.reduction, 0)?;
            Some((squares, layer_norm(tensors, &format!("{name}.self.layer_norm"))?))
        } else {
            None
        };
        Ok(Self {
            heads: stage.heads,
            query: linear(tensors, &format!("{name}.self.query"))?,
            key: linear(tensors, &format!("{name}.self.key"))?,
            value: linear(tensors, &format!("{name}.self.value"))?,
            output: linear(tensors, &format!("{name}.output.dense"))?,
            reduction,
        })
    }

    fn forward(&self, x: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
        let reduced = match &self.reduction {
            Some((squares, norm)) => norm.forward(&to_tokens(&squares.forward(&to_planes(x, grid)?)?)?)?,
            None => x.clone(),
        };
        let by_head = |x: Tensor| -> Result<Tensor> {
            let (b, n, width) = x.dims3()?;
            x.reshape((b, n, self.heads, width / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let q = by_head(self.query.forward(x)?)?;
        let k = by_head(self.key.forward(&reduced)?)?;
        let v = by_head(self.value.forward(&reduced)?)?;
        let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
        let scores = (q * scale)?.matmul(&k.t()?)?; // (b, heads, n, reduced)
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        self.output.forward(&mixed.transpose(1, 2)?.flatten_from(2)?)
    }
}

struct FeedForward {
    widen: Linear,
    depthwise: Depthwise,
    narrow: Linear,
}

impl FeedForward {
    fn forward(&self, x: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
        let x = to_planes(&self.widen.forward(x)?, grid)?;
        self.narrow.forward(&to_tokens(&self.depthwise.forward(&x)?)?.gelu_erf()?)
    }
}

/// A 3 x 3 convolution of every channel with a kernel of its own, as nine shifted products: candle runs a grouped
/// convolution group by group.
struct Depthwise {
    /// Nine of `[1, channels, 1, 1]`, row by row.
    weights: Vec<Tensor>,
    bias: Tensor,
}

impl Depthwise {
    fn load(tensors: &Tensors<'_>, name: &str) -> Result<Self> {
        let weight = tensors.get(&format!("{name}.weight"))?; // (channels, 1, 3, 3)
        let channels = weight.dim(0)?;
        let weight = weight.reshape((channels, 9))?.t()?.contiguous()?;
        let weights = (0..9).map(|n| weight.get(n)?.reshape((1, channels, 1, 1)));
        let bias = tensors.get(&format!("{name}.bias"))?.reshape((1, channels, 1, 1))?;
        Ok(Self { weights: weights.collect::<Result<_>>()?, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        let mut sum = self.bias.broadcast_as(x.shape())?;
        for (n, weight) in self.weights.iter().enumerate() {
            let shifted = padded.narrow(2, n / 3, h)?.narrow(3, n % 3, w)?;
            sum = (sum + shifted.broadcast_mul(weight)?)?;
        }
        Ok(sum)
    }
}

/// Brings the features of all stages to the finest grid and classifies their sum.
struct Head {
    projections: Vec<Linear>,
    fuse: Conv2d,
    /// Batch norm with its running statistics: one scale and shift for a channel.
    scale: Tensor,
    shift: Tensor,
    classifier: Conv2d,
}

impl Head {
    fn load(stages: usize, tensors: &Tensors<'_>) -> Result<Self> {
        let projections = (0..stages).map(|n| linear(tensors, &format!("decode_head.linear_c.{n}.proj")));
        let norm = |part: &str| tensors.get(&format!("decode_head.batch_norm.{part}"));
        let scale = (norm("weight")? / (norm("running_var")? + EPSILON)?.sqrt()?)?;
        let shift = (norm("bias")? - (norm("running_mean")? * &scale)?)?;
        let by_channel = |tensor: Tensor| tensor.reshape((1, tensor.elem_count(), 1, 1));
        Ok(Self {
            projections: projections.collect::<Result<_>>()?,
            fuse: Conv2d::new(tensors.get("decode_head.linear_fuse.weight")?, None, Conv2dConfig::default()),
            scale: by_channel(scale)?,
            shift: by_channel(shift)?,
            classifier: conv(tensors, "decode_head.classifier", 1, 0)?,
        })
    }

    fn forward(&self, features: &[Tensor]) -> Result<Tensor> {
        let (_, _, h, w) = features[0].dims4()?;
        let mut all = Vec::with_capacity(features.len());
        for (x, projection) in features.iter().zip(&self.projections) {
            let (_, _, rows, columns) = x.dims4()?;
            let x = to_planes(&projection.forward(&to_tokens(x)?)?, [rows, columns])?;
            all.push(x.upsample_bilinear2d(h, w, false)?);
        }
        all.reverse();
        let x = self.fuse.forward(&Tensor::cat(&all, 1)?)?;
        let x = x.broadcast_mul(&self.scale)?.broadcast_add(&self.shift)?.relu()?;
        self.classifier.forward(&x)
    }
}

/// `[b, c, h, w]` to `[b, h * w, c]`.
fn to_tokens(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

/// `[b, h * w, c]` to `[b, c, h, w]`.
fn to_planes(x: &Tensor, [h, w]: [usize; 2]) -> Result<Tensor> {
    let (b, _, c) = x.dims3()?;
    x.transpose(1, 2)?.contiguous()?.reshape((b, c, h, w))
}

fn linear(tensors: &Tensors<'_>, name: &str) -> Result<Linear> {
    Ok(Linear::new(tensors.get(&format!("{name}.weight"))?, Some(tensors.get(&format!("{name}.bias"))?)))
}

fn layer_norm(tensors: &Tensors<'_>, name: &str) -> Result<LayerNorm> {
    let part = |part: &str| tensors.get(&format!("{name}.{part}"));
    Ok(LayerNorm::new(part("weight")?, part("bias")?, EPSILON))
}

fn conv(tensors: &Tensors<'_>, name: &str, stride: usize, padding: usize) -> Result<Conv2d> {
    let part = |part: &str| tensors.get(&format!("{name}.{part}"));
    let config = Conv2dConfig { stride, padding, ..Conv2dConfig::default() };
    Ok(Conv2d::new(part("weight")?, Some(part("bias")?), config))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::device::Precision;
    use crate::parity::relative_error;
    use crate::weights::Weights;

    #[test]
    fn golden_logits_are_those_of_transformers() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/segformer.safetensors");
        let stage = |depth, width, heads, reduction| {
            let (patch, stride) = if reduction == 8 { (7, 4) } else { (3, 2) };
            Stage { depth, width, heads, reduction, patch, stride }
        };
        let stages = vec![stage(2, 8, 1, 8), stage(1, 16, 2, 4), stage(1, 24, 3, 2), stage(1, 32, 4, 1)];
        let config = Config { stages, decoder: 20, labels: 5 };
        let weights = Weights::read(&fixture, "model.").unwrap();
        let tensors = weights.open(&config.contract(), &Device::Cpu, Precision::F32).unwrap();
        let recorded = candle_core::safetensors::load(&fixture, &Device::Cpu).unwrap();
        let logits = Segformer::load(&config, &tensors).unwrap().forward(&recorded["input.picture"]).unwrap();
        let values = |tensor: &Tensor| -> Vec<f64> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            values.into_iter().map(f64::from).collect()
        };
        let error = relative_error(&values(&logits), &values(&recorded["output.logits"]));
        assert!(error < 1e-4, "off by {error:e}");
    }
}
