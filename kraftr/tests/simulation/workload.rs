//! What is asked for, and what must come of it.
//!
//! A render's `seed` is a reversible permutation of its index, so that a simulated worker, which sees
//! only the spec, and the auditor, which sees only the request, both know what is to happen to it.

use kraftr_protocol::FailureCode;

/// What happens to a render when nobody cancels it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destiny {
    /// Every image arrives.
    Whole,
    /// Only the first image arrives.
    Part,
    /// Every worker fails at it, and another could not do better.
    Permanent,
    /// Every worker fails at it, and another might have done better.
    Retryable,
    /// It takes every engine down.
    Crash,
}

/// Odd, so that multiplying by it modulo a power of two is reversible.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const MASK: u64 = (1 << 53) - 1;

/// The seed of the render with that index.
pub(crate) fn seed_of(index: u64) -> u64 {
    index.wrapping_mul(FACTOR) & MASK
}

/// The index behind a seed.
pub(crate) fn index_of(seed: u64) -> u64 {
    // Newton's iteration for the inverse of an odd number modulo 2^64.
    let mut inverse: u64 = 1;
    for _ in 0..6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
    }
    seed.wrapping_mul(inverse) & MASK
}

impl Destiny {
    /// What happens to the render with that seed.
    pub(crate) fn of(seed: u64) -> Self {
        match index_of(seed) % 16 {
            12 => Self::Part,
            13 => Self::Permanent,
            14 => Self::Retryable,
            15 => Self::Crash,
            _ => Self::Whole,
        }
    }

    /// Images that arrive of `samples`.
    pub(crate) fn delivered(self, samples: u32) -> u32 {
        match self {
            Self::Whole => samples,
            Self::Part => 1,
            _ => 0,
        }
    }

    /// The code it fails with.
    pub(crate) fn failure(self) -> Option<FailureCode> {
        match self {
            Self::Whole | Self::Part => None,
            Self::Permanent => Some(FailureCode::InputInvalid),
            Self::Retryable => Some(FailureCode::ModelError),
            Self::Crash => Some(FailureCode::EngineCrash),
        }
    }
}

#[test]
fn seeds_are_a_permutation() {
    for index in (0..1_000).chain([MASK - 1, MASK]) {
        assert_eq!(index_of(seed_of(index)), index);
    }
}
