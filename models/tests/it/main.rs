//! Integration tests of the models: against recorded references, alone and in batches.

mod batch_invariance;
mod golden;
mod releases;
