//! Configuration of the network and the tensors it implies.

use kraftr_protocol::ReleaseManifest;
use serde::{Deserialize, Serialize};

use super::prepare::PrepareConfig;
use crate::ModelError;
use crate::config_keys::Keys;
use crate::weights::contract::Expected;

/// Sizes of the network, under the reference's names; the defaults are the published model's.
/// Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a, `TryOnModel.__init__`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Height and width of the frame in pixels.
    pub(crate) input_shape: [usize; 2],
    /// Width of a token.
    pub(crate) hidden_size: usize,
    /// Attention heads.
    pub(crate) n_heads: usize,
    /// Blocks with separate streams for person and garment.
    pub(crate) double_blocks_depth: usize,
    /// Blocks with one stream.
    pub(crate) single_blocks_depth: usize,
    /// Inner width of an MLP in token widths.
    pub(crate) mlp_ratio: f64,
    /// Channels of a picture.
    pub(crate) channels_in: usize,
    /// Side of a patch in pixels.
    pub(crate) patch_size: usize,
    /// Base of the rotary frequencies.
    pub(crate) theta: f64,
    /// Widths of a head that rotate by (0, row, column).
    pub(crate) axes_dim: Vec<usize>,
    /// Whether the double blocks' qkv layers have biases.
    pub(crate) qkv_bias: bool,
    /// Distilled guidance as an input; not supported.
    pub(crate) guidance_embed: bool,
    /// Garment categories beside "none"; 0 leaves the category out.
    pub(crate) n_classes: usize,
    /// Whether blocks over image tokens alone come first.
    pub(crate) use_patch_mixer: bool,
    /// How many of them.
    pub(crate) patch_mixer_depth: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            input_shape: [864, 576],
            hidden_size: 1280,
            n_heads: 10,
            double_blocks_depth: 8,
            single_blocks_depth: 16,
            mlp_ratio: 4.0,
            channels_in: 3,
            patch_size: 12,
            theta: 10_000.0,
            axes_dim: vec![16, 56, 56],
            qkv_bias: true,
            guidance_embed: false,
            n_classes: 3,
            use_patch_mixer: true,
            patch_mixer_depth: 4,
        }
    }
}

/// How the network is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SamplerConfig {
    /// Shift of the times towards the noise.
    pub(crate) time_shift_mu: f64,
    /// Last steps that go without guidance.
    pub(crate) skip_guidance_last: u32,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self { time_shift_mu: 1.5, skip_guidance_last: 1 }
    }
}

impl Config {
    /// Reads the `config` table of a manifest, where the sampler's and the preparation's keys stand beside the network's.
    pub(crate) fn of(manifest: &ReleaseManifest) -> Result<(Self, SamplerConfig, PrepareConfig), ModelError> {
        let mut keys = Keys::of(&manifest.config);
        let (config, sampler) = (keys.take::<Self>(), keys.take::<SamplerConfig>());
        let prepare = keys.take::<PrepareConfig>();
        let mut mistakes = keys.finish();
        mistakes.extend(config.mistakes());
        mistakes.extend(prepare.parser.mistakes());
        let [height, width] = config.input_shape;
        if manifest.size != [width as u32, height as u32] || config.channels_in != 3 {
            let turned =
                format!("size: must be input_shape turned round ([{width}, {height}]), with 3 channels_in");
            mistakes.push(turned);
        }
        if mistakes.is_empty() {
            Ok((config, sampler, prepare))
        } else {
            Err(ModelError::Config { mistakes })
        }
    }

    /// Refuses what contradicts itself or is not supported.
    pub(crate) fn validate(&self) -> Result<(), ModelError> {
        let mistakes = self.mistakes();
        if mistakes.is_empty() { Ok(()) } else { Err(ModelError::Config { mistakes }) }
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut demand = |holds: bool, sentence: &str| {
            if !holds {
                mistakes.push(format!("config: {sentence}"));
            }
        };
        let sizes = [self.hidden_size, self.n_heads, self.channels_in, self.patch_size];
        let positive = sizes.iter().chain(&self.input_shape).all(|size| (1..=65_536).contains(size));
        demand(positive, "input_shape, hidden_size, n_heads, channels_in and patch_size must be 1 to 65536");
        demand(
            positive && self.input_shape.iter().all(|side| side % self.patch_size == 0),
            "input_shape must be whole patches",
        );
        demand(
            positive
                && self.hidden_size.is_multiple_of(self.n_heads)
                && self.axes_dim.iter().sum::<usize>() == self.hidden_size / self.n_heads,
            "axes_dim must sum to hidden_size / n_heads",
        );
        demand(
            self.axes_dim.len() == 3 && self.axes_dim.iter().all(|width| width.is_multiple_of(2)),
            "axes_dim must be three even widths",
        );
        demand((0.0..=64.0).contains(&self.mlp_ratio) && self.inner() > 0, "mlp_ratio must be in 0 to 64");
        demand(self.theta > 0.0, "theta must be positive");
        let blocks = [self.double_blocks_depth, self.single_blocks_depth, self.patch_mixer_depth];
        demand(blocks.iter().all(|depth| *depth <= 1_000), "a depth must be at most 1000");
        demand(!self.guidance_embed, "guidance_embed is not supported: set it to false");
        mistakes
    }

