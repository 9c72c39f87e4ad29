//! What one pass of the network costs.

use super::config::{Config, SamplerConfig};
use crate::arithmetic::{Arithmetic, Part};
use crate::sampler::guidance::Guidance;

impl Config {
    /// Work of so many passes. What is done once for a render (the embedding of its pictures) is left out.
    pub(crate) fn arithmetic(&self, passes: u32) -> Arithmetic {
        let (n, d, inner) = (self.tokens() as f64, self.hidden_size as f64, self.inner() as f64);
        let attention = |tokens: f64| 4.0 * tokens * tokens * d;
        // (3 d + inner) x d into the block, d x (d + inner) out of it.
        let single = |tokens: f64| 2.0 * tokens * d * (4.0 * d + 2.0 * inner);
        // Two streams of n tokens: qkv, projection, and both layers of the MLP.
        let double = 2.0 * 2.0 * n * d * (4.0 * d + 2.0 * inner);
        let (mixers, doubles) = (self.mixers() as f64, self.double_blocks_depth as f64);
        let singles = self.single_blocks_depth as f64;
        let part = |name, matmul_flops, attention_flops| Part { name, matmul_flops, attention_flops };
        Arithmetic {
            passes,
            parts: vec![
                part("patch-mixer blocks", mixers * single(n), mixers * attention(n)),
                part("double blocks", doubles * double, doubles * attention(2.0 * n)),
                part("single blocks", singles * single(2.0 * n), singles * attention(2.0 * n)),
                part("embedding and modulation", self.rest(), 0.0),
            ],
        }
    }

    /// Noise into tokens, tokens into patches, and the vectors that modulate: small beside the blocks.
    fn rest(&self) -> f64 {
        let (n, d) = (self.tokens() as f64, self.hidden_size as f64);
        let patches = 2.0 * 2.0 * n * d * self.patch() as f64;
        let singles = (self.mixers() + self.single_blocks_depth) as f64;
        let modulation = 2.0 * d * d * (3.0 * singles + 12.0 * self.double_blocks_depth as f64 + 2.0);
        patches + modulation + 2.0 * d * (256.0 + d)
    }
}

impl SamplerConfig {
    /// Passes of one image as the reference samples it: two for a guided step, one for another.
    pub(crate) fn passes(self, steps: u32, guidance: f64) -> u32 {
        let guidance = Guidance { scale: guidance, interval: [0.0, 1.0], skip_last: self.skip_guidance_last };
        let guided = |step: &u32| guidance.applies(0.0, *step, steps);
        steps + (0..steps).filter(guided).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published network, in TFLOP.
    #[test]
    fn the_published_network() {
        let arithmetic = Config::default().arithmetic(SamplerConfig::default().passes(30, 1.5));
        let expected = [(0.54, 0.24), (2.17, 1.96), (4.35, 3.91), (0.007, 0.0)];
        for (part, (matmul, attention)) in arithmetic.parts.iter().zip(expected) {
            assert!((part.matmul_flops / 1e12 - matmul).abs() < 0.006, "{part:?}");
            assert!((part.attention_flops / 1e12 - attention).abs() < 0.006, "{part:?}");
        }
        let pass = arithmetic.pass_flops();
        assert!((pass / 1e12 - 13.2).abs() < 0.05, "{pass}");
        let image = arithmetic.image_flops();
        assert!((image / 1e12 - 779.0).abs() < 1.0, "{image}");
    }

    #[test]
    fn guidance_costs_a_second_pass_on_every_step_but_the_last() {
        let sampler = SamplerConfig::default();
        assert_eq!(sampler.passes(30, 1.5), 59);
        assert_eq!(sampler.passes(30, 1.0), 30);
        assert_eq!(sampler.passes(1, 1.5), 1);
    }
}
