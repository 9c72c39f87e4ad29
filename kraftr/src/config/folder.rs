//! A folder as a value of the configuration.

use std::path::{Path, PathBuf};

use super::value::Setting;

/// A folder by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Setting for Folder {
    const PLACEHOLDER: &'static str = "DIR";

    fn expected() -> String {
        "the path of a folder".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(PathBuf::from(text)))
    }

    fn show(&self) -> String {
        self.0.display().to_string()
    }
}
