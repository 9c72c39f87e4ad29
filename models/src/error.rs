//! What can go wrong with a model, and what to do about it.

use std::path::PathBuf;

use kraftr_imaging::ImagingError;
use kraftr_protocol::FailureCode;
use kraftr_protocol::manifest::{ManifestError, Task};

use crate::device::DeviceError;
use crate::person::stage::Missing;
use crate::weights::contract::Mismatch;

/// Why a release cannot be loaded or a sample cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No manifest has that name.
    #[error("no release is named {name:?}; {}", match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("known are: {}", known.join(", ")),
    })]
    UnknownRelease {
        /// What was asked for.
        name: String,
        /// What was probably meant.
        meant: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// Manifests that do not hold what a manifest must: all of them, each with all of its mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Manifests(Vec<ManifestError>),
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The weights of a release are not on this machine.
    #[error("{file} of {release} is not in {}; `kraftr model pull {release}` fetches it", looked_in.display())]
    WeightsMissing {
        /// Name of the file.
        file: String,
        /// The weights folder.
        looked_in: PathBuf,
        /// The release that needs it.
        release: String,
    },
    /// A file is not the one that the manifest names.
    #[error("{file} is not the file that its manifest names: expected {expected}, found {found}")]
    WeightsChanged {
        /// Name of the file.
        file: String,
        /// Length or digest in the manifest.
        expected: String,
        /// Length or digest of the file.
        found: String,
    },
    /// The tensors of a file are not those that the configuration asks for.
    #[error("{file} does not fit its configuration: {mismatch}")]
    Contract {
        /// Name of the file.
        file: String,
        /// Every difference.
        mismatch: Box<Mismatch>,
    },
    /// A weights file in another format, or a damaged one.
    #[error("{file} is no safetensors file: {reason}")]
    NotSafetensors {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A configuration that the architecture refuses; every reason.
    #[error("configuration: {}", mistakes.join("; "))]
    Config {
        /// One sentence each.
        mistakes: Vec<String>,
    },
    /// Sampling outside of what the release accepts.
    #[error("{field}: {message}")]
    Sampling {
        /// The field.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// Inputs of another task than the release's.
    #[error("release {release} does {task}; hand it the inputs of that task")]
    WrongInputs {
        /// The release.
        release: String,
        /// What it does.
        task: Task,
    },
    /// A prepared input or a sample of another release was handed to this one.
    #[error("state of release {owner} was handed to release {release}")]
    ForeignState {
        /// Who made it.
        owner: String,
        /// Who got it.
        release: String,
    },
    /// A device that this program or machine does not have.
    #[error("device {name:?}: {reason}")]
    Device {
        /// What was asked for.
        name: String,
        /// Why it cannot be had, and what can.
        #[source]
        reason: DeviceError,
    },
    /// A picture that cannot be used, and what to send instead.
    #[error("{0}")]
    Picture(String),
    /// A picture could not be resized.
    #[error("resizing: {0}")]
    Resize(String),
    /// An ONNX file that is not the network it should be.
    #[error("the network {file}: {reason}")]
    Onnx {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A stage of the preparation that this render needs and this machine cannot run.
    #[error(transparent)]
    Stage(#[from] Missing),
    /// Weights whose licence forbids commercial use, where the operator has not allowed them.
    #[error(
        "release {release} would use {file}, whose licence ({licence}) forbids commercial use; set \
         models.allow_noncommercial where that is no obstacle"
    )]
    Noncommercial {
        /// The release.
        release: String,
        /// Name of the file.
        file: String,
        /// Its licence.
        licence: String,
    },
    /// A parity fixture that cannot be used.
    #[error("fixture {}: {reason}", path.display())]
    Fixture {
        /// The fixture.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensor library.
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl From<ImagingError> for ModelError {
    fn from(error: ImagingError) -> Self {
        Self::Resize(error.to_string())
    }
}

impl ModelError {
    /// The code under which a worker reports this.
    pub fn failure_code(&self) -> FailureCode {
        match self {
            Self::UnknownRelease { .. }
            | Self::Manifests(_)
            | Self::Read { .. }
            | Self::WeightsMissing { .. }
            | Self::WeightsChanged { .. }
            | Self::Contract { .. }
            | Self::NotSafetensors { .. }
            | Self::Write { .. }
            | Self::Config { .. }
            | Self::Device { .. }
            | Self::Onnx { .. }
            | Self::Stage(_)
            | Self::Noncommercial { .. }
            | Self::Fixture { .. } => FailureCode::ReleaseUnavailable,
            Self::Picture(_) | Self::Resize(_) => FailureCode::InputInvalid,
            Self::Tensor(error) if is_out_of_memory(error) => FailureCode::OutOfMemory,
            Self::Sampling { .. }
            | Self::WrongInputs { .. }
            | Self::ForeignState { .. }
            | Self::Tensor(_) => FailureCode::ModelError,
        }
    }
}

/// CUDA reports a failed allocation by name only, at any depth of candle's error.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    text.contains("OUT_OF_MEMORY") || text.contains("out of memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_codes() {
        let oom =
            ModelError::Tensor(candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY)".to_owned()));
        assert_eq!(oom.failure_code(), FailureCode::OutOfMemory);
        let other = ModelError::Tensor(candle_core::Error::Msg("shape mismatch".to_owned()));
        assert_eq!(other.failure_code(), FailureCode::ModelError);
        let missing =
            ModelError::UnknownRelease { name: "x".to_owned(), meant: None, known: vec!["y".to_owned()] };
        assert_eq!(missing.failure_code(), FailureCode::ReleaseUnavailable);
        assert_eq!(missing.to_string(), "no release is named \"x\"; known are: y");
    }
}
