//! What a render asks for, after validation: everything a worker needs beside the pictures.

use std::fmt;

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

/// What a caller wrote for a model to read. It is content: it goes into no log, so its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Prompt(String);

impl Prompt {
    /// Takes the words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Puts the subject of a try-on in front of a background that is painted after a description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SceneSpec {
    /// Name of the text-to-image release that paints it.
    pub release: String,
    /// What is to be seen.
    pub prompt: Prompt,
    /// Denoise steps of the painting, after those of the try-on.
    pub steps: u32,
    /// Classifier-free guidance of the painting; 1 means none.
    pub guidance: f64,
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
    /// What the subject is put in front of; the background of the person's picture when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scene: Option<SceneSpec>,
}

impl RenderSpec {
    /// Denoise steps of all stages together: what progress counts.
    pub fn steps_total(&self) -> u32 {
        self.steps + self.scene.as_ref().map_or(0, |scene| scene.steps)
    }

    /// What a worker must have loaded to run it: the release of its lane.
    pub fn runs_on(&self) -> String {
        match &self.scene {
            Some(scene) => with_scene(&self.release, &scene.release),
            None => self.release.clone(),
        }
    }
}

/// The lane's release of renders that need a try-on release and the one that paints their scenes. No release's own name
/// has a plus sign.
pub fn with_scene(release: &str, painter: &str) -> String {
    format!("{release}+{painter}")
}

/// A lane's release as the try-on release and the one that paints its scenes, where it names one.
pub fn releases_of(runs_on: &str) -> (&str, Option<&str>) {
    match runs_on.split_once('+') {
        Some((release, painter)) => (release, Some(painter)),
        None => (runs_on, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED_WITHOUT_SCENE: &str = r#"{"release":"demo","category":"tops","garment_photo":"flat-lay",
        "quality":"fast","steps":10,"guidance":1.5,"seed":7,"samples":1,"format":"png"}"#;

    fn with_prompt(words: &str) -> RenderSpec {
        let spec: RenderSpec = serde_json::from_str(STORED_WITHOUT_SCENE).unwrap();
        let (release, prompt) = ("sd".to_owned(), Prompt::new(words));
        RenderSpec { scene: Some(SceneSpec { release, prompt, steps: 5, guidance: 7.5 }), ..spec }
    }

    #[test]
    fn specs_from_before_scenes_are_read() {
        let spec: RenderSpec = serde_json::from_str(STORED_WITHOUT_SCENE).unwrap();
        assert_eq!((spec.steps_total(), spec.runs_on().as_str()), (10, "demo"));
        assert!(!serde_json::to_string(&spec).unwrap().contains("scene"));
    }

    #[test]
    fn a_scene_counts_and_needs_its_release() {
        let spec = with_prompt("a beach");
        assert_eq!((spec.steps_total(), spec.runs_on().as_str()), (15, "demo+sd"));
        assert_eq!(releases_of(&spec.runs_on()), ("demo", Some("sd")));
        assert_eq!(releases_of("demo"), ("demo", None));
        let stored = serde_json::to_string(&spec).unwrap();
        assert!(stored.contains(r#""prompt":"a beach""#), "{stored}");
        assert_eq!(serde_json::from_str::<RenderSpec>(&stored).unwrap(), spec);
    }

    #[test]
    fn a_prompt_is_in_no_debug_output() {
        let shown = format!("{:?}", with_prompt("my secret garden"));
        assert!(shown.contains("prompt: ***") && !shown.contains("garden"), "{shown}");
    }
}
