#![no_main]
//! Whole files, as `POST /v1/verify` and `kraftr verify` get them.

use kraftr_fuzz::{LIMITS, only_escaped_panics_count};
use kraftr_provenance::credentials::{Anchors, Status};
use kraftr_provenance::{KeyRing, Verdict, examine};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: only_escaped_panics_count(), |bytes: &[u8]| {
    let Ok(evidence) = examine(bytes, &LIMITS, &KeyRing::development(), &Anchors::none()) else { return };
    assert_ne!(evidence.credentials.status, Status::Trusted, "nobody is trusted here");
    assert_eq!(evidence.mark.payload.is_some(), evidence.verdict(None) == Verdict::Marked);
});
