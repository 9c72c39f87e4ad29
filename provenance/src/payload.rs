//! Payload bits to coded bits and back: a keyed check, then a tail-biting convolutional code with soft decisions.
//!
//! The code has constraint length 15 and rate 1/6, with the generators that the Cassini mission flew; its register
//! begins where it ends, so that no bits are spent on ending it. It is decoded by Viterbi's algorithm run around the
//! ring until paths close (Shao, Lin and Fossorier, "Two decoding algorithms for tailbiting codes", 2003).

use crate::Key;

/// Bits of the keyed check: an unmarked picture passes it once in 2^40 tries.
pub const CHECK_BITS: u32 = 40;
const WORD_BYTES: usize = 8 + CHECK_BITS as usize / 8;
const STEPS: usize = WORD_BYTES * 8;
const MEMORY: usize = 14;
const STATES: usize = 1 << MEMORY;
const GENERATORS: [u32; 6] = [0o46321, 0o51271, 0o63667, 0o70535, 0o73277, 0o76513];
/// Times around the ring at most.
const ROUNDS: usize = 3;
/// States at the end of a round whose paths are looked at.
const ENDS: usize = 512;

/// Coded bits of one mark.
pub(crate) const CODED_BITS: usize = STEPS * GENERATORS.len();

/// What a code word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) payload: [u8; 8],
    /// Leading bits of the check that agree with the payload.
    pub(crate) check: u32,
}

impl Decoded {
    /// Whether the whole check agrees.
    pub(crate) fn holds(self) -> bool {
        self.check == CHECK_BITS
    }
}

/// The payload with its check.
fn word(payload: [u8; 8], key: &Key) -> [u8; WORD_BYTES] {
    let mut word = [0; WORD_BYTES];
    word[..8].copy_from_slice(&payload);
    word[8..].copy_from_slice(&key.derive("check", &payload)[..WORD_BYTES - 8]);
    word
}

fn bit(word: &[u8; WORD_BYTES], step: usize) -> usize {
    usize::from(word[step / 8] >> (7 - step % 8) & 1)
}

/// The coded bits of `payload` under `key`, each 1 or -1.
pub(crate) fn encode(payload: [u8; 8], key: &Key) -> [f32; CODED_BITS] {
    let mut coded = [0.0; CODED_BITS];
    let word = word(payload, key);
    let mut register = (STEPS - MEMORY..STEPS).fold(0, |register, step| register << 1 | bit(&word, step));
    for (step, out) in coded.chunks_exact_mut(GENERATORS.len()).enumerate() {
        register = (register << 1 | bit(&word, step)) & (2 * STATES - 1);
        for (place, out) in out.iter_mut().enumerate() {
            *out = if outputs(register) >> place & 1 == 1 { 1.0 } else { -1.0 };
        }
    }
    coded
}

/// The coded bits that the register, newest bit lowest, puts out: bit n is generator n's.
fn outputs(register: usize) -> usize {
    let parity = |generator: u32| (register & generator as usize).count_ones() as usize % 2;
    GENERATORS.iter().enumerate().map(|(place, generator)| parity(*generator) << place).sum()
}

/// The payload whose coded bits fit `soft` best, and how much of its check under `key` agrees.
pub(crate) fn decode(soft: &[f32; CODED_BITS], key: &Key) -> Decoded {
    let found = viterbi(soft);
    let payload = found[..8].try_into().expect("a word begins with eight payload bytes");
    let differing: Vec<u8> = word(payload, key)[8..].iter().zip(&found[8..]).map(|(a, b)| a ^ b).collect();
    let check = differing
        .iter()
        .position(|byte| *byte != 0)
        .map_or(CHECK_BITS, |byte| byte as u32 * 8 + differing[byte].leading_zeros());
    Decoded { payload, check }
}

/// For each register whose oldest and newest bits are zero, by its other bits, what it puts out.
///
/// Every generator has both its outermost taps, so the other three registers of a butterfly put out the same or the
/// complement.
fn butterflies() -> &'static [u8; STATES / 2] {
    static OUTPUTS: std::sync::LazyLock<Box<[u8; STATES / 2]>> = std::sync::LazyLock::new(|| {
        let outputs: Vec<u8> = (0..STATES / 2).map(|state| outputs(state << 1) as u8).collect();
        outputs.into_boxed_slice().try_into().expect("as many as were made")
    });
    &OUTPUTS
}

/// A step of Viterbi's algorithm: the best metric of each state, and from where it was reached.
fn step(metrics: &[f32; STATES], next: &mut [f32; STATES], from_high: &mut [u8; STATES], soft: &[f32]) {
    let fits: [f32; 64] = std::array::from_fn(|outputs| {
        soft.iter()
            .enumerate()
            .map(|(place, soft)| if outputs >> place & 1 == 1 { *soft } else { -soft })
            .sum()
    });
    let (low, high) = metrics.split_at(STATES / 2);
    let targets = next.chunks_exact_mut(2).zip(from_high.chunks_exact_mut(2));
    for (((low, high), outputs), (next, from_high)) in low.iter().zip(high).zip(butterflies()).zip(targets) {
        let fit = fits[usize::from(*outputs) & 63];
        let (even, even_high) = (low + fit, high - fit);
        let (odd, odd_high) = (low - fit, high + fit);
        next[0] = even.max(even_high);
        next[1] = odd.max(odd_high);
        from_high[0] = u8::from(even_high > even);
        from_high[1] = u8::from(odd_high > odd);
    }
}

