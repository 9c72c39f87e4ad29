//! CLIP's text encoder: what a description looks like to the UNet.

use candle_core::{Module as _, Result, Tensor};
use candle_nn::{Embedding, LayerNorm};
use serde::{Deserialize, Serialize};

use super::blocks::attend;
use super::layers::widely;
use super::source::Scope;
use crate::layers::linear::Linear;

/// Sizes of the encoder, under the reference's names; the defaults are those of Stable Diffusion 1.5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TextConfig {
    /// Entries of the vocabulary.
    pub(crate) vocab_size: usize,
    /// Width of a token.
    pub(crate) hidden_size: usize,
    /// Inner width of an MLP.
    pub(crate) intermediate_size: usize,
    /// Blocks.
    pub(crate) num_hidden_layers: usize,
    /// Attention heads.
    pub(crate) num_attention_heads: usize,
    /// Tokens of a description, with start and end.
    pub(crate) max_position_embeddings: usize,
    /// Between the layers of an MLP.
    pub(crate) hidden_act: Activation,
    /// What fills a short description up.
    pub(crate) pad_token: String,
}

/// Between the layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// The exact GELU.
    Gelu,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 768,
            intermediate_size: 3_072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            pad_token: "<|endoftext|>".to_owned(),
        }
    }
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        widely(x, |x| match self {
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Self::Gelu => x.gelu_erf(),
        })
    }
}

/// The encoder.
pub(crate) struct TextEncoder {
    tokens: Embedding,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    /// `[n, n]` in f32, minus infinity where a token would see a later one.
    mask: Tensor,
}

struct Layer {
    norms: [LayerNorm; 2],
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    mlp: [Linear; 2],
    activation: Activation,
    heads: usize,
}

impl TextEncoder {
    pub(crate) fn new(config: &TextConfig, scope: &Scope<'_>) -> Result<Self> {
        let (n, width) = (config.max_position_embeddings, config.hidden_size);
        let text = scope.at("text_model");
        let embeddings = text.at("embeddings");
        embeddings.unused("position_ids", &[1, n])?;
        let tokens = embeddings.tensor("token_embedding.weight", &[config.vocab_size, width])?;
        let positions = embeddings.tensor("position_embedding.weight", &[n, width])?;
        let layers =
            (0..config.num_hidden_layers).map(|at| Layer::new(config, &text.nth("encoder.layers", at)));
        let later = (0..n * n).map(|at| if at % n > at / n { f32::NEG_INFINITY } else { 0.0 });
        let mask = Tensor::from_vec(later.collect(), (n, n), tokens.device())?;
        Ok(Self {
            tokens: Embedding::new(tokens, width),
            positions,
            layers: layers.collect::<Result<_>>()?,
            norm: text.at("final_layer_norm").layer_norm(width)?,
            mask,
        })
    }

    /// Token numbers, as many as there are positions, to `[1, n, width]`.
    pub(crate) fn forward(&self, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, self.positions.device())?;
        let mut x = (self.tokens.forward(&tokens)? + &self.positions)?.unsqueeze(0)?;
        for layer in &self.layers {
            x = layer.forward(&x, &self.mask)?;
        }
        self.norm.forward(&x)
    }
}

impl Layer {
    fn new(config: &TextConfig, scope: &Scope<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = scope.at("self_attn");
        let projection = |name| attention.at(name).linear(width, width);
        Ok(Self {
            norms: [scope.at("layer_norm1").layer_norm(width)?, scope.at("layer_norm2").layer_norm(width)?],
            query: projection("q_proj")?,
            key: projection("k_proj")?,
            value: projection("v_proj")?,
            out: projection("out_proj")?,
            mlp: [scope.at("mlp.fc1").linear(width, inner)?, scope.at("mlp.fc2").linear(inner, width)?],
            activation: config.hidden_act,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let normed = self.norms[0].forward(x)?;
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&normed));
        let x = (x + self.out.forward(&attend(&q?, &k?, &v?, self.heads, Some(mask))?)?)?;
        let inner = self.mlp[0].forward(&self.norms[1].forward(&x)?)?;
        &x + self.mlp[1].forward(&self.activation.forward(&inner)?)?
    }
}
