//! Releases by name: manifests compiled in or found in a folder, weights compiled in or on disk.

mod check;
mod kinds;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use kraftr_protocol::manifest::{ManifestError, ManifestFile, Task};
use kraftr_protocol::suggest::did_you_mean;
use kraftr_protocol::{GarmentPhoto, ReleaseManifest};

pub use self::check::{CheckReport, ContractCheck, FileCheck, Golden};
use self::kinds::Kind;
use crate::arithmetic::Arithmetic;
use crate::bundled;
use crate::device::{self, Precision};
use crate::error::ModelError;
use crate::model::{Model, Sampling};
use crate::person::stage::{Missing, Stage};
use crate::weights::{Weights, init};

/// The files of a release, by role.
pub(crate) struct Files<'a> {
    pub(crate) manifest: &'a Arc<ReleaseManifest>,
    folder: Option<&'a Path>,
}

impl Files<'_> {
    /// The file in that role, proven to be the one that the manifest means.
    pub(crate) fn weights(&self, role: &str) -> Result<Weights, ModelError> {
        let file = self.named(role)?;
        self.find(file)?.ok_or_else(|| self.missing(file))
    }

    /// The file of a stage that not every render needs.
    pub(crate) fn stage(&self, stage: Stage) -> Result<Result<Weights, Missing>, ModelError> {
        let release = self.manifest.name.clone();
        let Some(file) = self.manifest.file(stage.role()) else {
            return Ok(Err(Missing::Unnamed { stage, release }));
        };
        let found = self.find(file)?;
        let (file, looked_in) = (file.name.clone(), self.looked_in());
        Ok(found.ok_or(Missing::Absent { stage, file, looked_in, release }))
    }

    /// The file, where it is on this machine.
    pub(crate) fn find(&self, file: &ManifestFile) -> Result<Option<Weights>, ModelError> {
        match self.on_disk(file) {
            Some(path) => Weights::pinned(&path, file).map(Some),
            None => Ok(compiled_in(file).map(|bytes| Weights::compiled_in(&file.name, bytes))),
        }
    }

    /// The text file in that role, proven likewise.
    pub(crate) fn text(&self, role: &str) -> Result<String, ModelError> {
        let file = self.weights(role)?;
        let mistake = || format!("release {}: the file in the role {role} is not text", self.manifest.name);
        let text = std::str::from_utf8(file.bytes());
        text.map(str::to_owned).map_err(|_| ModelError::Config { mistakes: vec![mistake()] })
    }

    /// What the manifest says about the file in that role.
    pub(crate) fn named(&self, role: &str) -> Result<&ManifestFile, ModelError> {
        let mistake = || format!("release {} names no file with the role {role}", self.manifest.name);
        self.manifest.file(role).ok_or_else(|| ModelError::Config { mistakes: vec![mistake()] })
    }

    fn on_disk(&self, file: &ManifestFile) -> Option<PathBuf> {
        self.folder.map(|folder| folder.join(&file.name)).filter(|path| path.is_file())
    }

    fn missing(&self, file: &ManifestFile) -> ModelError {
        ModelError::WeightsMissing {
            file: file.name.clone(),
            looked_in: self.looked_in(),
            release: self.manifest.name.clone(),
        }
    }

    fn looked_in(&self) -> PathBuf {
        self.folder.unwrap_or(Path::new("this program")).to_owned()
    }
}

/// The compiled-in file that a manifest means: one with its name and length.
fn compiled_in(file: &ManifestFile) -> Option<&'static [u8]> {
    let named =
        bundled::FILES.iter().find(|(name, bytes)| *name == file.name && bytes.len() as u64 == file.bytes);
    named.map(|(_, bytes)| *bytes)
}

/// Where a file of a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Part of this program.
    CompiledIn,
    /// In the weights folder, with the length that the manifest names.
    There(PathBuf),
    /// In the weights folder, with another length.
    OtherLength(PathBuf, u64),
    /// Nowhere; this is where it was looked for, where there is a weights folder.
    Missing(Option<PathBuf>),
}