    /// Inner width of an MLP.
    pub(crate) fn inner(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    /// Rows and columns of patches.
    pub(crate) fn grid(&self) -> [usize; 2] {
        self.input_shape.map(|side| side / self.patch_size)
    }

    /// Tokens of one picture.
    pub(crate) fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Values of one patch of a picture.
    pub(crate) fn patch(&self) -> usize {
        self.channels_in * self.patch_size * self.patch_size
    }

    /// Blocks over image tokens alone.
    pub(crate) fn mixers(&self) -> usize {
        if self.use_patch_mixer { self.patch_mixer_depth } else { 0 }
    }

    /// Every tensor of the checkpoint.
    pub(crate) fn contract(&self) -> Vec<Expected> {
        let (d, inner, head, p) =
            (self.hidden_size, self.inner(), self.hidden_size / self.n_heads, self.patch_size);
        let mut list = List::default();
        list.unused("patch_mixer_token", &[1, 1, self.patch()]);
        list.linear("t_embedder.mlp.in_layer", d, 256, true);
        list.linear("t_embedder.mlp.out_layer", d, d, true);
        if self.n_classes > 0 {
            list.tensor("y_embedder.weight", &[self.n_classes + 1, d]);
        }
        for (name, channels) in [("x", 2 * self.channels_in + 1), ("garment", self.channels_in + 1)] {
            list.tensor(&format!("{name}_embedder.proj.weight"), &[d, channels, p, p]);
            list.tensor(&format!("{name}_embedder.proj.bias"), &[d]);
        }
        let singles = [("x_patch_mixer", self.mixers()), ("single_blocks", self.single_blocks_depth)];
        for block in singles.iter().flat_map(|(name, depth)| (0..*depth).map(move |n| format!("{name}.{n}")))
        {
            list.linear(&format!("{block}.linear1"), 3 * d + inner, d, true);
            list.linear(&format!("{block}.linear2"), d, d + inner, true);
            list.linear(&format!("{block}.modulation.lin"), 3 * d, d, true);
            list.norms(&format!("{block}.norm"), head);
        }
        for n in 0..self.double_blocks_depth {
            for stream in ["img", "txt"] {
                let block = format!("double_blocks.{n}.{stream}");
                list.linear(&format!("{block}_mod.lin"), 6 * d, d, true);
                list.linear(&format!("{block}_attn.qkv"), 3 * d, d, self.qkv_bias);
                list.norms(&format!("{block}_attn.norm"), head);
                list.linear(&format!("{block}_attn.proj"), d, d, true);
                list.linear(&format!("{block}_mlp.0"), inner, d, true);
                list.linear(&format!("{block}_mlp.2"), d, inner, true);
            }
        }
        list.linear("final_layer.linear", self.patch(), d, true);
        list.linear("final_layer.adaLN_modulation.1", 2 * d, d, true);
        list.0
    }
}

#[derive(Default)]
struct List(Vec<Expected>);

impl List {
    fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.0.push(Expected { name: name.to_owned(), older: None, shape: shape.to_vec(), used: true });
    }

    fn unused(&mut self, name: &str, shape: &[usize]) {
        self.0.push(Expected { name: name.to_owned(), older: None, shape: shape.to_vec(), used: false });
    }

    fn linear(&mut self, name: &str, out: usize, into: usize, bias: bool) {
        self.tensor(&format!("{name}.weight"), &[out, into]);
        if bias {
            self.tensor(&format!("{name}.bias"), &[out]);
        }
    }

    fn norms(&mut self, name: &str, head: usize) {
        self.tensor(&format!("{name}.query_norm.scale"), &[head]);
        self.tensor(&format!("{name}.key_norm.scale"), &[head]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_published_network() {
        let config = Config::default();
        config.validate().unwrap();
        let contract = config.contract();
        let parameters = contract.iter().filter(|tensor| tensor.used);
        let numbers: usize = parameters.map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(numbers, 971_813_808);
    }

    /// What the published checkpoint holds, name by name; recorded from the reference.
    #[test]
    fn the_contract_is_the_published_checkpoint() {
        #[derive(Deserialize)]
        struct Recorded {
            tensors: Vec<RecordedTensor>,
        }
        #[derive(Deserialize)]
        struct RecordedTensor {
            name: String,
            shape: Vec<usize>,
        }
        let recorded = include_str!("../../tests/fixtures/contract.json");
        let recorded: Recorded = serde_json::from_str(recorded).unwrap();
        let sorted = |mut tensors: Vec<(String, Vec<usize>)>| {
            tensors.sort();
            tensors
        };
        let ours = Config::default().contract().into_iter().map(|tensor| (tensor.name, tensor.shape));
        let theirs = recorded.tensors.into_iter().map(|tensor| (tensor.name, tensor.shape));
        assert_eq!(sorted(ours.collect()), sorted(theirs.collect()));
    }

    #[test]
    fn every_mistake_is_reported() {
        let broken = Config {
            input_shape: [100, 33],
            axes_dim: vec![3, 4],
            guidance_embed: true,
            mlp_ratio: -1.0,
            ..Config::default()
        };
        let Err(ModelError::Config { mistakes }) = broken.validate() else { panic!("accepted") };
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        assert!(mistakes.iter().any(|mistake| mistake.contains("guidance_embed")));
    }
}
