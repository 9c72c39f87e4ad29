//! First-block cache: when the first block of the network says nearly what it said when all blocks were last
//! computed, the other blocks are taken to add what they added then.
//!
//! Source: `ParaAttention`'s first block cache (chengzeyi, 2024), which follows `TeaCache` (Liu et al. 2024, Timestep
//! Embedding Tells: It's Time to Cache for Video Diffusion Model). Each row of a pass decides for itself, by its
//! own numbers, so what a row becomes does not depend on its batch.

use candle_core::{DType, Result, Tensor};

/// What a row remembers of the pass that last computed all blocks, `[1, n, d]` each.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// What the first block added.
    pub(crate) first: Tensor,
    /// What the other blocks added.
    pub(crate) rest: Tensor,
}

/// How far `now` is from `before` for each row of `[rows, n, d]`: mean of the absolute differences over the mean of
/// the absolute values before.
pub(crate) fn change(now: &Tensor, before: &Tensor) -> Result<Vec<f32>> {
    let size = |x: &Tensor| x.abs()?.to_dtype(DType::F32)?.flatten_from(1)?.mean(1);
    (size(&(now - before)?)? / size(before)?)?.to_vec1()
}

/// Whether a row that has changed so much may use what it kept. A change that is not a number is a change.
pub(crate) fn may_reuse(change: f32, threshold: f64) -> bool {
    f64::from(change) < threshold
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn change_is_relative_and_by_row() {
        let before = Tensor::new(&[[[1f32, -3.0]], [[10.0, 10.0]], [[0.0, 0.0]]], &Device::Cpu).unwrap();
        let now = Tensor::new(&[[[2f32, -3.0]], [[10.0, 12.0]], [[0.0, 0.0]]], &Device::Cpu).unwrap();
        let changes = change(&now, &before).unwrap();
        assert!((changes[0] - 0.25).abs() < 1e-6 && (changes[1] - 0.1).abs() < 1e-6, "{changes:?}");
        let reused: Vec<_> = changes.iter().map(|change| may_reuse(*change, 0.2)).collect();
        assert_eq!(reused, [false, true, false]);
    }
}