impl Place {
    /// Whether it can be loaded, as far as its length tells.
    pub const fn is_present(&self) -> bool {
        matches!(self, Self::CompiledIn | Self::There(_))
    }
}

/// The releases this program can load.
pub struct Registry {
    manifests: Vec<Arc<ReleaseManifest>>,
    weights: Option<PathBuf>,
    precision: Option<Precision>,
    noncommercial: bool,
}

impl Registry {
    /// The releases compiled in, `demo-tryon` and `noop`, which need no file.
    pub fn bundled() -> Self {
        let manifests = bundled::MANIFESTS
            .iter()
            .map(|(name, text)| {
                Arc::new(ReleaseManifest::parse(name, text).expect("compiled-in manifests are valid"))
            })
            .collect();
        Self { manifests, weights: None, precision: None, noncommercial: false }
    }

    /// The compiled-in releases and one for every `*.toml` in `manifests`; weights lie in `weights` under the names
    /// the manifests give them. Either folder may be left out.
    ///
    /// # Errors
    /// [`ModelError::Manifests`] lists every mistake of every manifest, its architecture's configuration included.
    pub fn open(manifests: Option<&Path>, weights: Option<&Path>) -> Result<Self, ModelError> {
        let mut registry = Self { weights: weights.map(Path::to_owned), ..Self::bundled() };
        let mut refused = Vec::new();
        for path in manifests.map(list).transpose()?.unwrap_or_default() {
            let text = fs::read_to_string(&path)
                .map_err(|source| ModelError::Read { path: path.clone(), source })?;
            let origin = path.display().to_string();
            if let Err(error) =
                ReleaseManifest::parse(&origin, &text).and_then(|read| registry.add(read, &origin))
            {
                refused.push(error);
            }
        }
        for manifest in &registry.manifests {
            let mistakes = registry.scene_mistakes(manifest);
            if !mistakes.is_empty() {
                refused.push(ManifestError { name: manifest.name.clone(), mistakes });
            }
        }
        if refused.is_empty() { Ok(registry) } else { Err(ModelError::Manifests(refused)) }
    }

    /// Releases compute in this precision, rather than in what suits their device.
    #[must_use]
    pub fn in_precision(self, precision: Option<Precision>) -> Self {
        Self { precision, ..self }
    }

    /// Releases with a file whose licence forbids commercial use are taken too, where `allowed`.
    #[must_use]
    pub fn allowing_noncommercial(self, allowed: bool) -> Self {
        Self { noncommercial: allowed, ..self }
    }

    /// The release may be used: no licence of its files is in the way.
    pub fn permit(&self, manifest: &ReleaseManifest) -> Result<(), ModelError> {
        match manifest.noncommercial().filter(|_| !self.noncommercial) {
            None => Ok(()),
            Some(file) => Err(ModelError::Noncommercial {
                release: manifest.name.clone(),
                file: file.name.clone(),
                licence: file.licence.as_ref().unwrap_or(&manifest.licence).clone(),
            }),
        }
    }

    /// What releases compute in on a device: what was asked for, or what suits it.
    pub fn precision(&self, device: &Device) -> Precision {
        self.precision.unwrap_or_else(|| Precision::of(device))
    }

    /// A manifest equal to one that is there changes nothing, so that the compiled-in ones may also lie in the
    /// folder.
    fn add(&mut self, manifest: ReleaseManifest, origin: &str) -> Result<(), ManifestError> {
        let mut mistakes = Kind::mistakes(&manifest);
        match self.manifests.iter().find(|other| other.name == manifest.name) {
            Some(other) if **other == manifest => return Ok(()),
            Some(_) => mistakes.push(format!(
                "name: another release is named {}; a release never changes, so give this one another name",
                manifest.name
            )),
            None => {}
        }
        if !mistakes.is_empty() {
            return Err(ManifestError { name: origin.to_owned(), mistakes });
        }
        self.manifests.push(Arc::new(manifest));
        Ok(())
    }

