//! What was read off pictures, kept for the next render with the same picture.

use std::sync::{Mutex, PoisonError};

use kraftr_models::{Model, Reading, Role};
use kraftr_protocol::Digest;
use lru::LruCache;

/// Bytes of readings that are kept.
pub(super) const BYTES_MAX: usize = 256 << 20;

/// A picture, what it is in a render, and the release that read it.
type Key = (String, Digest, Role);

/// The readings used last, as many as have room.
pub(super) struct Readings {
    kept: Mutex<Kept>,
    bytes_max: usize,
}

struct Kept {
    readings: LruCache<Key, Reading>,
    bytes: usize,
}

impl Readings {
    /// Keeps at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let kept = Kept { readings: LruCache::unbounded(), bytes: 0 };
        Self { kept: Mutex::new(kept), bytes_max }
    }

    /// What `model` has read off the picture of that digest, where it is still there.
    pub(super) fn get(&self, model: &Model, picture: Digest, role: Role) -> Option<Reading> {
        self.lock().readings.get(&key(model, picture, role)).cloned()
    }

    /// Keeps what `model` has read off the picture of that digest.
    pub(super) fn keep(&self, model: &Model, picture: Digest, role: Role, reading: Reading) {
        let mut kept = self.lock();
        kept.bytes += reading.bytes();
        if let Some((_, replaced)) = kept.readings.push(key(model, picture, role), reading) {
            kept.bytes -= replaced.bytes();
        }
        while kept.bytes > self.bytes_max {
            let Some((_, oldest)) = kept.readings.pop_lru() else { break };
            kept.bytes -= oldest.bytes();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(model: &Model, picture: Digest, role: Role) -> Key {
    (model.manifest().name.clone(), picture, role)
}

#[cfg(test)]
mod tests {
    use kraftr_models::{Device, Registry, RgbImage};
    use kraftr_protocol::GarmentPhoto;

    use super::*;

    fn read(model: &Model, role: Role) -> Reading {
        model.read(&RgbImage::new(96, 144), role).unwrap()
    }

    #[test]
    fn a_picture_is_kept_in_each_role() {
        let model = Registry::bundled().load("demo-tryon", &Device::Cpu).unwrap();
        let (readings, picture) = (Readings::new(1 << 20), Digest::of(b"one"));
        let roles = [Role::Person, Role::Garment(GarmentPhoto::FlatLay), Role::Garment(GarmentPhoto::Model)];
        let kept = |picture| roles.map(|role| readings.get(&model, picture, role).is_some());
        assert_eq!(kept(picture), [false; 3]);
        readings.keep(&model, picture, roles[1], read(&model, roles[1]));
        assert_eq!(kept(picture), [false, true, false]);
        assert_eq!(kept(Digest::of(b"two")), [false; 3]);
        readings.keep(&model, picture, roles[1], read(&model, roles[1]));
        assert_eq!(readings.lock().bytes, read(&model, roles[1]).bytes(), "twice is once");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let model = Registry::bundled().load("demo-tryon", &Device::Cpu).unwrap();
        let reading = read(&model, Role::Person);
        let readings = Readings::new(2 * reading.bytes());
        let picture = |n: u8| Digest::of(&[n]);
        let keep = |n| readings.keep(&model, picture(n), Role::Person, reading.clone());
        let has = |n| readings.get(&model, picture(n), Role::Person).is_some();
        (1..=2).for_each(keep);
        assert!(has(1), "and is used again by this");
        keep(3);
        assert_eq!([1, 2, 3].map(has), [true, false, true]);
        assert_eq!(readings.lock().bytes, 2 * reading.bytes());
    }
}
