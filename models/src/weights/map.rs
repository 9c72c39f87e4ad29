//! A weights file in memory: compiled in or read from disk.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kraftr_protocol::Digest;
use kraftr_protocol::manifest::ManifestFile;
use safetensors::SafeTensors;

use super::contract::{Expected, Mismatch};
use crate::ModelError;

/// The bytes of one safetensors file, and where in it the network's tensors lie.
pub(crate) struct Weights {
    name: String,
    bytes: Cow<'static, [u8]>,
    prefix: &'static str,
}

impl Weights {
    /// A file that is part of this program.
    pub(crate) fn compiled_in(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: name.to_owned(), bytes: Cow::Borrowed(bytes), prefix: "" }
    }

    /// Reads a file and proves that it is the one the manifest means.
    pub(crate) fn pinned(path: &Path, file: &ManifestFile) -> Result<Self, ModelError> {
        let weights = Self::read(path, "")?;
        let changed = |expected: String, found: String| ModelError::WeightsChanged {
            file: path.display().to_string(),
            expected,
            found,
        };
        let length = weights.bytes.len() as u64;
        if length != file.bytes {
            return Err(changed(format!("{} bytes", file.bytes), format!("{length} bytes")));
        }
        let digest = Digest::of(&weights.bytes);
        if digest != file.sha256 {
            return Err(changed(format!("sha256 {}", file.sha256), format!("sha256 {digest}")));
        }
        Ok(weights)
    }

    /// Reads a file without asking which one it is; only tensors below `prefix` (with its dot) count.
    pub(crate) fn read(path: &Path, prefix: &'static str) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        Ok(Self { name: path.display().to_string(), bytes: Cow::Owned(bytes), prefix })
    }

    /// Proves that the file holds the expected tensors and no others, and hands them out.
    pub(crate) fn open(&self, expected: &[Expected], device: &Device) -> Result<Tensors<'_>, ModelError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(candle_core::Error::from)?;
        let found: Vec<_> = tensors.iter().collect();
        let found =
            found.iter().filter_map(|(name, view)| Some((name.strip_prefix(self.prefix)?, view.shape())));
        let mismatch = Mismatch::between(expected, found);
        if !mismatch.is_empty() {
            return Err(ModelError::Contract { file: self.name.clone(), mismatch });
        }
        Ok(Tensors { file: tensors, prefix: self.prefix, device: device.clone() })
    }
}

/// The tensors of a file that passed its contract.
pub(crate) struct Tensors<'a> {
    file: SafeTensors<'a>,
    prefix: &'static str,
    device: Device,
}

impl Tensors<'_> {
    /// One tensor as f32 on the device; the file may hold f32, f16 or bf16.
    pub(crate) fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        use candle_core::safetensors::Load as _;
        let view = self.file.tensor(&format!("{}{name}", self.prefix))?;
        view.load(&self.device)?.to_dtype(DType::F32)
    }

    /// Whether the file holds it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.tensor(&format!("{}{name}", self.prefix)).is_ok()
    }

    /// Where the tensors go.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}
