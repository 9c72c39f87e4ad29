//! How often one address may ask for what costs much and needs no key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use kraftr_protocol::Timestamp;

/// Requests that an address may send at once.
const BURST: f64 = 10.0;
/// Requests a second that it may send in the long run.
const PER_SECOND: f64 = 0.5;
/// Addresses that are remembered; when there are more the oldest are forgotten all at once.
const ADDRESSES_MAX: usize = 10_000;

/// A bucket of tokens for each address.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<HashMap<Option<IpAddr>, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    fn at(self, now: Timestamp) -> Self {
        let seconds = (now.0 - self.at.0).max(0) as f64 / 1e6;
        Self { tokens: (self.tokens + seconds * PER_SECOND).min(BURST), at: now }
    }
}

impl Rate {
    /// Takes a token, or says after how many seconds there will be one.
    pub(super) fn take(&self, address: Option<IpAddr>, now: Timestamp) -> Result<(), u16> {
        let address = address.map(network);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| bucket.at(now).tokens < BURST);
            if buckets.len() >= ADDRESSES_MAX {
                // So many at once are a flood; what is bounded then is how many are served at a time.
                buckets.clear();
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { tokens: BURST, at: now });
        *bucket = bucket.at(now);
        if bucket.tokens < 1.0 {
            return Err(((1.0 - bucket.tokens) / PER_SECOND).ceil() as u16);
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

/// Who has one address of version 6 has a network of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_a_pace() {
        let rate = Rate::default();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        for _ in 0..10 {
            assert_eq!(rate.take(address("192.0.2.1"), at(100)), Ok(()));
        }
        assert_eq!(rate.take(address("192.0.2.1"), at(100)), Err(2));
        assert_eq!(rate.take(address("::ffff:192.0.2.1"), at(101)), Err(1));
        assert_eq!(rate.take(address("192.0.2.2"), at(101)), Ok(()));
        assert_eq!(rate.take(address("192.0.2.1"), at(102)), Ok(()));
        assert_eq!(rate.take(address("192.0.2.1"), at(90)), Err(2), "a clock that goes back gives nothing");
        for _ in 0..10 {
            assert_eq!(rate.take(address("2001:db8::1"), at(100)), Ok(()));
        }
        assert!(rate.take(address("2001:db8::2"), at(100)).is_err(), "the same network");
    }

    #[test]
    fn memory_is_bounded() {
        let rate = Rate::default();
        for n in 0..2 * ADDRESSES_MAX as u32 {
            assert_eq!(rate.take(Some(IpAddr::from(n.to_be_bytes())), Timestamp(0)), Ok(()));
        }
        assert!(rate.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
