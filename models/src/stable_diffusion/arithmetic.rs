//! What one pass of the UNet costs. Reading the description and decoding the picture are done once and left out.

use super::config::{self, Config};
use super::unet::{DownBlockType, UnetConfig};
use crate::arithmetic::{Arithmetic, Part};
use crate::model::Sampling;
use crate::sampler::diffusion::Schedule;

impl Config {
    /// Work of one image of `size`, width and height in pixels.
    pub(crate) fn arithmetic(&self, size: [u32; 2], sampling: &Sampling) -> Arithmetic {
        let (steps, guidance) = (sampling.steps, config::guidance(sampling));
        let schedule = Schedule::new(&self.sampler, steps);
        let progress = |step: &u32| schedule.node(*step as usize).progress() as f32;
        let guided = (0..steps).filter(|step| guidance.applies(progress(step), *step, steps)).count();
        let pixels: usize = size.map(|side| side as usize / self.vae.reduction()).iter().product();
        let tokens = self.text_encoder.max_position_embeddings;
        Arithmetic { passes: steps + guided as u32, parts: self.unet.pass(pixels, tokens) }
    }
}

impl UnetConfig {
    /// One pass over a latent of so many pixels beside a description of so many tokens.
    fn pass(&self, pixels: usize, tokens: usize) -> Vec<Part> {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let (mut convolutions, mut matmul, mut attention) = (0.0, 0.0, 0.0);
        for (n, &c) in channels.iter().enumerate() {
            let p = (pixels >> (2 * n)) as f64;
            let (above, below) = (channels[n.saturating_sub(1)], channels[(n + 1).min(last)]);
            // Channels into each residual block: on the way down, then up, as `DownBlock` and `UpBlock` build them.
            let down = (0..self.layers_per_block).map(|layer| if layer == 0 { above } else { c });
            let up = (0..=self.layers_per_block).map(|layer| {
                let skip = if layer == self.layers_per_block { above } else { c };
                skip + if layer == 0 { below } else { c }
            });
            let middle = [c; 2].into_iter().filter(|_| n == last);
            convolutions +=
                down.chain(up).chain(middle).map(|into| self.residual_flops(p, into, c)).sum::<f64>();
            if n < last {
                // Down to the next size and up from it.
                convolutions += convolution(p / 4.0, c, c) + convolution(p, below, below);
            }
            let attends = self.down_block_types[n] == DownBlockType::CrossAttnDownBlock2D;
            let sides = if attends { 2 * self.layers_per_block + 1 } else { 0 } + usize::from(n == last);
            let c = c as f64;
            let (tokens, width) = (tokens as f64, self.cross_attention_dim as f64);
            // Into and out of attention 2, q, k, v, out of self-attention 4, q and out of the other 2, both layers of
            // the MLP 12; keys and values of the description.
            matmul += sides as f64 * (2.0 * p * 20.0 * c * c + 2.0 * tokens * 2.0 * width * c);
            attention += sides as f64 * 4.0 * p * (p + tokens) * c;
        }
        let first = channels[0];
        let ends = convolution(pixels as f64, self.in_channels, first)
            + convolution(pixels as f64, first, self.out_channels);
        let time = self.time_width() as f64;
        let embedding = 2.0 * time * (first as f64 + time);
        let part = |name, matmul_flops, attention_flops| Part { name, matmul_flops, attention_flops };
        vec![
            part("residual blocks and changes of size", convolutions, 0.0),
            part("transformer blocks", matmul, attention),
            part("ends and timestep", ends + embedding, 0.0),
        ]
    }

    fn residual_flops(&self, pixels: f64, into: usize, out: usize) -> f64 {
        let shortcut = if into == out { 0.0 } else { 2.0 * pixels * (into * out) as f64 };
        convolution(pixels, into, out)
            + convolution(pixels, out, out)
            + shortcut
            + 2.0 * (self.time_width() * out) as f64
    }
}

/// Three by three pixels into each.
fn convolution(pixels: f64, into: usize, out: usize) -> f64 {
    2.0 * 9.0 * pixels * (into * out) as f64
}

#[cfg(test)]
mod tests {
    use kraftr_protocol::manifest::Method;

    use super::*;

    /// A network small enough to count by hand: one size of 8 channels with attention, one residual block a side.
    #[test]
    fn a_hand_count() {
        let unet = UnetConfig {
            block_out_channels: vec![8],
            down_block_types: vec![DownBlockType::CrossAttnDownBlock2D],
            layers_per_block: 1,
            cross_attention_dim: 5,
            ..UnetConfig::default()
        };
        let [blocks, transformers, ends] = unet.pass(6, 3).try_into().unwrap();
        // Five residual blocks: 8 to 8 down and twice in the middle, 16 to 8 with a shortcut twice on the way up.
        let (same, wide) = (6 * 2 * 9 * (64 + 64), 6 * 2 * (9 * (128 + 64) + 128));
        let time = 5 * 2 * 32 * 8;
        let whole = |flops: f64| flops as i64;
        assert_eq!(whole(blocks.matmul_flops), 3 * same + 2 * wide + time);
        // Four transformers: 20 products of 8 x 8 for each of 6 pixels, two of 5 x 8 for each of 3 tokens.
        assert_eq!(whole(transformers.matmul_flops), 4 * (2 * 6 * 20 * 64 + 2 * 3 * 2 * 40));
        assert_eq!(whole(transformers.attention_flops), 4 * 4 * 6 * (6 + 3) * 8);
        assert_eq!(whole(ends.matmul_flops), 2 * (2 * 9 * 6 * 4 * 8) + 2 * 32 * (8 + 32));
    }

    /// The published network paints 512 x 512 pixels with 339 G multiplications and additions in its layers
    /// (arXiv 2305.15798, table 1), products of attention not counted.
    #[test]
    fn the_published_network() {
        let passes = |guidance, guidance_interval| {
            let method = Method { guidance_interval, ..Method::default() };
            Config::default().arithmetic([512, 512], &Sampling { steps: 25, guidance, seed: 0, method })
        };
        let arithmetic = passes(7.5, [0.0, 1.0]);
        assert_eq!(arithmetic.passes, 50);
        let layers: f64 = arithmetic.parts.iter().map(|part| part.matmul_flops).sum();
        assert!((layers / 2e9 - 339.0).abs() < 1.0, "{layers}");
        assert_eq!(passes(1.0, [0.0, 1.0]).passes, 25);
        assert_eq!(passes(7.5, [0.0, 0.2]).passes, 29);
    }
}
