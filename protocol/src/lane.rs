//! A lane is one queue: pool, release and class.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How urgent a render is: `interactive` overtakes `batch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Somebody is waiting for it.
    #[default]
    Interactive,
    /// Nobody is.
    Batch,
}

impl Class {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Batch];

    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

/// Where a render waits for a worker: workers of `pool` that have `release` take jobs of `class`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// Workers of one hardware class.
    pub pool: String,
    /// The model release that runs it, or two with a plus sign between them where it needs both
    /// ([`with_scene`](crate::spec::with_scene)).
    pub release: String,
    /// How urgent.
    pub class: Class,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.pool, self.release, self.class.as_str())
    }
}
