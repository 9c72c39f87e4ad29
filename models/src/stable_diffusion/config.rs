//! Configuration of a release, and the tensors that it implies.

use kraftr_protocol::ReleaseManifest;
use kraftr_protocol::manifest::{Method, Solver};
use serde::Deserialize;

use super::autoencoder::{Autoencoder, VaeConfig};
use super::clip::{TextConfig, TextEncoder};
use super::source::contract;
use super::tokenizer;
use super::unet::{Unet, UnetConfig};
use crate::ModelError;
use crate::config_keys::Keys;
use crate::model::Sampling;
use crate::sampler::diffusion::SamplerConfig;
use crate::sampler::guidance::Guidance;
use crate::weights::contract::Expected;

/// The `config` table of a manifest: a table for each `config.json` of the reference's folders.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What reads descriptions.
    pub(crate) text_encoder: TextConfig,
    /// What denoises.
    pub(crate) unet: UnetConfig,
    /// What turns pictures into latents and back.
    pub(crate) vae: VaeConfig,
    /// How it is sampled.
    pub(crate) sampler: SamplerConfig,
}

/// What this architecture cannot do of how steps are taken: fields, and what they must be. Of a quality it takes
/// `steps`, `guidance_interval` and `evaluations`.
pub(crate) fn method_mistakes(method: &Method) -> Vec<(&'static str, &'static str)> {
    let solver =
        "must be left out: a release of stable-diffusion says config.sampler.solver, ddim or dpm++2m";
    let cache = "must be left out or 0: stable-diffusion has no first block whose change would tell";
    let mistakes =
        [(method.solver != Solver::Euler, ("solver", solver)), (method.cache > 0.0, ("cache", cache))];
    mistakes.into_iter().filter_map(|(wrong, mistake)| wrong.then_some(mistake)).collect()
}

/// When images sampled like that are guided.
pub(crate) fn guidance(sampling: &Sampling) -> Guidance {
    Guidance { scale: sampling.guidance, interval: sampling.method.guidance_interval, skip_last: 0 }
}

impl Config {
    /// Reads the `config` table of a manifest.
    pub(crate) fn of(manifest: &ReleaseManifest) -> Result<Self, ModelError> {
        let mut keys = Keys::of(&manifest.config);
        let config = Self {
            text_encoder: keys.section("text_encoder"),
            unet: keys.section("unet"),
            vae: keys.section("vae"),
            sampler: keys.section("sampler"),
        };
        let mut mistakes = keys.finish();
        mistakes.extend(config.mistakes());
        if mistakes.is_empty() {
            let whole = config.whole() as u32;
            if manifest.size.iter().any(|side| !side.is_multiple_of(whole)) {
                mistakes.push(format!("size: both sides must be multiples of {whole}"));
            }
        }
        if manifest.limits.steps_max > SamplerConfig::STEPS_MAX {
            mistakes.push(format!("limits.steps_max: must be at most {}", SamplerConfig::STEPS_MAX));
        }
        if mistakes.is_empty() { Ok(config) } else { Err(ModelError::Config { mistakes }) }
    }

    /// Pixels whose multiples a side must be, so that every size on the way down is whole.
    fn whole(&self) -> usize {
        self.vae.reduction() << (self.unet.block_out_channels.len() - 1)
    }

