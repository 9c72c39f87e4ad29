//! Releases by name: manifests compiled in or found in a directory, weights compiled in or on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use kraftr_protocol::ReleaseManifest;
use kraftr_protocol::manifest::ManifestFile;

use crate::bundled;
use crate::error::ModelError;
use crate::fashn_vton::FashnVton;
use crate::model::Model;
use crate::noop::Noop;
use crate::weights::Weights;

type Constructor = fn(&Files<'_>, &Device) -> Result<Model, ModelError>;

/// Every architecture: its name in manifests and how it is built.
const ARCHITECTURES: &[(&str, Constructor)] = &[
    ("fashn-vton", |files, device| {
        let network = FashnVton::release(files.manifest, &files.weights("weights")?, device)?;
        Ok(Model::new(Arc::clone(files.manifest), network))
    }),
    ("noop", |files, _| Ok(Model::new(Arc::clone(files.manifest), Noop::new(files.manifest)))),
];

/// The files of a release, by role.
pub(crate) struct Files<'a> {
    pub(crate) manifest: &'a Arc<ReleaseManifest>,
    folder: Option<&'a Path>,
}

impl Files<'_> {
    /// The file in that role, checked against the manifest's length and digest.
    pub(crate) fn weights(&self, role: &str) -> Result<Weights, ModelError> {
        let file = self.manifest.file(role).ok_or_else(|| ModelError::Config {
            mistakes: vec![format!("release {} names no file with the role {role}", self.manifest.name)],
        })?;
        if let Some(path) = self.folder.map(|folder| folder.join(&file.name))
            && path.is_file()
        {
            return Weights::pinned(&path, file);
        }
        let bytes = compiled_in(file).ok_or_else(|| ModelError::WeightsMissing {
            file: file.name.clone(),
            looked_in: self.folder.unwrap_or(Path::new("this program")).to_owned(),
            hint: self
                .manifest
                .source
                .as_ref()
                .map_or_else(String::new, |source| format!("; they come from {source}")),
        })?;
        Ok(Weights::compiled_in(&file.name, bytes))
    }
}

/// The compiled-in file that a manifest means: one with its name and length.
fn compiled_in(file: &ManifestFile) -> Option<&'static [u8]> {
    let named =
        bundled::FILES.iter().find(|(name, bytes)| *name == file.name && bytes.len() as u64 == file.bytes);
    named.map(|(_, bytes)| *bytes)
}

/// The releases this program can load.
pub struct Registry {
    manifests: Vec<Arc<ReleaseManifest>>,
    weights: Option<PathBuf>,
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
        Self { manifests, weights: None }
    }

    /// The compiled-in releases and one for every `*.toml` in `manifests`; weights lie in `weights`
    /// under the names the manifests give them.
    pub fn open(manifests: &Path, weights: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Read { path: manifests.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(manifests).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut registry = Self { weights: Some(weights.to_owned()), ..Self::bundled() };
        for path in paths {
            let text = fs::read_to_string(&path)
                .map_err(|source| ModelError::Read { path: path.clone(), source })?;
            registry.add(ReleaseManifest::parse(&path.display().to_string(), &text)?, path)?;
        }
        Ok(registry)
    }

    /// A manifest equal to one that is there changes nothing, so that the compiled-in ones may also
    /// lie in the directory.
    fn add(&mut self, manifest: ReleaseManifest, path: PathBuf) -> Result<(), ModelError> {
        match self.manifests.iter().find(|other| other.name == manifest.name) {
            Some(other) if **other == manifest => {}
            Some(_) => return Err(ModelError::DuplicateRelease { name: manifest.name, path }),
            None => self.manifests.push(Arc::new(manifest)),
        }
        Ok(())
    }

    /// Every release, whether its weights are there or not.
    pub fn manifests(&self) -> impl Iterator<Item = &ReleaseManifest> {
        self.manifests.iter().map(AsRef::as_ref)
    }

    /// The releases whose files are all there, with the length their manifests give.
    pub fn present(&self) -> impl Iterator<Item = &ReleaseManifest> {
        self.manifests().filter(|manifest| manifest.files.iter().all(|file| self.has(file)))
    }

    fn has(&self, file: &ManifestFile) -> bool {
        let on_disk =
            self.weights.as_ref().and_then(|directory| fs::metadata(directory.join(&file.name)).ok());
        match on_disk {
            Some(found) if found.is_file() => found.len() == file.bytes,
            _ => compiled_in(file).is_some(),
        }
    }

    /// Reads a release's files, checks them against its manifest and builds the network on `device`.
    pub fn load(&self, release: &str, device: &Device) -> Result<Model, ModelError> {
        let manifest = self.manifests.iter().find(|manifest| manifest.name == release);
        let manifest = manifest.ok_or_else(|| ModelError::UnknownRelease {
            name: release.to_owned(),
            known: self.manifests.iter().map(|manifest| manifest.name.clone()).collect(),
        })?;
        let (_, build) =
            ARCHITECTURES.iter().find(|(name, _)| *name == manifest.architecture).ok_or_else(|| {
                ModelError::UnknownArchitecture {
                    release: release.to_owned(),
                    architecture: manifest.architecture.clone(),
                    known: ARCHITECTURES.iter().map(|(name, _)| (*name).to_owned()).collect(),
                }
            })?;
        build(&Files { manifest, folder: self.weights.as_deref() }, device)
    }
}
