//! Secrets that marks are made and found with.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::KeyError;

/// Keys of one ring. The false-positive bound in README.md counts this many attempts.
pub const KEYS_MAX: usize = 16;
const ID_CHARS_MAX: usize = 32;

/// A watermark key. Who has the secret can read, forge and erase marks.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: String,
    secret: [u8; 32],
}

impl Key {
    /// A key from a name that may be shown and 64 hexadecimal digits that may not.
    pub fn from_hex(id: &str, secret: &str) -> Result<Self, KeyError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if !(1..=ID_CHARS_MAX).contains(&id.len()) || !id.chars().all(allowed) {
            return Err(KeyError::Id);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| KeyError::Secret)?;
        Ok(Self { id: id.to_owned(), secret: bytes })
    }

    /// The built-in key `dev` for demonstrations and tests: it is public, so its marks prove nothing.
    pub fn development() -> Self {
        Self { id: "dev".to_owned(), secret: Sha256::digest(b"kraftr development watermark key").into() }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// 32 bytes for one `purpose` over `data`, which tell nothing about the secret or about other purposes.
    pub(crate) fn derive(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(data);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("secret", &"***").finish()
    }
}

/// Keys by age, newest first: the first embeds, all are tried on detection, so that pictures marked before a
/// rotation are still found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// A ring of 1 to [`KEYS_MAX`] keys with different names.
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        if keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany { keys: keys.len(), max: KEYS_MAX });
        }
        for (n, key) in keys.iter().enumerate() {
            if keys[..n].iter().any(|earlier| earlier.id == key.id) {
                return Err(KeyError::Duplicate { id: key.id.clone() });
            }
        }
        Ok(Self(keys))
    }

    /// Only [`Key::development`].
    pub fn development() -> Self {
        Self(vec![Key::development()])
    }

    /// A ring of one key.
    pub(crate) fn only(key: &Key) -> Self {
        Self(vec![key.clone()])
    }

    /// The key to embed with.
    pub fn first(&self) -> &Key {
        self.0.first().expect("a ring has a key")
    }

    /// All keys, the embedding one first.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.0
    }
}

/// A stream of keyed random numbers: SHA-256 in counter mode over a derived seed. It is part of the mark's format,
/// so it must never change with a library's version.
pub(crate) struct Stream {
    seed: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Stream {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0, block: [0; 32], used: 32 }
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.used == self.block.len() {
            let mut hash = Sha256::new();
            hash.update(self.seed);
            hash.update(self.counter.to_le_bytes());
            self.block = hash.finalize().into();
            self.counter += 1;
            self.used = 0;
        }
        let bytes = &self.block[self.used..self.used + 4];
        self.used += 4;
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    /// A number below `bound`, uniform but for 2^-32 of `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// A uniform permutation (Fisher and Yates).
    pub(crate) fn shuffle(&mut self, items: &mut [u16]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let key = Key::from_hex("2026-11", &"ab".repeat(32)).unwrap();
        assert_eq!(format!("{key:?}"), r#"Key { id: "2026-11", secret: "***" }"#);
        assert!(!format!("{:?}", KeyRing::development()).contains("[1"), "nor the one inside a ring");
    }

    #[test]
    fn keys_are_checked() {
        let hex = "0f".repeat(32);
        assert!(Key::from_hex("a-b_9", &hex).is_ok());
        for id in ["", "Großbuchstabe", "a b", &"a".repeat(33)] {
            assert_eq!(Key::from_hex(id, &hex), Err(KeyError::Id), "{id:?}");
        }
        for secret in ["", "0f", &hex[..63], &"zz".repeat(32), &"0f".repeat(33)] {
            assert_eq!(Key::from_hex("k", secret), Err(KeyError::Secret), "{secret:?}");
        }
    }

    #[test]
    fn rings_are_checked() {
        let key = |n: usize| Key::from_hex(&format!("k{n}"), &format!("{n:064x}")).unwrap();
        assert_eq!(KeyRing::new(vec![]), Err(KeyError::Empty));
        assert_eq!(KeyRing::new(vec![key(1), key(2), key(1)]), Err(KeyError::Duplicate { id: "k1".into() }));
        let many: Vec<_> = (0..=KEYS_MAX).map(key).collect();
        assert_eq!(KeyRing::new(many.clone()), Err(KeyError::TooMany { keys: KEYS_MAX + 1, max: KEYS_MAX }));
        assert_eq!(KeyRing::new(many[1..].to_vec()).unwrap().first(), &key(1));
    }

    #[test]
    fn the_stream_is_part_of_the_format() {
        let mut stream = Stream::new([7; 32]);
        let drawn: Vec<u32> = (0..10).map(|_| stream.next_u32()).collect();
        let block = |counter: u64| -> [u8; 32] {
            Sha256::digest([&[7; 32][..], &counter.to_le_bytes()].concat()).into()
        };
        let bytes: Vec<u8> = [block(0), block(1)].concat()[..40].to_vec();
        assert_eq!(drawn.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn shuffles_are_permutations() {
        let mut items: Vec<u16> = (0..480).collect();
        Stream::new([1; 32]).shuffle(&mut items);
        assert!(items.iter().enumerate().filter(|(n, item)| *n == usize::from(**item)).count() < 10);
        items.sort_unstable();
        assert!(items.iter().enumerate().all(|(n, item)| n == usize::from(*item)));
    }
}