/// The most probable word: of the paths that end where they began, the one that fits best over one time around.
fn viterbi(soft: &[f32; CODED_BITS]) -> [u8; WORD_BYTES] {
    let mut metrics: Box<[f32; STATES]> = vec![0.0; STATES].try_into().expect("as many as were made");
    let mut next = metrics.clone();
    let mut history: Vec<[u8; STATES]> = vec![[0; STATES]; STEPS];
    for round in 0..ROUNDS {
        let first = metrics.clone();
        for (from_high, soft) in history.iter_mut().zip(soft.chunks_exact(GENERATORS.len())) {
            step(&metrics, &mut next, from_high, soft);
            std::mem::swap(&mut metrics, &mut next);
        }
        // Before the first time around, nothing speaks for any beginning.
        if round == 0 {
            continue;
        }
        let closed = ends(&metrics).into_iter().filter_map(|end| {
            let (word, start) = trace(&history, end);
            (start == end).then(|| (metrics[end] - first[start], word))
        });
        if let Some((_, word)) = closed.max_by(|a, b| a.0.total_cmp(&b.0)) {
            return word;
        }
    }
    // Nothing closes where there is no mark; what is read there does not matter.
    trace(&history, 0).0
}

/// The states that are most probably the last of a round. The newest bits of the best one are decided by few coded bits
/// and may be wrong, so its path alone may not close.
fn ends(metrics: &[f32; STATES]) -> Vec<usize> {
    let mut states: Vec<usize> = (0..STATES).collect();
    states.select_nth_unstable_by(ENDS, |a, b| metrics[*b].total_cmp(&metrics[*a]));
    states.truncate(ENDS);
    states
}

/// The way back from `end`: the bits, and the state that it began in.
fn trace(history: &[[u8; STATES]], end: usize) -> ([u8; WORD_BYTES], usize) {
    let mut word = [0u8; WORD_BYTES];
    let mut state = end;
    for (step, from_high) in history.iter().enumerate().rev() {
        word[step / 8] |= ((state & 1) as u8) << (7 - step % 8);
        state = state >> 1 | usize::from(from_high[state]) << (MEMORY - 1);
    }
    (word, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(seed: u64) -> [u8; 8] {
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
    }

    #[test]
    fn words_come_back_through_wrong_bits() {
        let key = Key::development();
        for seed in 0..20u64 {
            let mut soft = encode(payload(seed), &key);
            for (index, bit) in soft.iter_mut().enumerate() {
                if (index as u64 * 7 + seed).is_multiple_of(6) {
                    *bit = -*bit;
                }
            }
            let decoded = decode(&soft, &key);
            assert_eq!(decoded.payload, payload(seed));
            assert!(decoded.holds());
        }
    }

    #[test]
    fn words_come_back_through_noise() {
        let key = Key::development();
        let mut random = crate::key::Stream::new([5; 32]);
        // The sum of twelve even distributions is nearly normal, with deviation 1.
        let mut noise =
            || (0..12).map(|_| random.below(1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0;
        for seed in 0..60 {
            // 1.8 dB for each bit of the word; Shannon's limit is -1.6 dB.
            let soft = encode(payload(seed), &key).map(|bit| bit * 0.5f32.sqrt() + noise());
            assert!(decode(&soft, &key).holds(), "word {seed}");
        }
    }

    #[test]
    fn another_key_or_silence_fails_the_check() {
        let key = Key::development();
        let other = Key::from_hex("other", &"5a".repeat(32)).unwrap();
        assert!(!decode(&encode([7; 8], &key), &other).holds());
        assert!(!decode(&[0.0; CODED_BITS], &key).holds());
    }

    #[test]
    fn the_check_agrees_by_leading_bits() {
        let key = Key::development();
        // Of noise, half of the words agree in the first bit, a quarter in two, and so on.
        let mut random = crate::key::Stream::new([3; 32]);
        let agreed: Vec<u32> = (0..200)
            .map(|_| {
                let soft = std::array::from_fn(|_| random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0);
                decode(&soft, &key).check
            })
            .collect();
        let passing = |bits: u32| agreed.iter().filter(|check| **check >= bits).count();
        assert!((70..=130).contains(&passing(1)), "{}", passing(1));
        assert!((25..=75).contains(&passing(2)), "{}", passing(2));
        assert!(passing(12) <= 2, "{}", passing(12));
    }

    #[test]
    fn butterflies_hold_for_every_register() {
        for state in 0..STATES / 2 {
            let outputs_of = usize::from(butterflies()[state]);
            for (register, complement) in [
                (state << 1, false),
                (state << 1 | 1, true),
                (state << 1 | STATES, true),
                (state << 1 | 1 | STATES, false),
            ] {
                assert_eq!(outputs(register), if complement { outputs_of ^ 63 } else { outputs_of });
            }
        }
    }
}
