//! Inputs to render in more ways than one, and how far apart the pictures are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kraftr_imaging::{RgbImage, psnr, ssim};
use kraftr_models::{Inputs, TextToImage, TryOn};
use kraftr_protocol::manifest::Task;
use kraftr_protocol::{Category, GarmentPhoto};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sample_inputs;
use crate::commands::read_picture;

/// Height of a row of a sheet.
pub(super) const ROW: u32 = 384;
/// How much a difference is enlarged, so that the eye sees it.
const ENLARGED: u8 = 4;

/// One entry of a set for releases that put clothes on people.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Worn {
    person: PathBuf,
    garment: PathBuf,
    category: Category,
    #[serde(default = "flat_lay")]
    garment_photo: GarmentPhoto,
}

fn flat_lay() -> GarmentPhoto {
    GarmentPhoto::FlatLay
}

/// One entry of a set for releases that paint after a description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    prompt: String,
}

/// Inputs, and what to call them.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) inputs: Inputs,
}

impl Case {
    /// The pictures among its inputs, for a sheet.
    pub(super) fn pictures(&self) -> Vec<&RgbImage> {
        match &self.inputs {
            Inputs::TryOn(inputs) => vec![&inputs.person, &inputs.garment],
            Inputs::TextToImage(_) => Vec::new(),
        }
    }
}

/// How far apart two pictures are.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Distance {
    /// Peak signal-to-noise ratio; 100 for equal pictures.
    pub(super) psnr_db: f64,
    /// Structural similarity of the luma; 1 for equal pictures.
    pub(super) ssim: f64,
}

impl Distance {
    /// Of two pictures of one size.
    pub(super) fn between(one: &RgbImage, other: &RgbImage) -> Result<Self> {
        Ok(Self { psnr_db: psnr(one, other)?, ssim: ssim(one, other)? })
    }

    /// The mean of each figure.
    pub(super) fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Self { psnr_db: mean(|one| one.psnr_db), ssim: mean(|one| one.ssim) }
    }
}

/// The cases of a set, or the bundled sample, for releases of that task.
pub(super) fn read(set: Option<&Path>, task: Task) -> Result<Vec<Case>> {
    match set {
        Some(path) if task == Task::TextToImage => read_set::<Described>(path),
        Some(path) => read_set::<Worn>(path),
        None => Ok(vec![Case { name: "sample".to_owned(), inputs: sample_inputs(task)? }]),
    }
}

fn read_set<E: Entry>(path: &Path) -> Result<Vec<Case>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries: Vec<E> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    if entries.is_empty() {
        bail!("{} names no inputs", path.display());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    entries.into_iter().map(|entry| entry.case(folder)).collect()
}

/// One entry of a set.
trait Entry: DeserializeOwned {
    /// Its case; pictures lie in `folder`, beside the set.
    fn case(self, folder: &Path) -> Result<Case>;
}

impl Entry for Worn {
    fn case(self, folder: &Path) -> Result<Case> {
        let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let inputs = Inputs::TryOn(TryOn {
            person: read_picture(&folder.join(&self.person))?,
            garment: read_picture(&folder.join(&self.garment))?,
            category: self.category,
            garment_photo: self.garment_photo,
        });
        Ok(Case { name: format!("{} + {}", stem(&self.person), stem(&self.garment)), inputs })
    }
}

impl Entry for Described {
    fn case(self, _: &Path) -> Result<Case> {
        let inputs = Inputs::TextToImage(TextToImage { prompt: self.prompt.clone(), kept: None });
        Ok(Case { name: self.prompt, inputs })
    }
}

/// What differs, enlarged.
pub(super) fn difference(one: &RgbImage, other: &RgbImage) -> RgbImage {
    let apart = |at: usize| one.as_raw()[at].abs_diff(other.as_raw()[at]).saturating_mul(ENLARGED);
    RgbImage::from_fn(one.width(), one.height(), |x, y| {
        let at = 3 * (y * one.width() + x) as usize;
        [apart(at), apart(at + 1), apart(at + 2)].into()
    })
}
