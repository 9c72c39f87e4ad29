//! A weights file in memory: compiled in, or mapped from disk.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use kraftr_protocol::Digest;
use kraftr_protocol::manifest::ManifestFile;
use memmap2::{Advice, Mmap};
use safetensors::SafeTensors;

use super::contract::{Expected, Mismatch};
use super::receipt;
use crate::ModelError;
use crate::device::Precision;

/// The bytes of one file of a release, and where in it the network's tensors lie.
pub(crate) struct Weights {
    name: String,
    bytes: Bytes,
    prefix: &'static str,
}

enum Bytes {
    CompiledIn(&'static [u8]),
    Mapped(Mmap),
}

impl Weights {
    /// A file that is part of this program.
    pub(crate) fn compiled_in(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: name.to_owned(), bytes: Bytes::CompiledIn(bytes), prefix: "" }
    }

    /// Maps a file and proves that it is the one the manifest means, by its receipt or by hashing it.
    pub(crate) fn pinned(path: &Path, expected: &ManifestFile) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        receipt::check_length(path, expected, &metadata)?;
        let weights = Self::map(path, &file, "")?;
        if !receipt::is_remembered(path, expected.sha256, &metadata) {
            let started = Instant::now();
            let found = Digest::of(weights.bytes());
            receipt::conclude(path, expected, found, &metadata)?;
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(file = %path.display(), seconds, "computed the SHA-256, once");
        }
        Ok(weights)
    }

    /// Maps a file without asking which one it is; only tensors below `prefix` (with its dot) count.
    pub(crate) fn read(path: &Path, prefix: &'static str) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        Self::map(path, &file, prefix)
    }

    fn map(path: &Path, file: &File, prefix: &'static str) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Read { path: path.to_owned(), source };
        // SAFETY: what is mapped must not change under the mapping. Files of a weights folder are never written in
        // place: pulling and making weights both write another file beside and rename it over the name, after which
        // the mapping still holds the old file. Everything else that touches the folder is told so in its
        // documentation, and a file cut off all the same ends the process (SIGBUS): it renders nothing wrong.
        #[expect(unsafe_code, reason = "mapping a file; the comment above argues it")]
        let map = unsafe { Mmap::map(file) }.map_err(unreadable)?;
        // Only a hint, for reading ahead: a system that does not take it reads as well.
        map.advise(Advice::WillNeed).ok();
        Ok(Self { name: path.display().to_string(), bytes: Bytes::Mapped(map), prefix })
    }

    /// All of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::CompiledIn(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }

    /// How the file's tensors differ from what is expected.
    pub(crate) fn mismatch(&self, expected: &[Expected]) -> Result<Mismatch, ModelError> {
        Ok(self.compare(&self.tensors()?, expected))
    }

    /// What the file is called in errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Proves that the file holds the expected tensors and no others, and hands them out.
    pub(crate) fn open(
        &self,
        expected: &[Expected],
        device: &Device,
        precision: Precision,
    ) -> Result<Tensors<'_>, ModelError> {
        let file = self.tensors()?;
        let mismatch = self.compare(&file, expected);
        if !mismatch.is_empty() {
            return Err(ModelError::Contract { file: self.name.clone(), mismatch: Box::new(mismatch) });
        }
        Ok(Tensors { file, prefix: self.prefix, device: device.clone(), dtype: precision.dtype() })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, ModelError> {
        SafeTensors::deserialize(self.bytes()).map_err(|error| ModelError::NotSafetensors {
            file: self.name.clone(),
            reason: error.to_string(),
        })
    }

    fn compare(&self, file: &SafeTensors<'_>, expected: &[Expected]) -> Mismatch {
        let found: Vec<_> = file.iter().collect();
        let found = found
            .iter()
            .filter_map(|(name, view)| Some((name.strip_prefix(self.prefix)?, (view.shape(), view.dtype()))));
        Mismatch::between(expected, found)
    }
}

/// The tensors of a file that passed its contract.
pub(crate) struct Tensors<'a> {
    file: SafeTensors<'a>,
    prefix: &'static str,
    device: Device,
    dtype: DType,
}

impl Tensors<'_> {
    /// One tensor on the device in the network's precision; the file may hold f32, f16 or bf16. Nothing but this
    /// tensor is copied: a file in the network's precision goes to a GPU as it lies.
    pub(crate) fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        use candle_core::safetensors::Load as _;
        let view = self.file.tensor(&format!("{}{name}", self.prefix))?;
        view.load(&self.device)?.to_dtype(self.dtype)
    }

    /// Whether the file holds it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.tensor(&format!("{}{name}", self.prefix)).is_ok()
    }

    /// In what the network computes.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the tensors go.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}
