//! A release's manifest: one TOML file that says what a model is, what it needs and what it costs.

mod quality;
mod read;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::Serialize;

pub use self::quality::{Method, QualitySettings, Solver};
use self::read::{Notes, Table, readable_words};
pub use self::source::{Hub, Source, bucket_and_key};
use crate::limits;
use crate::spec::{Category, GarmentPhoto, Quality, words};
use crate::units::{Credits, Digest, GpuMillis};

words!(
    /// What a release is for.
    Task {
        /// Puts a garment on a person.
        TryOn = "try-on",
        /// Paints a picture after a description.
        TextToImage = "text-to-image",
        /// Does nothing, for control-plane benchmarks; never listed.
        Noop = "noop",
    }
);

impl Task {
    /// Whether a render may ask for it: other releases are for `kraftr model` alone.
    pub const fn is_rendered(self) -> bool {
        matches!(self, Self::TryOn | Self::Noop)
    }
}

/// One file that a release needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestFile {
    /// What the architecture calls it, such as `weights`. `golden` and `golden-tensors` are recorded outputs of
    /// the reference: `kraftr model check` compares with them, and nothing else needs them.
    pub role: String,
    /// File name in the weights folder.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Length of the file.
    pub bytes: u64,
    /// SPDX expression of its licence, where that is not the release's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Whether its licence forbids commercial use: then it serves only where the operator allows that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub noncommercial: bool,
    /// Where it can be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

impl ManifestFile {
    /// Role of the network that tells clothes, limbs and ground apart: only some renders need it.
    pub const PARSER: &'static str = "parser";
    /// Role of the fixture that `kraftr model check` compares with.
    pub const GOLDEN: &'static str = "golden";
    /// Role of the tensors that belong to it.
    pub const GOLDEN_TENSORS: &'static str = "golden-tensors";

    /// True when every release that names it needs it to be loaded: not the parser, which some need and others use for
    /// some renders only, as their architecture says.
    pub fn is_needed_to_load(&self) -> bool {
        self.role != Self::PARSER && !self.only_proves()
    }

    /// Whether it is there to prove what the release computes, and for no render.
    pub fn only_proves(&self) -> bool {
        [Self::GOLDEN, Self::GOLDEN_TENSORS].contains(&self.role.as_str())
    }
}

/// How a release samples at any quality unless the caller says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Defaults {
    /// Classifier-free guidance; 1 means none.
    pub guidance: f64,
}

/// What a release accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseLimits {
    /// Fewest steps.
    pub steps_min: u32,
    /// Most steps.
    pub steps_max: u32,
    /// Most images of one render.
    pub samples_max: u32,
}

/// One release of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReleaseManifest {
    /// Unique name: lower-case letters, digits, dots and dashes.
    pub name: String,
    /// For people, one line.
    pub title: String,
    /// What it cannot do, one line; shown wherever the model is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caution: Option<String>,
    /// What it is for.
    pub task: Task,
    /// Name of the architecture in the registry.
    pub architecture: String,
    /// Pixels the model paints, width and height.
    pub size: [u32; 2],
    /// Enlargement (Lanczos) of what the model paints, before the watermark.
    pub output_scale: u32,
    /// Garments it knows; a try-on release names at least one.
    pub categories: Vec<Category>,
    /// How its garments may be photographed; both ways unless it says otherwise.
    pub garment_photos: Vec<GarmentPhoto>,
    /// The text-to-image release that paints what is behind the people of this try-on release when a render describes a
    /// scene. Without one it takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scene: Option<String>,
    /// Price of one image.
    pub price: Credits,
    /// Expected time of one image on a worker's device at balanced quality.
    pub device_time_ms: GpuMillis,
    /// Memory of the device that one loaded release takes with one render in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes: Option<u64>,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Where the weights come from, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The architecture's own configuration, which the architecture validates.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub config: toml::Table,
    /// How it samples.
    pub defaults: Defaults,
    /// How it samples at each quality: `[quality.fast]`, `[quality.balanced]` and `[quality.best]`.
    pub quality: BTreeMap<Quality, QualitySettings>,
    /// What it accepts.
    pub limits: ReleaseLimits,
    /// What it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ManifestFile>,
}

/// Everything that is wrong with a manifest, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {} mistake{}{}", mistakes.len(), if mistakes.len() == 1 { "" } else { "s" }, indented(mistakes))]
pub struct ManifestError {
    /// The file or release.
    pub name: String,
    /// One sentence each.
    pub mistakes: Vec<String>,
}

