//! How often one address may ask for what costs much and needs no key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use kraftr_protocol::Timestamp;

/// Requests that an address may send in a burst.
const BURST: f64 = 10.0;
/// Requests a second that it may send in the long run.
const PER_SECOND: f64 = 0.5;
/// Requests of an address that are served at once: one that sends slowly must not take all the turns there are.
const AT_ONCE: u32 = 2;
/// Seconds after which an address that has so many may ask again.
const WAIT: u16 = 2;
/// Addresses that are remembered; when there are more, those that nothing is served for are forgotten all at once.
const ADDRESSES_MAX: usize = 10_000;
/// What proxies add the address to that they heard from.
const FORWARDED: &str = "x-forwarded-for";

type Buckets = Arc<Mutex<HashMap<Option<IpAddr>, Bucket>>>;

/// A bucket of tokens for each address.
#[derive(Debug, Default)]
pub(super) struct Rate(Buckets);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
    open: u32,
}

impl Bucket {
    fn at(self, now: Timestamp) -> Self {
        let seconds = (now.0 - self.at.0).max(0) as f64 / 1e6;
        Self { tokens: (self.tokens + seconds * PER_SECOND).min(BURST), at: now, ..self }
    }
}

/// A request that is served; the next one may come when it is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    buckets: Buckets,
    address: Option<IpAddr>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&self.address) {
            bucket.open -= 1;
        }
    }
}

impl Rate {
    /// Takes a token, or says after how many seconds to ask again.
    pub(super) fn take(&self, address: Option<IpAddr>, now: Timestamp) -> Result<Visit, u16> {
        let address = address.map(network);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| bucket.open > 0 || bucket.at(now).tokens < BURST);
            if buckets.len() >= ADDRESSES_MAX {
                // So many at once are a flood; what is bounded then is how many are served at a time.
                buckets.retain(|_, bucket| bucket.open > 0);
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { tokens: BURST, at: now, open: 0 });
        *bucket = bucket.at(now);
        if bucket.open >= AT_ONCE {
            return Err(WAIT);
        }
        if bucket.tokens < 1.0 {
            return Err(((1.0 - bucket.tokens) / PER_SECOND).ceil() as u16);
        }
        bucket.tokens -= 1.0;
        bucket.open += 1;
        Ok(Visit { buckets: Arc::clone(&self.0), address })
    }
}

/// Who asks, past `proxies` of ours: each adds to the end of a header whom it heard, whatever the client wrote there.
/// Where it did not, it is the proxy that asks.
pub(super) fn client(parts: &Parts, proxies: usize) -> Option<IpAddr> {
    let heard = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let place = proxies.checked_sub(1);
    let values = parts.headers.get_all(FORWARDED).iter().filter_map(|value| value.to_str().ok());
    let forwarded: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let said = place.and_then(|place| forwarded.iter().rev().nth(place));
    said.and_then(|text| address(text)).or(heard)
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
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
    use axum::http::Request;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_a_burst_and_then_a_pace() {
        let rate = Rate::default();
        let take =
            |text: &str, seconds: i64| rate.take(Some(ip(text)), Timestamp(seconds * 1_000_000)).map(drop);
        for _ in 0..10 {
            assert_eq!(take("192.0.2.1", 100), Ok(()));
        }
        assert_eq!(take("192.0.2.1", 100), Err(2));
        assert_eq!(take("::ffff:192.0.2.1", 101), Err(1));
        assert_eq!(take("192.0.2.2", 101), Ok(()));
        assert_eq!(take("192.0.2.1", 102), Ok(()));
        assert_eq!(take("192.0.2.1", 90), Err(2), "a clock that goes back gives nothing");
        for _ in 0..10 {
            assert_eq!(take("2001:db8::1", 100), Ok(()));
        }
        assert!(take("2001:db8::2", 100).is_err(), "the same network");
    }

    #[test]
    fn an_address_is_served_a_few_requests_at_once() {
        let rate = Rate::default();
        let take = |text: &str| rate.take(Some(ip(text)), Timestamp(0));
        let first = take("192.0.2.1").unwrap();
        let _second = take("192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").unwrap_err(), WAIT);
        assert!(take("192.0.2.2").is_ok());
        drop(first);
        assert!(take("192.0.2.1").is_ok(), "one of them has ended");
    }

    #[test]
    fn memory_is_bounded_and_what_is_served_is_not_forgotten() {
        let rate = Rate::default();
        let _served = [(); AT_ONCE as usize].map(|()| rate.take(None, Timestamp(0)).unwrap());
        for n in 0..2 * ADDRESSES_MAX as u32 {
            assert!(rate.take(Some(IpAddr::from(n.to_be_bytes())), Timestamp(0)).is_ok());
        }
        assert!(rate.0.lock().unwrap().len() <= ADDRESSES_MAX);
        assert_eq!(rate.take(None, Timestamp(0)).unwrap_err(), WAIT);
    }

    #[test]
    fn only_what_our_own_proxies_say_counts() {
        let peer = ConnectInfo("10.0.0.1:9".parse::<SocketAddr>().unwrap());
        let asked = |forwarded: &[&str], proxies: usize| {
            let mut request = Request::builder().extension(peer);
            for value in forwarded {
                request = request.header(FORWARDED, *value);
            }
            client(&request.body(()).unwrap().into_parts().0, proxies)
        };
        assert_eq!(asked(&["198.51.100.7"], 0), Some(ip("10.0.0.1")), "anybody can write a header");
        assert_eq!(asked(&["203.0.113.9, 198.51.100.7"], 1), Some(ip("198.51.100.7")));
        assert_eq!(asked(&["203.0.113.9", "198.51.100.7, 10.0.0.2"], 2), Some(ip("198.51.100.7")));
        assert_eq!(asked(&["[2001:db8::1]:4711"], 1), Some(ip("2001:db8::1")));
        for wrong in [&[][..], &["unknown"], &["198.51.100.7,"]] {
            assert_eq!(asked(wrong, 1), Some(ip("10.0.0.1")), "{wrong:?}");
        }
    }
}