    /// What is wrong about a manifest's scenes, seen beside the other manifests.
    fn scene_mistakes(&self, manifest: &ReleaseManifest) -> Vec<String> {
        let Some(scene) = &manifest.scene else { return Vec::new() };
        let painter = match self.get(scene) {
            Ok(painter) if painter.task == Task::TextToImage => None,
            Ok(painter) => Some(format!("{} is for {}, not for text-to-image", painter.name, painter.task)),
            Err(error) => Some(error.to_string()),
        };
        let role = Stage::Parser.role();
        let parser = manifest.file(role).is_none();
        let parser = parser.then(|| format!("a file of the role {role} is missing, which finds the person"));
        painter.into_iter().chain(parser).map(|mistake| format!("scene: {mistake}")).collect()
    }

    /// The release that paints scenes behind the people of this one; none where it takes no scenes.
    ///
    /// # Errors
    /// Why that is not possible here: the painter's licence or files, or the network that finds people. Whatever is
    /// missing is named, with the command that fetches it.
    pub fn painter(&self, manifest: &ReleaseManifest) -> Result<Option<&Arc<ReleaseManifest>>, ModelError> {
        let Some(name) = &manifest.scene else { return Ok(None) };
        let painter = self.get(name)?;
        self.permit(painter)?;
        let release = || manifest.name.clone();
        let stage = Stage::Parser;
        let Some(parser) = manifest.file(stage.role()) else {
            return Err(Missing::Unnamed { stage, release: release() }.into());
        };
        let looked_in = || self.weights.clone().unwrap_or_else(|| PathBuf::from("this program"));
        if !self.place(parser).is_present() {
            let file = parser.name.clone();
            return Err(Missing::Absent { stage, file, looked_in: looked_in(), release: release() }.into());
        }
        let mut needed = Self::needed_to_load(painter);
        match needed.find(|file| !self.place(file).is_present()) {
            None => Ok(Some(painter)),
            Some(file) => Err(ModelError::WeightsMissing {
                file: file.name.clone(),
                looked_in: looked_in(),
                release: painter.name.clone(),
            }),
        }
    }

    /// Every release, whether its weights are there or not.
    pub fn manifests(&self) -> impl Iterator<Item = &ReleaseManifest> {
        self.manifests.iter().map(AsRef::as_ref)
    }

    /// The releases that may be used and whose files are all there, with the length their manifests give.
    pub fn present(&self) -> impl Iterator<Item = &ReleaseManifest> {
        self.manifests().filter(|manifest| self.permit(manifest).is_ok() && self.is_present(manifest))
    }

    /// The files without which no render of that release is possible.
    pub fn needed_to_load(manifest: &ReleaseManifest) -> impl Iterator<Item = &ManifestFile> {
        manifest.files.iter().filter(|file| Kind::is_needed_to_load(manifest, file))
    }

    /// Whether every file is there that loading needs.
    pub fn is_present(&self, manifest: &ReleaseManifest) -> bool {
        Self::needed_to_load(manifest).all(|file| self.place(file).is_present())
    }

    /// How garments of that release may be photographed here: as its manifest says, as far as the networks are there that
    /// read such photographs. Where no folder for weights is named it is enough that the manifest names them.
    pub fn garment_photos(&self, manifest: &ReleaseManifest) -> Vec<GarmentPhoto> {
        let is_there = |file: &ManifestFile| self.weights.is_none() || self.place(file).is_present();
        let reads_worn =
            Kind::worn_readers(manifest).into_iter().all(|role| manifest.file(role).is_some_and(is_there));
        let can_be = |photo: &GarmentPhoto| *photo != GarmentPhoto::Model || reads_worn;
        manifest.garment_photos.iter().copied().filter(can_be).collect()
    }

    /// Where a file is, or was looked for.
    pub fn place(&self, file: &ManifestFile) -> Place {
        let path = self.weights.as_ref().map(|folder| folder.join(&file.name));
        let found = path.as_ref().and_then(|path| fs::metadata(path).ok()).filter(fs::Metadata::is_file);
        match (path, found) {
            (Some(path), Some(found)) if found.len() == file.bytes => Place::There(path),
            (Some(path), Some(found)) => Place::OtherLength(path, found.len()),
            (_, _) if compiled_in(file).is_some() => Place::CompiledIn,
            (path, _) => Place::Missing(path),
        }
    }

