//! Values inside a forward pass, recorded under names when somebody asks.

use candle_core::Tensor;

/// Off unless made by [`Trace::recording`]; a clone of a tensor is a reference count.
#[derive(Default)]
pub(crate) struct Trace(Option<Vec<(String, Tensor)>>);

impl Trace {
    /// A trace that keeps what it is given.
    pub(crate) fn recording() -> Self {
        Self(Some(Vec::new()))
    }

    /// Keeps `value` under a name.
    pub(crate) fn note(&mut self, name: impl FnOnce() -> String, value: &Tensor) {
        if let Some(values) = &mut self.0 {
            values.push((name(), value.clone()));
        }
    }

    /// What was kept, in order.
    pub(crate) fn into_values(self) -> Vec<(String, Tensor)> {
        self.0.unwrap_or_default()
    }
}
