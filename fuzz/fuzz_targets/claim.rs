#![no_main]
//! What workers ask a scheduler to sign, and what key services and operators hand it.

use std::sync::LazyLock;

use kraftr_provenance::credentials::{Anchors, Chain, Signature, SigningKey, check_claim};
use libfuzzer_sys::fuzz_target;

static CHAIN: LazyLock<Chain> =
    LazyLock::new(|| Chain::from_pem(include_str!("../chain.pem")).expect("it was made for this"));

fuzz_target!(|bytes: &[u8]| {
    let _judged = check_claim(bytes, &CHAIN);
    if let Some(signature) = Signature::parse(bytes) {
        assert!(!CHAIN.verifies(bytes, &signature), "nobody has the key");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _read = (Chain::from_pem(text), Anchors::from_pem(text), SigningKey::from_pem(text).is_ok());
    }
});
