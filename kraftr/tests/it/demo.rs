//! `kraftr demo`, `render` and the small commands, each as a process.

use std::fs;
use std::path::Path;

use kraftr_imaging::{Encoding, Limits, Pixels, RgbImage, RgbaImage, decode_transparent, encode_transparent};
use kraftr_protocol::Format;
use serde_json::Value;

use crate::program::{Dev, arg, failure_of, run, stdout_of};

/// The demo model's artifact: 96 x 144, enlarged four times.
const SIZE: (u32, u32) = (384, 576);

const LIMITS: Limits =
    Limits { bytes_max: 1 << 24, side_min: 1, side_max: 4096, pixels_max: 1 << 24, aspect_max: 8 };

fn image_of(path: &Path) -> RgbImage {
    kraftr_imaging::decode(&fs::read(path).unwrap(), &LIMITS).unwrap().image
}

fn size_of(path: &Path) -> (u32, u32) {
    image_of(path).dimensions()
}

fn detect(path: &Path) -> Value {
    serde_json::from_str(&stdout_of(&run(["watermark", "detect", arg(path)]))).unwrap()
}

#[test]
fn the_demo_renders_marks_charges_and_leaves_the_pictures() {
    let scratch = tempfile::tempdir().unwrap();
    let said = stdout_of(&run(["demo", "--data-dir", arg(scratch.path())]));

    let picture = scratch.path().join("result.png");
    assert_eq!(size_of(&picture), SIZE);
    let sheet = size_of(&scratch.path().join("sheet.png"));
    assert!(sheet.0 > 3 * SIZE.0 && sheet.1 >= SIZE.1, "{sheet:?}");
    let mark = detect(&picture);
    assert_eq!(mark["found"], true);
    assert!(said.contains(mark["payload"].as_str().unwrap()), "{said}");

    let has_line = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has_line(&["grant", "100"]), "{said}");
    assert!(has_line(&["hold", "1", "99 available"]), "{said}");
    assert!(has_line(&["capture", "1"]), "{said}");
    assert!(has_line(&["balance", "99 posted", "0 held", "99 available"]), "{said}");
    assert!(has_line(&[arg(&picture)]), "{said}");

    let audit = stdout_of(&run(["admin", "--data-dir", arg(scratch.path()), "ledger", "audit", "--json"]));
    let audit: Value = serde_json::from_str(&audit).unwrap();
    assert_eq!((&audit["ok"], &audit["renders"]), (&Value::from(true), &Value::from(1)));
}

#[test]
fn a_callers_own_picture_renders_with_a_word_of_caution() {
    let scratch = tempfile::tempdir().unwrap();
    let person = scratch.path().join("somebody.png");
    fs::write(&person, kraftr_models::bundled::SAMPLE_PERSON).unwrap();
    let output = run(["demo", "--data-dir", arg(&scratch.path().join("data")), "--person", arg(&person)]);
    stdout_of(&output);
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(remarks.contains("drawings"), "{remarks}");
}

#[test]
fn wrong_pictures_are_refused_before_anything_starts() {
    let scratch = tempfile::tempdir().unwrap();
    let text = scratch.path().join("text.png");
    fs::write(&text, "no picture").unwrap();
    let data = scratch.path().join("data");

    let missing = failure_of(&run(["demo", "--data-dir", arg(&data), "--person", "nowhere.png"]), 1);
    assert!(missing.contains("nowhere.png"), "{missing}");
    let broken = failure_of(&run(["demo", "--data-dir", arg(&data), "--person", arg(&text)]), 1);
    assert!(broken.starts_with("error: ") && broken.lines().count() == 1, "{broken}");
    assert!(!data.exists(), "a demo that cannot begin leaves nothing behind");
}

fn render_samples(out: &Path, more: &[&str]) -> std::process::Output {
    let folder = out.parent().unwrap();
    let (person, garment) = (folder.join("person.png"), folder.join("garment.png"));
    fs::write(&person, kraftr_models::bundled::SAMPLE_PERSON).unwrap();
    fs::write(&garment, kraftr_models::bundled::SAMPLE_GARMENT).unwrap();
    let category = kraftr_models::bundled::SAMPLE_CATEGORY.as_str();
    let mut arguments =
        vec!["render", "--person", arg(&person), "--garment", arg(&garment), "--category", category];
    arguments.extend(["--out", arg(out)]);
    arguments.extend(more);
    run(arguments)
}

#[test]
fn several_samples_go_to_numbered_files_in_the_format_of_the_ending() {
    let scratch = tempfile::tempdir().unwrap();
    for (ending, format) in [("png", Format::Png), ("jpg", Format::Jpeg), ("webp", Format::Webp)] {
        let out = scratch.path().join(format!("out.{ending}"));
        stdout_of(&render_samples(&out, &["--samples", "2", "--steps", "4", "--seed", "7"]));
        let files = [1, 2].map(|n| scratch.path().join(format!("out-{n}.{ending}")));
        for file in &files {
            assert_eq!(size_of(file), SIZE, "{format}");
            assert_eq!(detect(file)["found"], true, "{format}");
        }
        assert_ne!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap(), "samples differ");
        assert!(!out.exists());
    }
}