    /// Everything that contradicts itself or is not supported.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let Self { text_encoder: text, unet, vae, sampler } = self;
        let mut mistakes = sampler.mistakes();
        let mut demand = |holds: bool, sentence: &str| {
            if !holds {
                mistakes.push(sentence.to_owned());
            }
        };
        let sizes = [text.vocab_size, text.hidden_size, text.intermediate_size, text.num_attention_heads];
        let sane = |sizes: &[usize]| sizes.iter().all(|size| (1..=65_536).contains(size));
        demand(sane(&sizes), "text_encoder: sizes must be 1 to 65536");
        demand(
            text.hidden_size.is_multiple_of(text.num_attention_heads.max(1)),
            "text_encoder: hidden_size must be a multiple of num_attention_heads",
        );
        demand(
            text.vocab_size >= tokenizer::VOCABULARY_MIN,
            "text_encoder: vocab_size must be at least 514, the bytes, those at the end of a word, start and end",
        );
        demand(
            (3..=1_024).contains(&text.max_position_embeddings),
            "text_encoder: max_position_embeddings must be 3 to 1024",
        );
        let layers = [text.num_hidden_layers, unet.layers_per_block, vae.layers_per_block];
        demand(layers.iter().all(|layers| *layers <= 128), "a number of layers must be at most 128");
        demand(
            unet.cross_attention_dim == text.hidden_size,
            "unet: cross_attention_dim must be text_encoder.hidden_size",
        );
        let channels = |channels: &[usize], groups: usize| {
            (1..=8).contains(&channels.len())
                && sane(channels)
                && groups > 0
                && channels.iter().all(|channels| channels.is_multiple_of(groups))
        };
        let grouped = "block_out_channels must be 1 to 8 multiples of norm_num_groups";
        demand(channels(&unet.block_out_channels, unet.norm_num_groups), &format!("unet: {grouped}"));
        demand(channels(&vae.block_out_channels, vae.norm_num_groups), &format!("vae: {grouped}"));
        demand(
            unet.down_block_types.len() == unet.block_out_channels.len(),
            "unet: down_block_types must be as many as block_out_channels",
        );
        let heads = |(n, channels): (usize, &usize)| {
            let heads = unet.heads(n);
            heads > 0 && channels.is_multiple_of(heads)
        };
        demand(
            unet.block_out_channels.iter().enumerate().all(heads),
            "unet: attention_head_dim (which is a number of heads) must divide block_out_channels",
        );
        let first = unet.block_out_channels.first().copied().unwrap_or(0);
        demand(first.is_multiple_of(2), "unet: the first of block_out_channels must be even");
        demand((1..=64).contains(&vae.latent_channels), "vae: latent_channels must be 1 to 64");
        demand(vae.scaling_factor > 0.0, "vae: scaling_factor must be positive");
        demand(
            [unet.in_channels, unet.out_channels] == [vae.latent_channels; 2],
            "unet: in_channels and out_channels must be vae.latent_channels; networks for inpainting are not supported",
        );
        mistakes
    }

    /// Roles of the release's files and the tensors that each must hold.
    pub(crate) fn contracts(&self) -> Result<Vec<(&'static str, Vec<Expected>)>, ModelError> {
        Ok(vec![
            ("text_encoder", self.text_contract()?),
            ("unet", self.unet_contract()?),
            ("vae", self.vae_contract()?),
        ])
    }

    /// Every tensor of the text encoder's file.
    pub(crate) fn text_contract(&self) -> candle_core::Result<Vec<Expected>> {
        contract(|scope| TextEncoder::new(&self.text_encoder, scope))
    }

    /// Every tensor of the UNet's file.
    pub(crate) fn unet_contract(&self) -> candle_core::Result<Vec<Expected>> {
        contract(|scope| Unet::new(&self.unet, scope))
    }

    /// Every tensor of the autoencoder's file.
    pub(crate) fn vae_contract(&self) -> candle_core::Result<Vec<Expected>> {
        contract(|scope| Autoencoder::new(&self.vae, scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(contract: &[Expected]) -> usize {
        let used = contract.iter().filter(|tensor| tensor.used);
        used.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }

    /// The numbers of parameters that the published networks have.
    #[test]
    fn the_default_is_stable_diffusion_one() {
        let config = Config::default();
        assert!(config.mistakes().is_empty(), "{:?}", config.mistakes());
        assert_eq!(parameters(&config.unet_contract().unwrap()), 859_520_964);
        assert_eq!(parameters(&config.text_contract().unwrap()), 123_060_480);
        assert_eq!(parameters(&config.vae_contract().unwrap()), 83_653_863);
    }

    #[test]
    fn every_mistake_is_reported() {
        let text = "[text_encoder]\nnum_attention_heads = 7\nmax_position_embeddings = 2\n\
                    [unet]\nin_channels = 5\nblock_out_channels = [33, 64]\nattention_head_dim = [8]\n\
                    [vae]\nblock_out_channels = []\nscaling_factor = 0.0\n[sampler]\nsteps_offset = 9\n";
        let config: Config = toml::from_str(text).unwrap();
        let mistakes = config.mistakes();
        assert_eq!(mistakes.len(), 10, "{mistakes:#?}");
        assert!(toml::from_str::<Config>("[unet]\nsample_size = 64\n").is_err(), "unknown keys are refused");
    }
}
