//! Models fail and crash; the engine goes on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kraftr_models::ModelError;
use kraftr_protocol::{Failure, FailureCode};

use super::command::Outcome;

/// What can go wrong inside a model.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It said so.
    Failed(Failure),
    /// It panicked: what it was working on is undefined.
    Crashed,
}

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        tracing::warn!(%error, "the model failed");
        let code = error.failure_code();
        // Only what concerns the inputs is for their owner; the rest names files and devices.
        let message = match code {
            FailureCode::InputInvalid => error.to_string(),
            FailureCode::OutOfMemory => "the device ran out of memory".to_owned(),
            FailureCode::ReleaseUnavailable => "the release cannot be used on this worker".to_owned(),
            _ => "the model could not compute this render".to_owned(),
        };
        Self::Failed(Failure::new(code, message))
    }
}

impl Fault {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(failure) => Outcome::Failed(failure.clone()),
            Self::Crashed => Outcome::Crashed,
        }
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Failed(Failure { code: FailureCode::OutOfMemory, .. }))
    }
}

/// Runs model code, so that a panic in it is a fault and not the end of the thread.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, Fault> {
    // Whatever the model was working on is dropped, so nobody sees it half changed.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(panic) => {
            tracing::error!(panic = message(&*panic), "the model crashed");
            Err(Fault::Crashed)
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
