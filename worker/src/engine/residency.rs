//! The releases that are loaded.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kraftr_models::{Device, Model, ModelError, Registry};

/// Loaded models: written by the engine's thread, read by whoever prepares inputs.
pub(crate) struct Residency {
    registry: Arc<Registry>,
    device: Device,
    models: RwLock<BTreeMap<String, Arc<Model>>>,
}

impl Residency {
    pub(crate) fn new(registry: Arc<Registry>, device: Device) -> Self {
        Self { registry, device, models: RwLock::default() }
    }

    pub(crate) fn get(&self, release: &str) -> Option<Arc<Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).get(release).cloned()
    }

    /// Loads a release anew. The one that was there serves no more, whether this succeeds or not.
    pub(crate) fn load(&self, release: &str) -> Result<(), ModelError> {
        self.models.write().unwrap_or_else(PoisonError::into_inner).remove(release);
        let model = Arc::new(self.registry.load(release, &self.device)?);
        self.models.write().unwrap_or_else(PoisonError::into_inner).insert(release.to_owned(), model);
        Ok(())
    }
}
