//! The mark's time and its false positives.
//!
//! `cargo run --release -p kraftr-benches --bin watermark -- speed` prints milliseconds by size beside those that decoding
//! the same picture from JPEG takes. `… -- unmarked COUNT [PICTURE...]` looks for marks in so many pictures without
//! one: cuts of the given pictures and of drawn patterns, as they are, compressed, scaled, mirrored or marked with a
//! key that is not looked for. It counts how many of the decoded words agree in the first bits of their check, which
//! must be one in 2^n. Exit code 1 when a picture is called marked, or when the counts do not fit.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use kraftr::output;
use kraftr_benches::pictures::{Random, alter, cut, drawn};
use kraftr_imaging::{Encoding, Limits, RgbImage, decode, encode};
use kraftr_provenance::{ATTEMPTS_MAX, CHECK_BITS, Key, KeyRing, Strength, attempts, detect, embed};

const LIMITS: Limits =
    Limits { bytes_max: 64 << 20, side_min: 1, side_max: 16_384, pixels_max: 64_000_000, aspect_max: 64 };
const SIZES: [(u32, u32); 6] = [(128, 128), (384, 576), (576, 864), (864, 1296), (1536, 2048), (3000, 4000)];
const RUNS: usize = 5;
/// Bits of the check that are counted.
const BITS: [u32; 4] = [4, 6, 8, 10];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["speed"] => speed(),
        ["unmarked", count, pictures @ ..] => unmarked(count, pictures),
        _ => Err(anyhow!("usage: watermark speed | watermark unmarked COUNT [PICTURE...]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: impl Display) {
    // Nobody is left to be told when standard error is closed.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Milliseconds of the best run.
fn milliseconds<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let started = Instant::now();
        work()?;
        best = best.min(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}

fn speed() -> Result<()> {
    let (key, ring) = (Key::development(), KeyRing::development());
    let keys = (0..16).map(|n| Key::from_hex(&format!("k{n}"), &format!("{n:064x}")));
    let full = KeyRing::new(keys.collect::<Result<_, _>>()?)?;
    for (width, height) in SIZES {
        let picture = drawn(&mut Random(7), width, height);
        let file = encode(&picture, Encoding::Jpeg { quality: 90 })?;
        let marked = embed(&picture, *b"8 bytes.", &key, Strength::Normal)?;
        let decoding = milliseconds(|| Ok(decode(&file, &LIMITS)?))?;
        let embedding = milliseconds(|| Ok(embed(&picture, *b"8 bytes.", &key, Strength::Normal)?))?;
        let finding = milliseconds(|| Ok(detect(&marked, &ring)))?;
        let searching = milliseconds(|| Ok(detect(&picture, &ring)))?;
        let ringing = milliseconds(|| Ok(detect(&picture, &full)))?;
        output::json(&serde_json::json!({
            "bench": "watermark_speed",
            "width": width,
            "height": height,
            "jpeg_decode_ms": decoding,
            "embed_ms": embedding,
            "detect_marked_ms": finding,
            "detect_unmarked_ms": searching,
            "detect_unmarked_16_keys_ms": ringing,
            "embed_ratio": embedding / decoding,
            "detect_marked_ratio": finding / decoding,
            "detect_unmarked_ratio": searching / decoding,
        }))?;
    }
    Ok(())
}

/// What the code words that were decoded in pictures without a mark look like.
#[derive(Default)]
struct Counts {
    /// Pictures that are called marked.
    found: u64,
    words: u64,
    /// Words of one picture at most.
    most: usize,
    /// Words that agree in the first of [`BITS`] of their check.
    agreed: [u64; BITS.len()],
}

impl Counts {
    /// Adds a picture whose words agree in so many first bits.
    fn count(&mut self, checks: &[u32]) {
        self.found += u64::from(checks.contains(&CHECK_BITS));
        self.words += checks.len() as u64;
        self.most = self.most.max(checks.len());
        for (agreed, bits) in self.agreed.iter_mut().zip(BITS) {
            *agreed += checks.iter().filter(|check| **check >= bits).count() as u64;
        }
    }

    fn with(mut self, other: &Self) -> Self {
        self.found += other.found;
        self.words += other.words;
        self.most = self.most.max(other.most);
        self.agreed.iter_mut().zip(other.agreed).for_each(|(sum, more)| *sum += more);
        self
    }
}

/// A picture without a mark of the development key.
fn without_mark(seed: u64, pictures: &[RgbImage]) -> Result<RgbImage> {
    let mut random = Random(seed);
    let base = if pictures.is_empty() || random.below(4) == 0 {
        drawn(&mut random, 448, 448)
    } else {
        pictures[random.below(pictures.len() as u64) as usize].clone()
    };
    alter(&mut random, &cut(&mut Random(seed ^ 0x5eed), &base)?)
}

fn unmarked(count: &str, paths: &[&str]) -> Result<()> {
    let count: u64 = count.parse().with_context(|| format!("{count:?} is no number of pictures"))?;
    let load = |path: &&str| -> Result<RgbImage> {
        let bytes = std::fs::read(Path::new(path)).with_context(|| format!("cannot read {path}"))?;
        Ok(decode(&bytes, &LIMITS).with_context(|| (*path).to_owned())?.image)
    };
    let pictures: Vec<RgbImage> = paths.iter().map(load).collect::<Result<_>>()?;
    let next = AtomicU64::new(0);
    let search = || -> Result<Counts> {
        let mut counts = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok(counts);
            }
            counts.count(&attempts(&without_mark(seed, &pictures)?, &KeyRing::development()));
        }
    };
    let Counts { found, words, most, agreed } = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let searches: Vec<_> = (0..cores).map(|_| scope.spawn(search)).collect();
        searches.into_iter().try_fold(Counts::default(), |sum, search| {
            let counts = search.join().map_err(|_| anyhow!("a search panicked"))??;
            anyhow::Ok(sum.with(&counts))
        })
    })?;
    let expected = BITS.map(|bits| words as f64 / f64::from(1u32 << bits));
    output::json(&serde_json::json!({
        "bench": "watermark_unmarked",
        "pictures": count,
        "found": found,
        "words": words,
        "words_most": most,
        "words_limit": ATTEMPTS_MAX,
        "bits": BITS,
        "agreed": agreed,
        "expected": expected,
    }))?;
    if found > 0 {
        bail!("{found} pictures without a mark are called marked");
    }
    // Four deviations of a binomial count.
    if agreed
        .iter()
        .zip(expected)
        .any(|(agreed, expected)| (*agreed as f64 - expected).abs() > 4.0 * expected.sqrt() + 1.0)
    {
        bail!("the check does not agree as often as chance would have it");
    }
    Ok(())
}
