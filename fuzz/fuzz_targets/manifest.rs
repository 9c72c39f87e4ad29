#![no_main]
//! A manifest store, put where each format keeps it.

use kraftr_fuzz::only_escaped_panics_count;
use kraftr_imaging::SourceFormat;
use kraftr_provenance::credentials::{Anchors, Status, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: only_escaped_panics_count(), |store: &[u8]| {
    for (file, format) in [(png(store), SourceFormat::Png), (webp(store), SourceFormat::Webp)] {
        let reading = read(&file, format, &Anchors::none());
        assert_ne!(reading.status, Status::Trusted, "nobody is trusted here");
    }
});

fn png(store: &[u8]) -> Vec<u8> {
    let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0];
    let row = [0x78, 0x01, 0x63, 0x60, 0x00, 0x00, 0x00, 0x02, 0x00, 0x01];
    let chunk = |kind: &[u8], body: &[u8]| {
        let named = [kind, body].concat();
        [&(body.len() as u32).to_be_bytes(), &named[..], &crc32fast::hash(&named).to_be_bytes()].concat()
    };
    let chunks = [chunk(b"IHDR", &header), chunk(b"caBX", store), chunk(b"IDAT", &row), chunk(b"IEND", &[])];
    [b"\x89PNG\r\n\x1a\n", &chunks.concat()[..]].concat()
}

fn webp(store: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8], body: &[u8]| {
        [kind, &(body.len() as u32).to_le_bytes(), body, &[0][..body.len() % 2]].concat()
    };
    // A canvas of one pixel, and that pixel without loss.
    let pixel = [0x2F, 0, 0, 0, 0, 0x88, 0x88, 0x08];
    let chunks = [chunk(b"VP8X", &[0; 10]), chunk(b"VP8L", &pixel), chunk(b"C2PA", store)].concat();
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat()
}
