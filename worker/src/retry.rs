//! Waiting between two tries of something that may work later.

use std::time::Duration;

/// Pauses with full jitter: each is drawn between nothing and a ceiling that doubles, so that
/// workers that failed together do not come back together.
pub(crate) struct Backoff {
    left: u32,
    ceiling: Duration,
    state: u64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// Allows `retries` pauses; `seed` tells the pauses of different askers apart.
    pub(crate) fn new(retries: u32, seed: u64) -> Self {
        Self { left: retries, ceiling: Self::FIRST, state: seed }
    }

    /// Waits for the next try; false when there is none left.
    pub(crate) async fn wait(&mut self) -> bool {
        match self.pause() {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }

    fn pause(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(Self::LONGEST);
        // The upper 53 bits fill a float's fraction: a number in 0..1.
        let fraction = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        Some(ceiling.mul_f64(fraction))
    }

    /// `SplitMix64` (Steele, Lea and Flood 2014).
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_under_a_doubling_ceiling_and_end() {
        let mut backoff = Backoff::new(12, 7);
        let pauses: Vec<Duration> = std::iter::from_fn(|| backoff.pause()).collect();
        assert_eq!(pauses.len(), 12);
        for (n, pause) in pauses.iter().enumerate() {
            let ceiling = (Backoff::FIRST * (1 << n)).min(Backoff::LONGEST);
            assert!(*pause < ceiling, "pause {n} is {pause:?}");
        }
        assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(1)), "{pauses:?}");
    }

    #[test]
    fn askers_draw_different_pauses() {
        let first = |seed| Backoff::new(1, seed).pause();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn known_vector_of_splitmix64() {
        let mut backoff = Backoff::new(0, 1_234_567);
        assert_eq!(backoff.draw(), 6_457_827_717_110_365_317);
        assert_eq!(backoff.draw(), 3_203_168_211_198_807_973);
    }
}
