//! Standard normals from a seed: one ChaCha stream per sample, so a picture does not depend on what
//! else is in its batch.

use rand::rngs::ChaCha12Rng;
use rand::{RngExt as _, SeedableRng as _};

/// `n` standard normals (Box-Muller over uniforms of 53 bits), the same for the same seed.
pub(crate) fn normals(seed: u64, n: usize) -> Vec<f32> {
    let mut stream = ChaCha12Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - stream.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * stream.random::<f64>()).sin_cos();
        values.push((radius * cos) as f32);
        values.push((radius * sin) as f32);
    }
    values.truncate(n);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_noise_and_another_seed_another() {
        assert_eq!(normals(7, 101), normals(7, 101));
        assert_ne!(normals(7, 101), normals(8, 101));
        assert_eq!(normals(7, 101)[..50], normals(7, 50)[..]);
    }

    #[test]
    fn it_is_standard_normal() {
        let values = normals(3, 100_000);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let moment = |k: i32| values.iter().map(|v| (f64::from(*v) - mean).powi(k)).sum::<f64>() / n;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.05, "skewness {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "kurtosis {}", moment(4));
    }
}
