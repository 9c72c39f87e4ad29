//! The architectures: what each says about a manifest before anything is loaded, and how it is built.

use std::sync::Arc;

use candle_core::Device;
use kraftr_protocol::ReleaseManifest;
use kraftr_protocol::manifest::{ManifestFile, Method, Task};
use kraftr_protocol::suggest::did_you_mean;

use super::Files;
use crate::arithmetic::Arithmetic;
use crate::device::Precision;
use crate::error::ModelError;
use crate::fashn_vton::FashnVton;
use crate::fashn_vton::config::Config;
use crate::fashn_vton::prepare::PrepareConfig;
use crate::model::{Model, Sampling};
use crate::noop::Noop;
use crate::person::stage::Stage;
use crate::stable_diffusion::config as stable_diffusion;
use crate::stable_diffusion::pipeline::StableDiffusion;
use crate::stable_diffusion::tokenizer::random_merges;
use crate::weights::contract::Expected;

/// Roles of safetensors files and the tensors that each must hold.
pub(super) type Contracts = Vec<(&'static str, Vec<Expected>)>;

/// A text file that a release needs beside its tensors.
pub(super) struct Text {
    /// Its role.
    pub(super) role: &'static str,
    /// One made up from a seed that fits the release.
    pub(super) random: fn(&ReleaseManifest, u64) -> Result<String, ModelError>,
}

/// An architecture. Adding one is a line in [`KINDS`].
pub(super) struct Kind {
    name: &'static str,
    task: Task,
    contracts: fn(&ReleaseManifest) -> Result<Contracts, ModelError>,
    /// Likewise of files that not every render needs, as far as the release names them.
    extras: fn(&ReleaseManifest) -> Result<Contracts, ModelError>,
    /// Networks that read photographs: roles of the files that every render needs.
    readers: fn(&ReleaseManifest) -> Result<Vec<&'static str>, ModelError>,
    /// Likewise those that only a garment that somebody wears needs.
    worn_readers: fn(&ReleaseManifest) -> Result<Vec<&'static str>, ModelError>,
    /// Makes a release do without them.
    leave_out_readers: fn(&mut ReleaseManifest),
    /// What it needs beside the files with tensors.
    texts: &'static [Text],
    /// What it cannot do of how a quality takes its steps: fields, and what they must be.
    method_mistakes: fn(&Method) -> Vec<(&'static str, &'static str)>,
    arithmetic: fn(&ReleaseManifest, &Sampling) -> Result<Option<Arithmetic>, ModelError>,
    build: fn(&Files<'_>, &Device, Precision) -> Result<Model, ModelError>,
}

/// Every architecture.
const KINDS: &[Kind] = &[
    Kind {
        name: "fashn-vton",
        task: Task::TryOn,
        contracts: |manifest| Ok(vec![("weights", Config::of(manifest)?.0.contract())]),
        extras: |manifest| {
            let (_, _, prepare) = Config::of(manifest)?;
            let parses = manifest.file(ManifestFile::PARSER).is_some();
            Ok(parses.then(|| (ManifestFile::PARSER, prepare.parser.contract())).into_iter().collect())
        },
        readers: |manifest| Ok(Config::of(manifest)?.2.readers()),
        worn_readers: |manifest| Ok(Config::of(manifest)?.2.worn_readers()),
        leave_out_readers: |manifest| {
            // A random parser still cuts something out, so that scenes can be tried.
            let parser = manifest.scene.is_none().then_some(Stage::Parser);
            let readers =
                [Some(Stage::Detector), Some(Stage::Pose), parser].map(|stage| stage.map(Stage::role));
            manifest.files.retain(|file| !readers.contains(&Some(file.role.as_str())));
            PrepareConfig::leave_out_readers(&mut manifest.config);
        },
        texts: &[],
        method_mistakes: |_| Vec::new(),
        arithmetic: |manifest, sampling| {
            let (network, sampler, _) = Config::of(manifest)?;
            Ok(Some(network.arithmetic(sampler.passes(sampling.steps, sampling.guidance))))
        },
        build: |files, device, precision| {
            let network = FashnVton::release(files, device, precision)?;
            Ok(Model::try_on(Arc::clone(files.manifest), network))
        },
    },
    Kind {
        name: "stable-diffusion",
        task: Task::TextToImage,
        contracts: |manifest| stable_diffusion::Config::of(manifest)?.contracts(),
        extras: |_| Ok(Vec::new()),
        readers: |_| Ok(Vec::new()),
        worn_readers: |_| Ok(Vec::new()),
        leave_out_readers: |_| (),
        texts: &[Text {
            role: "merges",
            random: |manifest, seed| {
                let config = stable_diffusion::Config::of(manifest)?;
                Ok(random_merges(config.text_encoder.vocab_size, seed))
            },
        }],
        method_mistakes: stable_diffusion::method_mistakes,
        arithmetic: |manifest, sampling| {
            let config = stable_diffusion::Config::of(manifest)?;
            Ok(Some(config.arithmetic(manifest.size, sampling)))
        },
        build: |files, device, precision| {
            let networks = StableDiffusion::release(files, device, precision)?;
            Ok(Model::text_to_image(Arc::clone(files.manifest), networks))
        },
    },
    Kind {
        name: "noop",
        task: Task::Noop,
        contracts: |_| Ok(Vec::new()),
        extras: |_| Ok(Vec::new()),
        readers: |_| Ok(Vec::new()),
        worn_readers: |_| Ok(Vec::new()),
        leave_out_readers: |_| (),
        texts: &[],
        method_mistakes: |_| Vec::new(),
        arithmetic: |_, _| Ok(None),
        build: |files, _, _| Ok(Model::try_on(Arc::clone(files.manifest), Noop::new(files.manifest))),
    },
];

impl Kind {
    /// The architecture of a manifest that was added to a registry.
    pub(super) fn of(manifest: &ReleaseManifest) -> Result<&'static Self, ModelError> {
        Self::find(manifest).map_err(|mistake| ModelError::Config { mistakes: vec![mistake] })
    }

    /// Everything that is wrong with a manifest in the eyes of its architecture.
    pub(super) fn mistakes(manifest: &ReleaseManifest) -> Vec<String> {
        let kind = match Self::find(manifest) {
            Ok(kind) => kind,
            Err(mistake) => return vec![mistake],
        };
        let mut mistakes = Vec::new();
        if kind.task != manifest.task {
            mistakes.push(format!("task: {} is for {}, not for {}", kind.name, kind.task, manifest.task));
        }
        for (quality, settings) in &manifest.quality {
            let wrong = (kind.method_mistakes)(&settings.method()).into_iter();
            mistakes.extend(wrong.map(|(field, must)| format!("quality.{quality}.{field}: {must}")));
        }
        match (kind.contracts)(manifest) {
            Ok(contracts) => {
                let texts = kind.texts.iter().map(|text| text.role);
                let needed = contracts.iter().map(|(role, _)| *role).chain(texts);
                let unnamed = needed.filter(|role| manifest.file(role).is_none());
                mistakes.extend(unnamed.map(|role| format!("files: one with the role {role} is missing")));
            }
            // The same mistakes would come again below.
            Err(ModelError::Config { mistakes: more }) => return [mistakes, more].concat(),
            Err(error) => mistakes.push(error.to_string()),
        }
        for role in (kind.readers)(manifest).unwrap_or_default() {
            if manifest.file(role).is_none() {
                mistakes.push(format!(
                    "files: one with the role {role} is missing; a network that was trained without poses says \
                     config.poses = false"
                ));
            }
        }
        mistakes
    }

    /// Whether every render of that release needs the file.
    pub(super) fn is_needed_to_load(manifest: &ReleaseManifest, file: &ManifestFile) -> bool {
        let reads = || Self::of(manifest).and_then(|kind| (kind.readers)(manifest)).unwrap_or_default();
        file.is_needed_to_load() || reads().contains(&file.role.as_str())
    }

    /// Roles of the files that only a garment that somebody wears needs.
    pub(super) fn worn_readers(manifest: &ReleaseManifest) -> Vec<&'static str> {
        Self::of(manifest).and_then(|kind| (kind.worn_readers)(manifest)).unwrap_or_default()
    }

    /// The tensors that each file must hold.
    pub(super) fn contracts(&self, manifest: &ReleaseManifest) -> Result<Contracts, ModelError> {
        (self.contracts)(manifest)
    }

    /// Makes a release whose weights are random do without the networks that read photographs: random ones find nobody.
    pub(super) fn leave_out_readers(&self, manifest: &mut ReleaseManifest) {
        (self.leave_out_readers)(manifest);
    }

    /// Roles and tensors of files that not every render needs, as far as the release names them.
    pub(super) fn extras(&self, manifest: &ReleaseManifest) -> Result<Contracts, ModelError> {
        (self.extras)(manifest)
    }

    /// What it needs beside the files with tensors.
    pub(super) fn texts(&self) -> &'static [Text] {
        self.texts
    }

    /// Work of one image.
    pub(super) fn arithmetic(
        &self,
        manifest: &ReleaseManifest,
        sampling: &Sampling,
    ) -> Result<Option<Arithmetic>, ModelError> {
        (self.arithmetic)(manifest, sampling)
    }

    /// The loaded release.
    pub(super) fn build(
        &self,
        files: &Files<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Model, ModelError> {
        (self.build)(files, device, precision)
    }

    fn find(manifest: &ReleaseManifest) -> Result<&'static Self, String> {
        let asked = &manifest.architecture;
        KINDS.iter().find(|kind| kind.name == asked).ok_or_else(|| {
            let known = || KINDS.iter().map(|kind| kind.name.to_owned());
            match did_you_mean(asked, known()) {
                Some(meant) => format!("architecture: there is no {asked}; did you mean {meant}?"),
                None => {
                    format!(
                        "architecture: there is no {asked}; there are {}",
                        known().collect::<Vec<_>>().join(", ")
                    )
                }
            }
        })
    }
}
