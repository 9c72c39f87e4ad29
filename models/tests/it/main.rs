//! Integration tests of the models: against recorded references, alone and in batches.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::print_stderr,
    reason = "the worst errors of each fixture are worth a line under --nocapture"
)]

mod batch_invariance;
mod golden;
mod golden_preparation;
mod photographs;
mod precision;
mod qualities;
mod releases;
mod stable_diffusion;
