//! Proof that a release is what its manifest says: digests, tensors, outputs.

use candle_core::Device;
use kraftr_protocol::manifest::ManifestFile;
use kraftr_protocol::{Digest, ReleaseManifest};
use serde::Serialize;

use super::{Kind, Place, Registry, compiled_in};
use crate::device::Precision;
use crate::error::ModelError;
use crate::parity;
use crate::weights::contract::Mismatch;
use crate::weights::receipt;

/// What was found about a release.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub release: String,
    /// Whether everything that was looked at is right, and everything was there that loading needs.
    pub ok: bool,
    /// Every file against the manifest's length and digest.
    pub files: Vec<FileCheck>,
    /// Every safetensors file against the tensors that the configuration asks for.
    pub contracts: Vec<ContractCheck>,
    /// The network's outputs against those recorded from the reference.
    pub golden: Golden,
}

/// One file against its manifest.
#[derive(Debug, Serialize)]
pub struct FileCheck {
    /// Its role.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Whether length and SHA-256 are those of the manifest.
    pub ok: bool,
    /// What is wrong otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One file against the tensors that it must hold.
#[derive(Debug, Serialize)]
pub struct ContractCheck {
    /// Its role.
    pub role: String,
    /// Whether it holds them and no others.
    pub ok: bool,
    /// Tensors that it must hold.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Every difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<Mismatch>,
}

/// Outputs against recorded ones.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Golden {
    /// The manifest names no file with the role `golden`.
    NotNamed,
    /// It names one, and not all that it takes is there and right.
    NotCompared {
        /// What is missing.
        why: String,
    },
    /// They were compared.
    Compared(parity::Report),
}

impl Registry {
    /// Proves a release: hashes every file, compares the tensors with the configuration, and, when the manifest names
    /// a golden file, the outputs with the recorded ones. `on_bytes` hears how many bytes more are hashed.
    pub fn check(&self, release: &str, mut on_bytes: impl FnMut(u64)) -> Result<CheckReport, ModelError> {
        let manifest = self.get(release)?;
        let mut files = Vec::new();
        for file in &manifest.files {
            files.push(self.check_file(file, &mut on_bytes));
        }
        let mut contracts = Vec::new();
        let kind = Kind::of(manifest)?;
        for (role, contract) in [kind.contracts(manifest)?, kind.extras(manifest)?].concat() {
            let found = self.files(manifest);
            let right = files.iter().any(|file| file.role == role && file.ok);
            if !right {
                continue;
            }
            let mismatch = found.weights(role)?.mismatch(&contract)?;
            contracts.push(ContractCheck {
                role: role.to_owned(),
                ok: mismatch.is_empty(),
                tensors: contract.len(),
                parameters: contract.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
                mismatch: (!mismatch.is_empty()).then_some(mismatch),
            });
        }
        let golden = self.check_golden(manifest, &files)?;
        let needed = |check: &&FileCheck| Self::needed_to_load(manifest).any(|file| file.role == check.role);
        // A golden file that was not pulled is nobody's fault; one that is there must be right.
        let ok = files.iter().filter(needed).all(|check| check.ok)
            && files.iter().all(|check| check.ok || check.problem.as_deref() == Some(NOT_HERE))
            && contracts.iter().all(|check| check.ok)
            && !matches!(&golden, Golden::Compared(report) if !report.ok);
        Ok(CheckReport { release: release.to_owned(), ok, files, contracts, golden })
    }

    fn check_file(&self, file: &ManifestFile, on_bytes: &mut impl FnMut(u64)) -> FileCheck {
        let problem = match self.place(file) {
            Place::There(path) => receipt::verify(&path, file, on_bytes).err().map(|error| error.to_string()),
            Place::OtherLength(_, found) => Some(format!("has {found} bytes instead of {}", file.bytes)),
            Place::CompiledIn => {
                let found = compiled_in(file).map(Digest::of);
                (found != Some(file.sha256)).then(|| "is compiled in with another SHA-256".to_owned())
            }
            Place::Missing(_) => Some(NOT_HERE.to_owned()),
        };
        FileCheck { role: file.role.clone(), name: file.name.clone(), ok: problem.is_none(), problem }
    }

    fn check_golden(&self, manifest: &ReleaseManifest, files: &[FileCheck]) -> Result<Golden, ModelError> {
        let Some(golden) = manifest.file(ManifestFile::GOLDEN) else { return Ok(Golden::NotNamed) };
        let counts = |check: &&FileCheck| {
            let named = manifest.files.iter().find(|file| file.role == check.role);
            named.is_some_and(|file| file.only_proves() || Kind::is_needed_to_load(manifest, file))
        };
        if let Some(wrong) = files.iter().filter(counts).find(|file| !file.ok) {
            let why = format!("{} {}", wrong.name, wrong.problem.as_deref().unwrap_or_default());
            return Ok(Golden::NotCompared { why });
        }
        match self.place(golden) {
            Place::There(path) => {
                let mut ours = manifest.files.iter().map(|file| &file.name);
                match parity::weights_of(&path)? {
                    Some(weights) if ours.any(|name| *name == weights) => {
                        parity::check(&path, &Device::Cpu, Some(Precision::F32)).map(Golden::Compared)
                    }
                    _ => Ok(Golden::NotCompared { why: format!("{} is about other weights", golden.name) }),
                }
            }
            _ => Ok(Golden::NotCompared { why: format!("{} {NOT_HERE}", golden.name) }),
        }
    }
}

const NOT_HERE: &str = "is not on this machine";