fn indented(mistakes: &[String]) -> String {
    mistakes.iter().flat_map(|mistake| ["\n  ", mistake.as_str()]).collect()
}

readable_words!(
    Task = one_of(Task::ALL.iter().copied().map(Task::as_str)),
    Category = one_of(Category::ALL.iter().copied().map(Category::as_str)),
    GarmentPhoto = one_of(GarmentPhoto::ALL.iter().copied().map(GarmentPhoto::as_str)),
    Digest = "64 hexadecimal digits".to_owned(),
);

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("one of {}", words.collect::<Vec<_>>().join(", "))
}

const NOT_EMPTY: &str = "must not be empty";
const POSITIVE: &str = "must be positive";

fn not_empty(text: &str) -> bool {
    !text.trim().is_empty()
}

impl ReleaseManifest {
    /// Reads and validates a manifest; `origin` names it in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ManifestError> {
        let notes = Notes::on(text);
        let (document, errors) = toml::de::DeTable::parse_recoverable(text);
        let manifest = if errors.is_empty() {
            let plain = text.parse::<toml::Table>().map_err(|error| notes.note(0..0, "", error.message()));
            plain.ok().and_then(|plain| Self::read(Table::document(&document, &notes), &plain))
        } else {
            for error in errors {
                notes.note(error.span().unwrap_or(0..0), "", &format!("not TOML: {}", error.message()));
            }
            None
        };
        let mistakes = notes.into_sentences();
        match manifest {
            Some(manifest) if mistakes.is_empty() => Ok(manifest),
            _ => Err(ManifestError { name: origin.to_owned(), mistakes }),
        }
    }

    /// The manifest as the text of a file that [`parse`](Self::parse) reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a form in TOML")
    }

    /// Pixels of an artifact, width and height.
    pub const fn output_size(&self) -> [u32; 2] {
        [self.size[0] * self.output_scale, self.size[1] * self.output_scale]
    }

    /// The file of that role.
    pub fn file(&self, role: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// The first file whose licence forbids commercial use.
    pub fn noncommercial(&self) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.noncommercial)
    }

    /// How it samples at that quality.
    pub fn quality(&self, quality: Quality) -> &QualitySettings {
        self.quality.get(&quality).expect("a manifest that was read names every quality")
    }

    /// Passes through the network that one image of `steps` steps takes at that quality.
    pub fn evaluations(&self, quality: Quality, steps: u32) -> f64 {
        let settings = self.quality(quality);
        settings.evaluations(self.defaults.guidance) * f64::from(steps) / f64::from(settings.steps.max(1))
    }

    fn read(mut table: Table<'_>, plain: &toml::Table) -> Option<Self> {
        let name = table.text("name", is_name, "use 1 to 64 lower-case letters, digits, dots and dashes");
        let title = table.text("title", not_empty, NOT_EMPTY);
        let caution = table.optional_text("caution", not_empty, NOT_EMPTY);
        let task = table.required::<Task>("task");
        let architecture = table.text("architecture", not_empty, NOT_EMPTY);
        let size = table.checked(
            "size",
            |size: &[u32; 2]| size.iter().all(|side| (16..=4_096).contains(side)),
            "both sides must be 16 to 4096 pixels",
        );
        let output_scale = table.optional("output_scale", |scale| (1..=8).contains(scale), "must be 1 to 8");
        let categories = table.optional::<Vec<Category>>("categories", |_| true, "");
        if task == Some(Task::TryOn)
            && categories.as_ref().is_ok_and(|all| all.as_ref().is_none_or(Vec::is_empty))
        {
            table.mistake("categories", "name at least one");
        }
        let garment_photos = table.optional::<Vec<GarmentPhoto>>(
            "garment_photos",
            |photos| !photos.is_empty(),
            "name at least one, or leave it out",
        );
        let scene = table.optional_text("scene", is_name, "must be the name of a text-to-image release");
        if table.has("scene") && task.is_some_and(|task| task != Task::TryOn) {
            table.mistake("scene", "only try-on releases have one");
        }
        let price = table.checked("price", |price| *price >= 0, "must not be negative");
        let device_time_ms = table.checked("device_time_ms", |time| *time > 0, POSITIVE);
        let device_memory_bytes = table.optional("device_memory_bytes", |bytes| *bytes > 0, POSITIVE);
        let licence = table.text("licence", not_empty, "name one (an SPDX expression)");
        let source = table.optional_text("source", not_empty, NOT_EMPTY);
        // What is in it, the architecture validates.
        drop(table.optional_table("config"));
        let (steps, limits) = table.table("limits").map(ReleaseLimits::read).unwrap_or_default();
        let defaults = table.table("defaults").and_then(Defaults::read);
        let quality = table.table("quality").and_then(|table| quality::read(table, steps.as_ref()));
        let files = read_files(&mut table);
        table.finish();
        Some(Self {
            name: name?,
            title: title?,
            caution: caution.ok()?,
            task: task?,
            architecture: architecture?,
            size: size?,
            output_scale: output_scale.ok()?.unwrap_or(1),
            categories: categories.ok()?.unwrap_or_default(),
            garment_photos: garment_photos.ok()?.unwrap_or_else(|| GarmentPhoto::ALL.to_vec()),
            scene: scene.ok()?,
            price: Credits(price?),
            device_time_ms: GpuMillis(device_time_ms?),
            device_memory_bytes: device_memory_bytes.ok()?,
            licence: licence?,
            source: source.ok()?,
            config: plain.get("config").and_then(toml::Value::as_table).cloned().unwrap_or_default(),
            defaults: defaults?,
            quality: quality?,
            limits: limits?,
            files: files?,
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

impl ReleaseLimits {
    /// The numbers of steps beside the whole: they are of use also where something else is wrong.
    fn read(mut table: Table<'_>) -> (Option<RangeInclusive<u32>>, Option<Self>) {
        let steps = |steps: &u32| (1..=1_000).contains(steps);
        let steps_min = table.checked("steps_min", steps, "must be 1 to 1000");
        let steps_max = table.checked("steps_max", steps, "must be 1 to 1000");
        let samples = |samples: &u32| (1..=limits::SAMPLES_MAX).contains(samples);
        let must = format!("must be 1 to {}", limits::SAMPLES_MAX);
        let samples_max = table.checked("samples_max", samples, &must);
        if steps_min.zip(steps_max).is_some_and(|(min, max)| min > max) {
            table.mistake("steps_min", "must not be above steps_max");
        }
        table.finish();
        let Some((steps_min, steps_max)) = steps_min.zip(steps_max) else { return (None, None) };
        let limits = samples_max.map(|samples_max| Self { steps_min, steps_max, samples_max });
        (Some(steps_min..=steps_max), limits)
    }
}

impl Defaults {
    fn read(mut table: Table<'_>) -> Option<Self> {
        let guidance = table.checked("guidance", |g| (1.0..=20.0).contains(g), "must be 1 to 20");
        table.finish();
        Some(Self { guidance: guidance? })
    }
}

fn read_files(table: &mut Table<'_>) -> Option<Vec<ManifestFile>> {
    let tables = table.tables("files");
    if tables.len() > limits::RELEASE_FILES_MAX {
        table.mistake("files", &format!("must be at most {}", limits::RELEASE_FILES_MAX));
        return None;
    }
    let (mut roles, mut names) = (BTreeSet::new(), BTreeSet::new());
    let files: Vec<Option<ManifestFile>> =
        tables.into_iter().map(|file| ManifestFile::read(file, &mut roles, &mut names)).collect();
    files.into_iter().collect()
}

impl ManifestFile {
    /// `roles` and `names` are those of the files before it.
    fn read(
        mut table: Table<'_>,
        roles: &mut BTreeSet<String>,
        names: &mut BTreeSet<String>,
    ) -> Option<Self> {
        let role = table.text("role", not_empty, NOT_EMPTY);
        let name = table.text("name", is_file_name, "must be a plain file name that begins with no dot");
        let sha256 = table.required("sha256");
        let bytes = table.checked("bytes", |bytes| *bytes > 0, POSITIVE);
        let licence = table.optional_text("licence", not_empty, "name one (an SPDX expression)");
        let noncommercial = table.optional("noncommercial", |_: &bool| true, "");
        let source_given = table.has("source");
        let source = table.optional_table("source").and_then(Source::read);
        for (key, value, taken) in [("role", &role, roles), ("name", &name, names)] {
            if value.as_ref().is_some_and(|value| !taken.insert(value.clone())) {
                table.mistake(key, "another file of the release has the same");
            }
        }
        table.finish();
        if source_given && source.is_none() {
            return None;
        }
        Some(Self {
            role: role?,
            name: name?,
            sha256: sha256?,
            bytes: bytes?,
            licence: licence.ok()?,
            noncommercial: noncommercial.ok()?.unwrap_or(false),
            source,
        })
    }
}

/// Names with a leading dot are those of files that are being pulled.
fn is_file_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests;