#[test]
fn the_same_seed_gives_the_same_picture() {
    let scratch = tempfile::tempdir().unwrap();
    let picture = |name: &str, seed: &str| {
        let out = scratch.path().join(name);
        stdout_of(&render_samples(&out, &["--steps", "2", "--seed", seed]));
        // The mark carries a random payload, so it is the pixels that stay the same but for the mark.
        image_of(&out).into_raw()
    };
    let distance = |a: &[u8], b: &[u8]| -> f64 {
        let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / a.len() as f64
    };
    let (first, again, other) = (picture("a.png", "1"), picture("b.png", "1"), picture("c.png", "2"));
    assert!(distance(&first, &again) < distance(&first, &other) / 2.0);
}

#[test]
fn a_render_refuses_what_cannot_be_done() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.png");
    for (more, hint) in [
        (["--steps", "0"], "steps"),
        (["--steps", "1000000"], "steps"),
        (["--model", "no-such-model"], "kraftr model list"),
    ] {
        let error = failure_of(&render_samples(&out, &more), 1);
        assert!(error.contains(hint) && error.lines().count() == 1, "{more:?}: {error}");
    }
    let error = failure_of(&render_samples(&scratch.path().join("out.gif"), &[]), 1);
    assert!(error.contains(".webp"), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_mark_that_was_written_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, marked) = (scratch.path().join("plain.png"), scratch.path().join("marked.png"));
    fs::write(&plain, kraftr_models::bundled::SAMPLE_PERSON).unwrap();
    assert_eq!(detect(&plain)["found"], false);
    let output = run(["watermark", "embed", "--payload", "0123456789abcdef", arg(&plain), arg(&marked)]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("development key"), "{output:?}");
    let mark = detect(&marked);
    assert_eq!((&mark["found"], &mark["payload"]), (&Value::from(true), &Value::from("0123456789abcdef")));
    assert!(mark["score"].is_number() && mark["key"].is_string(), "{mark}");
}

#[test]
fn a_cut_out_is_marked_and_stays_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, marked) = (scratch.path().join("plain.png"), scratch.path().join("marked.webp"));
    let person = kraftr_imaging::decode(kraftr_models::bundled::SAMPLE_PERSON, &LIMITS).unwrap().image;
    let cut_out = RgbaImage::from_fn(person.width(), person.height(), |x, y| {
        let [r, g, b] = person.get_pixel(x, y).0;
        [r, g, b, if x < 60 { 0 } else { 255 }].into()
    });
    fs::write(&plain, encode_transparent(&cut_out, Encoding::Png).unwrap()).unwrap();
    run(["watermark", "embed", "--payload", "0123456789abcdef", arg(&plain), arg(&marked)]);
    assert_eq!(detect(&marked)["payload"], "0123456789abcdef");
    let Pixels::Transparent(read) = decode_transparent(&fs::read(&marked).unwrap(), &LIMITS).unwrap() else {
        panic!("the mark cost the picture its transparency");
    };
    assert!(read.pixels().zip(cut_out.pixels()).all(|(read, before)| read.0[3] == before.0[3]));
}

#[test]
fn parity_with_the_reference_is_shown_as_json() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/fixtures/tiny-a.json");
    let report: Value = serde_json::from_str(&stdout_of(&run(["model", "parity", fixture]))).unwrap();
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().unwrap();
    assert!(
        !checks.is_empty()
            && checks.iter().all(|check| check["name"].is_string() && check["rel_err"].is_number())
    );
    let error = failure_of(&run(["model", "parity", "nowhere.json"]), 1);
    assert!(error.contains("nowhere.json"), "{error}");
}

#[test]
fn the_demo_release_is_listed() {
    let said = stdout_of(&run(["model", "list"]));
    assert!(said.lines().any(|line| line.contains("demo-tryon")), "{said}");
}

#[test]
fn operators_make_keys_and_grant_credits() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("fleet");
    let admin = |arguments: &[&str]| {
        let mut all = vec!["admin", "--data-dir", arg(&directory)];
        all.extend(arguments);
        run(all)
    };
    let error = failure_of(&admin(&["org", "list"]), 1);
    assert!(error.contains("kraftr dev --data-dir"), "{error}");

    let mut dev = Dev::spawn(&directory);
    dev.wait_ready();
    let secret = stdout_of(&admin(&["key", "create", "--label", "laptop"]));
    assert!(secret.starts_with("krf_"), "{secret}");
    let keys = stdout_of(&admin(&["key", "list"]));
    let laptop = keys.lines().find(|line| line.contains("laptop")).unwrap();
    stdout_of(&admin(&["key", "revoke", laptop.split_whitespace().next().unwrap()]));

    for said in ["granted", "was granted before"] {
        let line = stdout_of(&admin(&["grant", "--credits", "5", "--reference", "invoice-1"]));
        assert!(line.contains(said) && line.contains("1005 posted"), "{line}");
    }
    stdout_of(&admin(&["ledger", "audit"]));
    dev.terminate();
}
