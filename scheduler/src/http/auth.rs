//! API keys: `Authorization: Bearer krf_…`. A key's secret is shown once; only its SHA-256 is kept.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use kraftr_protocol::{ApiKeyId, Digest, Ids, OrgId};

use super::Api;
use super::problem::{Code, Problem};

/// What every key starts with, so that secret scanners find it.
const PREFIX: &str = "krf_";
/// Random bytes of a key: too many to guess, so a fast digest is enough.
const SECRET_BYTES: usize = 32;

/// A new key's secret and the digest to keep.
pub fn new_secret(ids: &dyn Ids) -> (String, Digest) {
    let mut random = [0; SECRET_BYTES];
    ids.fill(&mut random);
    let secret = format!("{PREFIX}{}", hex::encode(random));
    let digest = Digest::of(secret.as_bytes());
    (secret, digest)
}

/// Who sent the request.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Whose data it may see.
    pub org: OrgId,
    /// With which key.
    pub key: ApiKeyId,
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let secret = bearer(&parts.headers)?;
        let found = api.app.store.key_by_secret(Digest::of(secret.as_bytes())).await?;
        let Some(key) = found else {
            return Err(refusal(
                Code::ApiKeyUnknown,
                "this key is not known; use a key of this installation",
            ));
        };
        if key.revoked_at.is_some() {
            return Err(refusal(Code::ApiKeyRevoked, "this key was revoked; make a new one and use that"));
        }
        Ok(Self { org: key.org, key: key.id })
    }
}

/// The secret in the Authorization header.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(refusal(Code::ApiKeyMissing, "send the header `Authorization: Bearer krf_…`"));
    };
    let secret = value.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, rest)| {
        let secret = rest.trim();
        (scheme.eq_ignore_ascii_case("bearer") && is_secret(secret)).then_some(secret)
    });
    match (secret, values.next()) {
        (Some(secret), None) => Ok(secret),
        _ => Err(refusal(
            Code::ApiKeyMalformed,
            "expected `Bearer`, a space and the key as it was shown: krf_ and 64 hexadecimal digits",
        )),
    }
}

fn is_secret(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == 2 * SECRET_BYTES
            && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// RFC 6750: a request without a key learns only the scheme, one with a bad key also the error.
fn refusal(code: Code, message: &str) -> Problem {
    let challenge = match code {
        Code::ApiKeyMissing => "Bearer realm=\"kraftr\"",
        _ => "Bearer realm=\"kraftr\", error=\"invalid_token\"",
    };
    Problem::field(code, "Authorization", message)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededIds;

    fn code(values: &[&str]) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        bearer(&headers).map(str::to_owned).map_err(|problem| problem.code())
    }

    #[test]
    fn a_key_is_recognised_by_its_form() {
        let (secret, digest) = new_secret(&SeededIds::new(1));
        assert_eq!(digest, Digest::of(secret.as_bytes()));
        assert_eq!(code(&[&format!("Bearer {secret}")]), Ok(secret.clone()));
        assert_eq!(code(&[&format!("bearer   {secret} ")]), Ok(secret.clone()));
        assert_eq!(code(&[]), Err(Code::ApiKeyMissing));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Basic dXNlcjpwYXNz",
            &secret,
            &format!("Bearer{secret}"),
            &format!("Bearer {secret}0"),
            &format!("Bearer {} ", secret.to_uppercase()),
        ] {
            assert_eq!(code(&[wrong]), Err(Code::ApiKeyMalformed), "{wrong:?}");
        }
        let twice = format!("Bearer {secret}");
        assert_eq!(code(&[&twice, &twice]), Err(Code::ApiKeyMalformed));
    }

    #[test]
    fn two_secrets_differ() {
        let ids = SeededIds::new(1);
        assert_ne!(new_secret(&ids).0, new_secret(&ids).0);
    }
}
