//! Why a render failed: a stable code, a class that decides what happens next, a safe message.

use serde::{Deserialize, Serialize};

/// What the scheduler does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Another worker may succeed.
    Retryable,
    /// No worker will; the credits are given back.
    Permanent,
    /// It takes workers down; the credits are given back and an operator looks at it.
    Poison,
}

/// The stable name of a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// An input could not be fetched.
    InputUnavailable,
    /// An input is not a picture the model can take.
    InputInvalid,
    /// The model reported an error.
    ModelError,
    /// The worker ran out of memory even alone.
    OutOfMemory,
    /// The artifact could not be uploaded.
    UploadFailed,
    /// The Content Credentials could not be signed or written.
    SigningFailed,
    /// The mark could not be read back from the encoded picture.
    WatermarkFailed,
    /// An artifact that was reported is not in the store.
    ArtifactMissing,
    /// The claim ran longer than a render may.
    TimeLimit,
    /// The release is not on this worker.
    ReleaseUnavailable,
    /// The render waited too long for a worker.
    QueueTimeout,
    /// The worker stopped answering too often while it held this render.
    LeaseLost,
    /// The worker's engine crashed while the render was in it.
    EngineCrash,
}

impl FailureCode {
    /// What happens next when nothing more is known.
    pub const fn class(self) -> FailureClass {
        match self {
            Self::InputUnavailable
            | Self::ModelError
            | Self::OutOfMemory
            | Self::UploadFailed
            | Self::SigningFailed
            | Self::ArtifactMissing
            | Self::TimeLimit
            | Self::ReleaseUnavailable => FailureClass::Retryable,
            Self::InputInvalid | Self::WatermarkFailed | Self::QueueTimeout => FailureClass::Permanent,
            Self::LeaseLost | Self::EngineCrash => FailureClass::Poison,
        }
    }
}

/// One failure, as a worker reports it and as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// The stable name of the cause.
    pub code: FailureCode,
    /// What the scheduler does about it.
    pub class: FailureClass,
    /// For people; never holds content, names or paths.
    pub message: String,
}

impl Failure {
    /// A failure of `code` in the class that the code has by itself.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, class: code.class(), message: message.into() }
    }
}
