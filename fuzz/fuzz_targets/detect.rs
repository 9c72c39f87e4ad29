#![no_main]
//! Pixels of any size, looked at for a mark: nothing that the fuzzer makes has one.

use kraftr_imaging::RgbImage;
use kraftr_provenance::{KeyRing, detect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [width, height, samples @ ..] = input else { return };
    if samples.is_empty() {
        return;
    }
    let (width, height) = (u32::from(*width) + 1, u32::from(*height) + 1);
    let length = (width * height * 3) as usize;
    let pixels: Vec<u8> = samples.iter().copied().cycle().take(length).collect();
    let image = RgbImage::from_raw(width, height, pixels).expect("there are as many as it takes");
    let detection = detect(&image, &KeyRing::development());
    assert!(!detection.found && detection.payload.is_none() && detection.score.is_finite());
});
