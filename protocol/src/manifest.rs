//! A release's manifest: one TOML file that says what a model is, what it needs and what it costs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::spec::{Category, Quality};
use crate::units::{Credits, Digest, GpuMillis};

/// What a release is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Puts a garment on a person.
    TryOn,
    /// Does nothing, for control-plane benchmarks; never listed.
    Noop,
}

/// One file that a release needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// What the architecture calls it, such as `weights`.
    pub role: String,
    /// File name in the weights directory.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Length of the file.
    pub bytes: u64,
}

/// How a release samples unless the caller says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Denoise steps for each quality.
    pub steps: BTreeMap<Quality, u32>,
    /// Classifier-free guidance; 1 means none.
    pub guidance: f64,
}

/// What a release accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseLimits {
    /// Fewest steps.
    pub steps_min: u32,
    /// Most steps.
    pub steps_max: u32,
    /// Most images of one render.
    pub samples_max: u32,
}

/// One release of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseManifest {
    /// Unique name: lower-case letters, digits, dots and dashes.
    pub name: String,
    /// For people, one line.
    pub title: String,
    /// What it cannot do, one line; shown wherever the model is offered.
    #[serde(default)]
    pub caution: Option<String>,
    /// What it is for.
    pub task: Task,
    /// Name of the architecture in the registry.
    pub architecture: String,
    /// The architecture's own configuration.
    #[serde(default)]
    pub config: toml::Table,
    /// What it needs.
    #[serde(default)]
    pub files: Vec<ManifestFile>,
    /// Pixels the model paints, width and height.
    pub size: [u32; 2],
    /// Enlargement (Lanczos) of what the model paints, before the watermark.
    #[serde(default = "one")]
    pub output_scale: u32,
    /// Garments it knows.
    pub categories: Vec<Category>,
    /// How it samples.
    pub defaults: Defaults,
    /// What it accepts.
    pub limits: ReleaseLimits,
    /// Price of one image.
    pub price: Credits,
    /// Expected time of one image on a worker's device at balanced quality.
    pub device_time_ms: GpuMillis,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Where the weights come from, for people.
    #[serde(default)]
    pub source: Option<String>,
}

fn one() -> u32 {
    1
}

/// Everything that is wrong with a manifest, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("manifest {name}: {}", mistakes.join("; "))]
pub struct ManifestError {
    /// The file or release.
    pub name: String,
    /// One sentence each.
    pub mistakes: Vec<String>,
}

impl ReleaseManifest {
    /// Reads and validates a manifest; `origin` names it in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError {
            name: origin.to_owned(),
            mistakes: vec![error.to_string().trim_end().to_owned()],
        })?;
        let mistakes = manifest.mistakes();
        if mistakes.is_empty() {
            Ok(manifest)
        } else {
            Err(ManifestError { name: origin.to_owned(), mistakes })
        }
    }

    /// Pixels of an artifact, width and height.
    pub const fn output_size(&self) -> [u32; 2] {
        [self.size[0] * self.output_scale, self.size[1] * self.output_scale]
    }

    /// The file of that role.
    pub fn file(&self, role: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.role == role)
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut demand = |holds: bool, sentence: &str| {
            if !holds {
                mistakes.push(sentence.to_owned());
            }
        };
        let name_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        demand(
            (1..=64).contains(&self.name.len()) && self.name.chars().all(name_char),
            "name: use 1 to 64 lower-case letters, digits, dots and dashes",
        );
        demand(!self.title.is_empty(), "title: must not be empty");
        demand(!self.architecture.is_empty(), "architecture: must not be empty");
        demand(
            self.size.iter().all(|side| (16..=4_096).contains(side)),
            "size: both sides must be 16 to 4096 pixels",
        );
        demand((1..=8).contains(&self.output_scale), "output_scale: must be 1 to 8");
        demand(!self.categories.is_empty(), "categories: name at least one");
        demand((1.0..=20.0).contains(&self.defaults.guidance), "defaults.guidance: must be 1 to 20");
        let limits = &self.limits;
        demand(
            1 <= limits.steps_min && limits.steps_min <= limits.steps_max && limits.steps_max <= 1_000,
            "limits: steps_min and steps_max must satisfy 1 <= steps_min <= steps_max <= 1000",
        );
        demand((1..=limits::SAMPLES_MAX).contains(&limits.samples_max), "limits.samples_max: must be 1 to 4");
        for quality in Quality::ALL {
            let steps = self.defaults.steps.get(quality);
            demand(
                steps.is_some_and(|steps| (limits.steps_min..=limits.steps_max).contains(steps)),
                &format!("defaults.steps.{quality}: give a number of steps within limits"),
            );
        }
        demand(self.price.0 >= 0, "price: must not be negative");
        demand(self.device_time_ms.0 > 0, "device_time_ms: must be positive");
        demand(!self.licence.is_empty(), "licence: name one (an SPDX expression)");
        for (n, file) in self.files.iter().enumerate() {
            let plain = !file.name.is_empty() && !file.name.contains(['/', '\\']) && file.name != "..";
            demand(plain, &format!("files[{n}].name: must be a plain file name"));
            demand(file.bytes > 0, &format!("files[{n}].bytes: must be positive"));
            let first = self.files.iter().position(|other| other.role == file.role) == Some(n);
            demand(first, &format!("files[{n}].role: {} is named twice", file.role));
        }
        mistakes
    }
}
