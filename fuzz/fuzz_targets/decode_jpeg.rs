#![no_main]
//! JPEG segments after the start of the image.

use kraftr_fuzz::{decode_checked, only_escaped_panics_count};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: only_escaped_panics_count(), |segments: &[u8]| {
    decode_checked(&[b"\xFF\xD8\xFF", segments].concat());
});