    /// The folder that weights are looked for in.
    pub fn weights_folder(&self) -> Option<&Path> {
        self.weights.as_deref()
    }

    /// The release of that name.
    pub fn get(&self, release: &str) -> Result<&Arc<ReleaseManifest>, ModelError> {
        let known = || self.manifests().map(|manifest| manifest.name.clone());
        self.manifests.iter().find(|manifest| manifest.name == release).ok_or_else(|| {
            ModelError::UnknownRelease {
                name: release.to_owned(),
                meant: did_you_mean(release, known()),
                known: known().collect(),
            }
        })
    }

    /// Checks a release's files against its manifest and builds the network on `device`.
    pub fn load(&self, release: &str, device: &Device) -> Result<Model, ModelError> {
        let manifest = self.get(release)?;
        self.permit(manifest)?;
        let precision = self.precision(device);
        if let Some(needed) = manifest.device_memory_bytes {
            device::require_memory(device, needed)?;
        }
        let started = Instant::now();
        let model = Kind::of(manifest)?.build(&self.files(manifest), device, precision)?;
        let seconds = started.elapsed().as_secs_f64();
        let device = device::display(device);
        tracing::info!(release, device, %precision, seconds, "loaded");
        Ok(model)
    }

    /// What an image costs that is sampled like that; none for what has no network.
    pub fn arithmetic(&self, release: &str, sampling: &Sampling) -> Result<Option<Arithmetic>, ModelError> {
        let manifest = self.get(release)?;
        Kind::of(manifest)?.arithmetic(manifest, sampling)
    }

    /// Writes random weights, and whatever else a release is loaded from, into `folder` and returns the manifest of a
    /// new release, `<name>-random`, that names them: the same network, so that it can be benched and every path of the
    /// code run without a download. The same seed gives the same files. `on_bytes` hears of bytes written, of so many
    /// in all.
    pub fn init(
        &self,
        release: &str,
        folder: &Path,
        seed: u64,
        mut on_bytes: impl FnMut(u64, u64),
    ) -> Result<ReleaseManifest, ModelError> {
        let manifest = self.get(release)?;
        let kind = Kind::of(manifest)?;
        fs::create_dir_all(folder).map_err(|source| ModelError::Write { path: folder.to_owned(), source })?;
        let mut random = ReleaseManifest {
            name: format!("{}-random", manifest.name),
            title: format!("{} with random weights", manifest.title),
            caution: Some(
                "Its weights are random: it paints noise, and is good for measuring only.".to_owned(),
            ),
            source: Some(format!("kraftr model init, seed {seed}")),
            ..ReleaseManifest::clone(manifest)
        };
        random.files.retain(|file| !file.only_proves());
        kind.leave_out_readers(&mut random);
        let contracts = [kind.contracts(&random)?, kind.extras(&random)?].concat();
        let all = contracts.iter().map(|(_, contract)| init::length(contract)).sum();
        let mut made = Vec::new();
        for text in kind.texts() {
            let name = format!("{}-{}.txt", random.name, text.role);
            made.push((
                text.role,
                init::write_text(&folder.join(&name), &(text.random)(manifest, seed)?)?,
                name,
            ));
        }
        for (role, contract) in &contracts {
            let name = format!("{}-{role}.safetensors", random.name);
            let mut tell = |bytes| on_bytes(bytes, all);
            made.push((*role, init::write(&folder.join(&name), contract, seed, &mut tell)?, name));
        }
        for (role, init::Made { sha256, bytes }, name) in made {
            random.files.retain(|other| other.role != role);
            let role = role.to_owned();
            let (licence, noncommercial, source) = (None, false, None);
            random
                .files
                .insert(0, ManifestFile { role, name, sha256, bytes, licence, noncommercial, source });
        }
        Ok(random)
    }

    fn files<'a>(&'a self, manifest: &'a Arc<ReleaseManifest>) -> Files<'a> {
        Files { manifest, folder: self.weights.as_deref() }
    }
}

/// The manifests of a folder, by name.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let unreadable = |source| ModelError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
