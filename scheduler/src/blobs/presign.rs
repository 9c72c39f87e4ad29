//! Short-lived links to objects that this API serves itself: an HMAC-SHA256 over everything a link allows.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use kraftr_protocol::Timestamp;
use sha2::Sha256;
use url::form_urlencoded;

use super::PutTerms;

/// What a link lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMethod {
    /// Read the object.
    Get,
    /// Store the object.
    Put,
}

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Its time is over.
    #[error("the link has expired; ask for a new one")]
    Expired,
    /// It was not made here, or not for this key, method and terms.
    #[error("the link's signature does not fit; use the link exactly as it was given, with its method")]
    Invalid,
}

/// Makes and checks links.
pub struct Signer {
    secret: [u8; 32],
}

impl Signer {
    /// A signer whose links only it can make.
    pub const fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The query of a link to `key` that is good until `ttl` after `now`.
    pub fn query(&self, key: &str, terms: Option<&PutTerms>, now: Timestamp, ttl: Duration) -> String {
        let expires = now.plus(ttl).0;
        let signature = self.mac(key, terms, expires).finalize().into_bytes();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("expires", &expires.to_string());
        if let Some(terms) = terms {
            query.append_pair("bytes", &terms.bytes.to_string());
            query.append_pair("sha256", &terms.sha256.to_string());
            query.append_pair("content_type", &terms.content_type);
        }
        query.append_pair("signature", &hex::encode(signature)).finish()
    }

    /// Checks a link's query: what may be put, for a link that puts.
    pub fn check(
        &self,
        method: LinkMethod,
        key: &str,
        query: &str,
        now: Timestamp,
    ) -> Result<Option<PutTerms>, LinkError> {
        let field = |name: &str| {
            let mut values = form_urlencoded::parse(query.as_bytes())
                .filter(|(other, _)| other == name)
                .map(|(_, value)| value);
            let first = values.next()?;
            values.next().is_none().then(|| first.into_owned())
        };
        let read = || -> Option<(i64, Vec<u8>, Option<PutTerms>)> {
            let terms = match method {
                LinkMethod::Get => None,
                LinkMethod::Put => Some(PutTerms {
                    sha256: field("sha256")?.parse().ok()?,
                    bytes: field("bytes")?.parse().ok()?,
                    content_type: field("content_type")?,
                }),
            };
            Some((field("expires")?.parse().ok()?, hex::decode(field("signature")?).ok()?, terms))
        };
        let (expires, signature, terms) = read().ok_or(LinkError::Invalid)?;
        // `verify_slice` compares in constant time.
        self.mac(key, terms.as_ref(), expires).verify_slice(&signature).map_err(|_| LinkError::Invalid)?;
        if now.0 >= expires { Err(LinkError::Expired) } else { Ok(terms) }
    }

    /// Every field goes in with its length, so that no two sets of fields sign alike.
    fn mac(&self, key: &str, terms: Option<&PutTerms>, expires: i64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        let mut field = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        };
        field(if terms.is_some() { b"PUT" } else { b"GET" });
        field(key.as_bytes());
        field(&expires.to_be_bytes());
        if let Some(terms) = terms {
            field(&terms.bytes.to_be_bytes());
            field(&terms.sha256.0);
            field(terms.content_type.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kraftr_protocol::Digest;

    const NOW: Timestamp = Timestamp(1_790_000_000_000_000);
    const TTL: Duration = Duration::from_mins(1);

    fn terms() -> PutTerms {
        PutTerms { sha256: Digest::of(b"abc"), bytes: 3, content_type: "image/png; a=&b".into() }
    }

    #[test]
    fn a_link_allows_what_it_was_made_for() {
        let signer = Signer::new([7; 32]);
        let get = signer.query("a/b", None, NOW, TTL);
        assert_eq!(signer.check(LinkMethod::Get, "a/b", &get, NOW), Ok(None));
        let put = signer.query("a/b", Some(&terms()), NOW, TTL);
        assert_eq!(signer.check(LinkMethod::Put, "a/b", &put, NOW), Ok(Some(terms())));
    }

    #[test]
    fn a_link_allows_nothing_else() {
        let signer = Signer::new([7; 32]);
        let get = signer.query("a/b", None, NOW, TTL);
        let put = signer.query("a/b", Some(&terms()), NOW, TTL);
        let refused = |method, key: &str, query: &str| signer.check(method, key, query, NOW).unwrap_err();
        assert_eq!(refused(LinkMethod::Get, "a/c", &get), LinkError::Invalid);
        assert_eq!(refused(LinkMethod::Put, "a/b", &get), LinkError::Invalid);
        assert_eq!(refused(LinkMethod::Get, "a/b", &put), LinkError::Invalid);
        assert_eq!(refused(LinkMethod::Put, "a/b", &put.replace("bytes=3", "bytes=4")), LinkError::Invalid);
        assert_eq!(
            refused(LinkMethod::Get, "a/b", &get.replace("expires=1", "expires=2")),
            LinkError::Invalid
        );
        assert_eq!(refused(LinkMethod::Get, "a/b", &format!("{get}&expires=9")), LinkError::Invalid);
        assert_eq!(refused(LinkMethod::Get, "a/b", ""), LinkError::Invalid);
        let other = Signer::new([8; 32]).check(LinkMethod::Get, "a/b", &get, NOW);
        assert_eq!(other, Err(LinkError::Invalid));
    }

    #[test]
    fn a_link_expires() {
        let signer = Signer::new([7; 32]);
        let get = signer.query("a/b", None, NOW, TTL);
        let just_before = NOW.plus(TTL).minus(Duration::from_micros(1));
        assert_eq!(signer.check(LinkMethod::Get, "a/b", &get, just_before), Ok(None));
        assert_eq!(signer.check(LinkMethod::Get, "a/b", &get, NOW.plus(TTL)), Err(LinkError::Expired));
    }
}
