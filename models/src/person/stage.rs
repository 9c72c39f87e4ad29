//! The stages of a preparation, each with a network of its own, and what is said where that is not to be had.

use std::fmt;
use std::path::PathBuf;

use kraftr_protocol::manifest::ManifestFile;

use crate::ModelError;

/// A network that reads photographs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finds people.
    Detector,
    /// Finds the points of a person.
    Pose,
    /// Tells clothes, limbs and ground apart.
    Parser,
}

impl Stage {
    /// The role of its file in a manifest.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Detector => "detector",
            Self::Pose => "pose",
            Self::Parser => ManifestFile::PARSER,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detector => "finding people in a photograph",
            Self::Pose => "finding the pose of a person",
            Self::Parser => "telling clothes from skin and ground",
        })
    }
}

/// Why a stage cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The manifest names no file for it.
    #[error("{stage} needs a file with the role {:?}, and the manifest of release {release} names none", stage.role())]
    Unnamed {
        /// The stage.
        stage: Stage,
        /// The release.
        release: String,
    },
    /// Its file is not on this machine.
    #[error("{stage} needs {file}, which is not in {}; fetch it with `kraftr model pull {release}`", looked_in.display())]
    Absent {
        /// The stage.
        stage: Stage,
        /// Name of the file.
        file: String,
        /// The weights folder.
        looked_in: PathBuf,
        /// The release.
        release: String,
    },
}

/// A stage that is missing is no error by itself, one that cannot be loaded is.
pub(crate) fn settle<T>(
    stage: Result<Result<T, ModelError>, Missing>,
) -> Result<Result<T, Missing>, ModelError> {
    match stage {
        Ok(loaded) => Ok(Ok(loaded?)),
        Err(missing) => Ok(Err(missing)),
    }
}
