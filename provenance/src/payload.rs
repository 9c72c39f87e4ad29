//! Payload bits to coded bits and back: a keyed check, then a convolutional code with soft decisions.
//!
//! The code is the rate 1/3, constraint length 7 one with generators 133, 171, 165 (octal; free distance
//! 15), ended by six zero bits, decoded by Viterbi's algorithm.

use crate::Key;

/// Bytes of the keyed check: an unmarked picture passes it once in 2^48 tries.
const CHECK_BYTES: usize = 6;
const WORD_BYTES: usize = 8 + CHECK_BYTES;
const MEMORY: usize = 6;
const STATES: usize = 1 << MEMORY;
const GENERATORS: [u32; 3] = [0o133, 0o171, 0o165];
const STEPS: usize = WORD_BYTES * 8 + MEMORY;

/// Coded bits of one mark.
pub(crate) const CODED_BITS: usize = STEPS * GENERATORS.len();

/// The payload with its check.
fn word(payload: [u8; 8], key: &Key) -> [u8; WORD_BYTES] {
    let mut word = [0; WORD_BYTES];
    word[..8].copy_from_slice(&payload);
    word[8..].copy_from_slice(&key.derive("check", &payload)[..CHECK_BYTES]);
    word
}

/// The coded bits of `payload` under `key`, each 1 or -1.
pub(crate) fn encode(payload: [u8; 8], key: &Key) -> [f32; CODED_BITS] {
    let mut coded = [0.0; CODED_BITS];
    let word = word(payload, key);
    let mut register = 0;
    for (step, out) in coded.chunks_exact_mut(GENERATORS.len()).enumerate() {
        let bit = word.get(step / 8).map_or(0, |byte| u32::from(byte >> (7 - step % 8) & 1));
        register = (register << 1 | bit) & (2 * STATES as u32 - 1);
        out.copy_from_slice(&outputs(register));
    }
    coded
}

/// The coded bits that the register, newest bit lowest, puts out.
fn outputs(register: u32) -> [f32; 3] {
    GENERATORS.map(|generator| if (register & generator).count_ones() % 2 == 1 { 1.0 } else { -1.0 })
}

/// The payload whose coded bits fit `soft` best, if its check under `key` holds.
pub(crate) fn decode(soft: &[f32; CODED_BITS], key: &Key) -> Option<[u8; 8]> {
    let found = viterbi(soft);
    let payload = found[..8].try_into().expect("a word begins with eight payload bytes");
    (word(payload, key) == found).then_some(payload)
}

fn viterbi(soft: &[f32; CODED_BITS]) -> [u8; WORD_BYTES] {
    let registers: Vec<[f32; 3]> = (0..STATES as u32 * 2).map(outputs).collect();
    let mut score = [f32::NEG_INFINITY; STATES];
    score[0] = 0.0;
    // Bit s of `left[step]` is the bit that left the register on the best way into state s.
    let mut left = [0u64; STEPS];
    for (step, received) in soft.chunks_exact(GENERATORS.len()).enumerate() {
        let mut next = [f32::NEG_INFINITY; STATES];
        let inputs = if step < WORD_BYTES * 8 { 2 } else { 1 };
        for (state, best) in next.iter_mut().enumerate().filter(|(state, _)| state % 2 < inputs) {
            for leaving in 0..2 {
                let register = leaving << MEMORY | state;
                let fit: f32 = registers[register].iter().zip(received).map(|(a, b)| a * b).sum();
                let total = score[register >> 1] + fit;
                if total > *best {
                    *best = total;
                    left[step] = left[step] & !(1 << state) | (leaving as u64) << state;
                }
            }
        }
        score = next;
    }
    let mut word = [0u8; WORD_BYTES];
    let mut state = 0usize;
    for step in (0..STEPS).rev() {
        if let Some(byte) = word.get_mut(step / 8) {
            *byte |= ((state & 1) as u8) << (7 - step % 8);
        }
        state = state >> 1 | ((left[step] >> state & 1) as usize) << (MEMORY - 1);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_through_wrong_bits() {
        let key = Key::development();
        for seed in 0..50u64 {
            let payload = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
            let mut soft = encode(payload, &key);
            for (index, bit) in soft.iter_mut().enumerate() {
                if (index as u64 * 7 + seed).is_multiple_of(8) {
                    *bit = -*bit;
                }
            }
            assert_eq!(decode(&soft, &key), Some(payload), "{seed}");
        }
    }

    #[test]
    fn another_key_or_silence_fails_the_check() {
        let key = Key::development();
        let other = Key::from_hex("other", &"5a".repeat(32)).unwrap();
        assert_eq!(decode(&encode([7; 8], &key), &other), None);
        assert_eq!(decode(&[0.0; CODED_BITS], &key), None);
    }

    #[test]
    fn the_first_outputs_are_the_generators() {
        // The impulse response of the code, from its definition: a one bit after zeros puts out the
        // generators' bits from the lowest on.
        let response: Vec<[f32; 3]> = (0..=MEMORY).map(|age| outputs(1 << age)).collect();
        for (age, response) in response.iter().enumerate() {
            for (generator, out) in GENERATORS.iter().zip(response) {
                assert_eq!(generator >> age & 1 == 1, *out > 0.0);
            }
        }
    }
}
