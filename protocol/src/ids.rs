//! Identifiers: a prefix, an underscore and a `UUIDv7` in Crockford base32, as the `TypeID`
//! specification (v0.3) writes them: `rnd_01h2xcejqtf2nbrexx3vqjhp41`.
//!
//! New ids are made by the injected [`Ids`](crate::Ids), never here, so that a simulation can own them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five, the first group holding only three.
const ENCODED_LEN: usize = 26;

/// Why a text is not an id of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ followed by 26 characters of lower-case Crockford base32")]
pub struct IdError {
    /// The prefix that the kind of id has.
    pub prefix: &'static str,
}

fn encode(uuid: Uuid) -> String {
    let bits = uuid.as_u128();
    (0..ENCODED_LEN).rev().map(|group| char::from(ALPHABET[(bits >> (5 * group)) as usize & 31])).collect()
}

fn decode(text: &str) -> Option<Uuid> {
    if text.len() != ENCODED_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes()
        .try_fold(0u128, |bits, byte| {
            let value = ALPHABET.iter().position(|&letter| letter == byte)?;
            Some(bits << 5 | value as u128)
        })
        .map(Uuid::from_u128)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(IdError { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$")))
                    .build()
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
    };
}

id!(
    /// A tenant: who owns keys, assets, renders and credits.
    OrgId, "org"
);
id!(
    /// An API key; the id is public, the secret is shown once.
    ApiKeyId, "key"
);
id!(
    /// An uploaded input image.
    AssetId, "ast"
);
id!(
    /// One request for 1 to 4 output images.
    RenderId, "rnd"
);
id!(
    /// Many renders of one request.
    BatchId, "bat"
);
id!(
    /// An output file.
    ArtifactId, "art"
);
id!(
    /// A line of an org's ledger.
    EntryId, "ent"
);
id!(
    /// A worker process, new at every start.
    WorkerId, "wrk"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vector_of_the_specification() {
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(encode(uuid), "01h455vb4pex5vsknk084sn02q");
        assert_eq!(decode("01h455vb4pex5vsknk084sn02q"), Some(uuid));
    }

    #[test]
    fn text_that_is_not_an_id_is_refused() {
        for text in [
            "",
            "rnd_",
            "rnd_01h455vb4pex5vsknk084sn02",
            "rnd_81h455vb4pex5vsknk084sn02q",
            "rnd_01H455VB4PEX5VSKNK084SN02Q",
            "ast_01h455vb4pex5vsknk084sn02q",
            "rnd_01h455vb4pex5vsknk084sn02é",
            "rnd_01h455vb4pex5vsknk084sn02u",
        ] {
            assert_eq!(text.parse::<RenderId>(), Err(IdError { prefix: "rnd" }), "{text}");
        }
    }
}
