//! What a render asks for, after validation: everything a worker needs beside the pictures.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word used in JSON, SQL and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::spec::UnknownWord;

            fn from_str(word: &str) -> Result<Self, $crate::spec::UnknownWord> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|value| value.as_str() == word)
                    .ok_or_else(|| $crate::spec::UnknownWord { allowed: [$($word),+].join(", ") })
            }
        }

        // Written out: the derive does not see through a macro's literals and would show the variants' names.
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($word),+]))
                    .build()
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
    };
}

pub(crate) use words;

/// A word that is none of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: {allowed}")]
pub struct UnknownWord {
    /// The allowed words, separated by commas.
    pub allowed: String,
}

words!(
    /// Where on the body the garment is worn.
    Category {
        /// Upper body.
        Tops = "tops",
        /// Lower body.
        Bottoms = "bottoms",
        /// Dresses, overalls, jumpsuits.
        OnePieces = "one-pieces",
    }
);
words!(
    /// How the garment was photographed.
    GarmentPhoto {
        /// Lying or hanging, nobody in it.
        FlatLay = "flat-lay",
        /// Worn by somebody.
        Model = "model",
    }
);
words!(
    /// Time against fidelity; a release says how many steps each one means.
    Quality {
        /// A look.
        Fast = "fast",
        /// For everyday use.
        Balanced = "balanced",
        /// For the catalogue.
        Best = "best",
    }
);
words!(
    /// File format of the artifacts.
    Format {
        /// Lossless.
        Png = "png",
        /// Small.
        Jpeg = "jpeg",
        /// Lossless, smaller than PNG.
        Webp = "webp",
    }
);

impl Format {
    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// The file name's ending, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }
}

/// A validated request: a release, how to sample from it, and what comes out. The input pictures
/// travel beside it, as URLs of the claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenderSpec {
    /// Name of the release that runs it.
    pub release: String,
    /// Where the garment is worn.
    pub category: Category,
    /// How the garment was photographed.
    pub garment_photo: GarmentPhoto,
    /// What the caller chose; kept for the answer, `steps` is what counts.
    pub quality: Quality,
    /// Denoise steps.
    pub steps: u32,
    /// Classifier-free guidance; 1 means none.
    pub guidance: f64,
    /// Seed of the first sample's random stream; sample `n` uses `seed + n`.
    pub seed: u64,
    /// Images to make, 1 to 4.
    pub samples: u32,
    /// File format of the artifacts.
    pub format: Format,
}
