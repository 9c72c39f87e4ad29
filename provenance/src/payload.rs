//! 64 bits to what the picture carries, and back: a keyed check, then a convolutional code.
//!
//! The code has rate 1/4 and constraint length 9 with the generators 463, 535, 733 and 745 (octal), free
//! distance 24, the best of its size: J. G. Proakis, "Digital Communications", table of maximum free distance codes.
//! It begins and ends in the zero state and is decoded by the Viterbi algorithm on soft values.

use crate::Key;

/// Bytes of the keyed check: a word that no key wrote passes with probability 2^-48.
const CHECK_BYTES: usize = 6;
const PAYLOAD_BYTES: usize = 8;
const GENERATORS: [u32; 4] = [0o463, 0o535, 0o733, 0o745];
const MEMORY: usize = 8;
const STATES: usize = 1 << MEMORY;
const STEPS: usize = (PAYLOAD_BYTES + CHECK_BYTES) * 8 + MEMORY;
/// Bits that the picture carries.
pub(crate) const CODED_BITS: usize = STEPS * GENERATORS.len();

/// The coded bits of `payload` as signs.
pub(crate) fn encode(payload: [u8; PAYLOAD_BYTES], key: &Key) -> [f32; CODED_BITS] {
    let mut word = [0; PAYLOAD_BYTES + CHECK_BYTES];
    word[..PAYLOAD_BYTES].copy_from_slice(&payload);
    word[PAYLOAD_BYTES..].copy_from_slice(&check(payload, key));
    encode_word(&word)
}

/// The likeliest payload behind `soft` (positive for a coded 1, larger when surer) and its coded bits, when the
/// check holds.
pub(crate) fn decode(
    soft: &[f32; CODED_BITS],
    key: &Key,
) -> Option<([u8; PAYLOAD_BYTES], [f32; CODED_BITS])> {
    let word = likeliest_word(soft);
    let payload: [u8; PAYLOAD_BYTES] =
        word[..PAYLOAD_BYTES].try_into().expect("a word begins with its payload");
    (word[PAYLOAD_BYTES..] == check(payload, key)).then(|| (payload, encode_word(&word)))
}

fn check(payload: [u8; PAYLOAD_BYTES], key: &Key) -> [u8; CHECK_BYTES] {
    let mac = key.derive("watermark 1 check", &payload);
    mac[..CHECK_BYTES].try_into().expect("a digest is longer than the check")
}

fn encode_word(word: &[u8; PAYLOAD_BYTES + CHECK_BYTES]) -> [f32; CODED_BITS] {
    let mut coded = [0.0; CODED_BITS];
    let mut state = 0;
    for (step, out) in coded.chunks_exact_mut(GENERATORS.len()).enumerate() {
        let bit = word.get(step / 8).map_or(0, |byte| u32::from(byte >> (7 - step % 8) & 1));
        out.copy_from_slice(&branch(state, bit));
        state = next(state, bit);
    }
    coded
}

/// The signs that leaving `state` with `bit` sends out.
fn branch(state: usize, bit: u32) -> [f32; 4] {
    let register = bit << MEMORY | state as u32;
    GENERATORS.map(|generator| if (register & generator).count_ones() % 2 == 1 { 1.0 } else { -1.0 })
}

/// The newest bit enters at the top of the state.
const fn next(state: usize, bit: u32) -> usize {
    (state >> 1) | (bit as usize) << (MEMORY - 1)
}

fn likeliest_word(soft: &[f32; CODED_BITS]) -> [u8; PAYLOAD_BYTES + CHECK_BYTES] {
    let branches: Vec<[[f32; 4]; 2]> =
        (0..STATES).map(|state| [branch(state, 0), branch(state, 1)]).collect();
    let mut metrics = [f32::NEG_INFINITY; STATES];
    metrics[0] = 0.0;
    // For each step and state, the lowest bit of the state it was reached from.
    let mut survivors = vec![[false; STATES]; STEPS];
    for (received, survivor) in soft.chunks_exact(GENERATORS.len()).zip(&mut survivors) {
        let reach = |from: usize, bit: usize| {
            let agreement: f32 =
                branches[from][bit].iter().zip(received).map(|(sign, value)| sign * value).sum();
            metrics[from] + agreement
        };
        let mut reached = [0.0; STATES];
        for (to, metric) in reached.iter_mut().enumerate() {
            let bit = to >> (MEMORY - 1);
            let even = to << 1 & (STATES - 1);
            let (by_even, by_odd) = (reach(even, bit), reach(even | 1, bit));
            survivor[to] = by_odd > by_even;
            *metric = by_even.max(by_odd);
        }
        metrics = reached;
    }
    let mut word = [0; PAYLOAD_BYTES + CHECK_BYTES];
    let mut state = 0;
    for (step, survivor) in survivors.iter().enumerate().rev() {
        if let Some(byte) = word.get_mut(step / 8) {
            *byte |= ((state >> (MEMORY - 1)) as u8) << (7 - step % 8);
        }
        state = state << 1 & (STATES - 1) | usize::from(survivor[state]);
    }
    word
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Stream;

    #[test]
    fn a_word_is_what_it_was() {
        // Fixes the format: the check, the order of bits, the generators.
        let coded = encode(*b"kraftr!!", &Key::development());
        let ones: usize = coded.iter().filter(|sign| **sign > 0.0).count();
        let start: String = coded[..24].iter().map(|sign| if *sign > 0.0 { '1' } else { '0' }).collect();
        assert_eq!((start.as_str(), ones), ("000011111011111000101111", 0), "fix me");
    }

    proptest! {
        #[test]
        fn survives_noise_and_erasures(payload: [u8; 8], seed: [u8; 32]) {
            let key = Key::development();
            let coded = encode(payload, &key);
            let mut stream = Stream::new(seed);
            // A third lost, a tenth of the rest wrong.
            let soft = coded.map(|sign| match stream.below(30) {
                0..10 => 0.0,
                10..12 => -sign,
                _ => sign,
            });
            prop_assert_eq!(decode(&soft, &key), Some((payload, coded)));
        }

        #[test]
        fn noise_alone_never_passes(seed: [u8; 32]) {
            let mut stream = Stream::new(seed);
            let soft = [(); CODED_BITS].map(|()| stream.next_u32() as f32 - 2.0f32.powi(31));
            prop_assert_eq!(decode(&soft, &Key::development()), None);
        }

        #[test]
        fn another_key_never_passes(payload: [u8; 8], secret: [u8; 32]) {
            let other = Key::from_hex("other", &hex::encode(secret)).unwrap();
            prop_assert_eq!(decode(&encode(payload, &Key::development()), &other), None);
        }
    }
}
