//! What the targets share.

use std::panic;

use kraftr_imaging::{Decoded, Encoding, Limits, decode, encode};

/// Small, so that many files are tried in a second; the same checks stand before larger ones.
pub const LIMITS: Limits =
    Limits { bytes_max: 1 << 20, side_min: 1, side_max: 2_048, pixels_max: 1 << 18, aspect_max: 2_048 };

/// A panic that is caught where foreign decoders are called is an answer; one that escapes ends the target. The fuzzer's
/// own hook would end it in both cases.
pub fn only_escaped_panics_count() {
    let _aborting = panic::take_hook();
}

/// Decodes, and holds what was decoded against what is promised of it.
pub fn decode_checked(bytes: &[u8]) {
    let Ok(Decoded { image, .. }) = decode(bytes, &LIMITS) else { return };
    let (width, height) = image.dimensions();
    assert!(width.max(height) <= LIMITS.side_max && u64::from(width) * u64::from(height) <= LIMITS.pixels_max);
    let file = encode(&image, Encoding::Png).expect("what was decoded can be encoded");
    let again = decode(&file, &Limits::exactly(width, height, file.len())).expect("our own file can be read");
    assert!(again.image == image, "a lossless file brings back its pixels");
}
