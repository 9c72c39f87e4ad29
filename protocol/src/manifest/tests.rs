use super::*;

const GOOD: &str = r#"
name = "shop-tryon-2"
title = "Shop try-on"
caution = "Knows shirts only"
task = "try-on"
architecture = "fashn-vton"
size = [96, 144]
output_scale = 4
categories = ["tops", "bottoms"]
price = 2
device_time_ms = 1_600
device_memory_bytes = 6_000_000_000
licence = "Apache-2.0"
source = "our own training"

[config]
hidden_size = 192
axes_dim = [8, 20, 20]

[defaults]
guidance = 1.5

[quality.fast]
steps = 8
solver = "ab2"
guidance_interval = [0.1, 0.8]
cache = 0.05
evaluations = 9.5
[quality.balanced]
steps = 20
[quality.best]
steps = 30

[limits]
steps_min = 1
steps_max = 100
samples_max = 4

[[files]]
role = "weights"
name = "shop.safetensors"
sha256 = "7cf8e4e43cc4efaa2561de8ddbf2051d3a3aee71107ef899fd6ec786502dfda9"
bytes = 9189584
source = { hub = "shop/try-on", revision = "0123456789012345678901234567890123456789", path = "a/model.safetensors" }

[[files]]
role = "golden"
name = "golden.json"
sha256 = "7cf8e4e43cc4efaa2561de8ddbf2051d3a3aee71107ef899fd6ec786502dfda9"
bytes = 12
source = { s3 = "s3://shop-models/golden.json" }
"#;

fn parse(text: &str) -> Result<ReleaseManifest, Vec<String>> {
    ReleaseManifest::parse("shop.toml", text).map_err(|error| error.mistakes)
}

#[test]
fn a_manifest_survives_being_written_and_read() {
    let manifest = parse(GOOD).unwrap();
    assert_eq!(manifest.config["hidden_size"].as_integer(), Some(192));
    assert_eq!(manifest.output_size(), [384, 576]);
    assert!(manifest.file("weights").unwrap().is_needed_to_load());
    assert!(!manifest.file("golden").unwrap().is_needed_to_load());
    assert_eq!(parse(&manifest.to_toml()).unwrap(), manifest, "{}", manifest.to_toml());
}

/// Replaces `from` by `to` and expects exactly these mistakes, each by a part of it.
fn check(changes: &[(&str, &str)], expect: &[&str]) {
    let mut text = GOOD.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let mistakes = parse(&text).unwrap_err();
    assert_eq!(mistakes.len(), expect.len(), "{mistakes:#?}");
    for (mistake, part) in mistakes.iter().zip(expect) {
        assert!(mistake.contains(part), "{part} is not in {mistake}");
    }
}

#[test]
fn every_mistake_is_listed_with_its_line() {
    check(
        &[
            ("name = \"shop-tryon-2\"", "name = \"Shop\""),
            ("title = \"Shop try-on\"", "title = 3"),
            ("task = \"try-on\"", "tsk = \"try-on\""),
            ("size = [96, 144]", "size = [96, 144, 3]"),
            ("price = 2", "price = -2"),
            ("guidance = 1.5", "guidance = 21"),
            ("steps = 30", "steps = 300"),
            ("samples_max = 4", "samples_max = 5"),
            ("bytes = 9189584", "bytes = 0"),
            ("0123456789012345678901234567890123456789", "main"),
            ("bytes = 12", "byts = 12"),
        ],
        &[
            "task: is missing; it must be one of try-on, text-to-image, noop",
            "line 2: name: use 1 to 64 lower-case letters",
            "line 3: title: must be text in quotes",
            "line 5: tsk: there is no such key; did you mean task?",
            "line 7: size: must be an array of 2, each a whole number",
            "line 10: price: must not be negative",
            "line 21: defaults.guidance: must be 1 to 20",
            "line 32: quality.best.steps: must be within limits",
            "line 37: limits.samples_max: must be 1 to 4",
            "line 43: files[0].bytes: must be positive",
            "line 44: files[0].source.revision: must be a commit of 40 hexadecimal digits",
            "files[1].bytes: is missing",
            "line 50: files[1].byts: there is no such key; did you mean bytes?",
        ],
    );
}

#[test]
fn what_only_shows_together_is_found() {
    check(
        &[("steps_min = 1\n", "steps_min = 101\n")],
        &[
            "quality.fast.steps: must be within",
            "quality.balanced.steps: must be within",
            "quality.best.steps: must be within",
            "limits.steps_min: must not be above steps_max",
        ],
    );
    let scene = "price = 2\nscene = \"painter\"";
    check(&[("price = 2", scene), ("\"try-on\"", "\"noop\"")], &["scene: only try-on releases have one"]);
    check(
        &[("price = 2", "price = 2\nscene = \"A B\"")],
        &["scene: must be the name of a text-to-image release"],
    );
    check(&[("role = \"golden\"", "role = \"weights\"")], &["files[1].role: another file of the release"]);
    check(
        &[("golden.json\"\nsha", "shop.safetensors\"\nsha")],
        &["files[1].name: another file of the release"],
    );
    check(&[("categories = [\"tops\", \"bottoms\"]", "categories = []")], &["categories: name at least one"]);
    check(
        &[("price = 2", "price = 2\ngarment_photos = []")],
        &["garment_photos: name at least one, or leave it out"],
    );
    check(
        &[("price = 2", "price = 2\ngarment_photos = [\"worn\"]")],
        &["each item of it one of flat-lay, model"],
    );
    check(
        &[("categories = [\"tops\", \"bottoms\"]", "categories = [\"hats\"]")],
        &["each item of it one of tops"],
    );
}

#[test]
fn sources_are_one_kind_each_and_well_formed() {
    let source = "{ s3 = \"s3://shop-models/golden.json\" }";
    for (to, part) in [
        ("{ s3 = \"s3://bucket\" }", "source.s3: must be s3://bucket/key"),
        ("{ url = \"ftp://a/b\" }", "source.url: must be an http or https URL"),
        ("{ url = \"https://a/b\", s3 = \"s3://a/b\" }", "name one of hub"),
        ("{}", "name one of hub"),
        ("\"s3://a/b\"", "source: must be a table"),
        ("{ url = \"https://a/b\", revision = \"main\" }", "source.revision: there is no such key"),
        (
            "{ hub = \"a\", revision = \"0123456789012345678901234567890123456789\", path = \"x\" }",
            "must be owner/name",
        ),
        (
            "{ hub = \"a/b\", revision = \"0123456789012345678901234567890123456789\", path = \"../x\" }",
            "without ..",
        ),
    ] {
        check(&[(source, to)], &[part]);
    }
    let presigned = parse(&GOOD.replace(source, "{ url = \"https://a/b?signature=hunter2\" }")).unwrap();
    assert_eq!(presigned.file("golden").unwrap().source.as_ref().unwrap().to_string(), "https://a/b");
}

#[test]
fn names_of_files_stay_in_their_folder() {
    for name in ["../a", "a/b", ".a", "", "a\\\\b"] {
        check(&[("\"golden.json\"", &format!("\"{name}\""))], &["files[1].name: must be a plain file name"]);
    }
}

#[test]
fn what_is_no_toml_is_said_with_its_line() {
    check(&[("price = 2", "price = ")], &["line 10: not TOML"]);
    let error = ReleaseManifest::parse("m.toml", "name = 'a'\nname = 'b'").unwrap_err();
    assert!(error.to_string().starts_with("m.toml: 1 mistake\n  line 2: "), "{error}");
}
