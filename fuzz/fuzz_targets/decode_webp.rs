#![no_main]
//! WebP chunks in a container of the right length.

use kraftr_fuzz::{decode_checked, only_escaped_panics_count};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: only_escaped_panics_count(), |chunks: &[u8]| {
    let length = (chunks.len() as u32 + 4).to_le_bytes();
    decode_checked(&[b"RIFF", &length[..], b"WEBP", chunks].concat());
});
