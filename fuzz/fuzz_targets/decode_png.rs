#![no_main]
//! PNG chunks after the signature.

use kraftr_fuzz::{decode_checked, only_escaped_panics_count};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: only_escaped_panics_count(), |chunks: &[u8]| {
    decode_checked(&[b"\x89PNG\r\n\x1a\n", chunks].concat());
});
