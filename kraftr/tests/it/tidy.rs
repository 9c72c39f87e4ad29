//! Rules of the repository that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// Longer files hold two things.
const LINES_MAX: usize = 600;

/// Directories that are not the repository's own text.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", "__pycache__", ".venv"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every file of the repository whose name ends in one of `endings`, with its text.
fn texts(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {endings:?}");
    found
}

#[test]
fn files_are_short_enough_to_read() {
    for (path, text) in texts(&[".rs"]) {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    // Written in two halves, so that this file does not find itself.
    let marks =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X:")];
    for (path, text) in texts(&[".rs", ".sh", ".toml", ".sql"]) {
        for mark in marks {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}

#[test]
fn no_file_knows_a_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];
    for (path, text) in texts(&[".rs", ".md", ".toml", ".sql", ".py", ".sh", ".yaml", ".json", "run", "test"])
    {
        for place in places {
            assert!(!text.contains(place), "{} names {place}", path.display());
        }
    }
}

#[test]
fn links_of_documents_resolve() {
    for (path, text) in texts(&[".md"]) {
        let folder = root().join(&path);
        for target in link_targets(&text) {
            let file = folder.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(file.exists(), "{} links to {target}, which is not there", path.display());
        }
    }
}

#[test]
fn documents_named_in_code_exist() {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_document =
        |word: &Path| word.starts_with("docs") && word.extension().is_some_and(|ending| ending == "md");
    for (path, text) in texts(&[".rs", ".sql", ".toml"]) {
        for word in text.split(|c| !is_word(c)).map(Path::new).filter(|word| is_document(word)) {
            assert!(
                root().join(word).exists(),
                "{} names {}, which is not there",
                path.display(),
                word.display()
            );
        }
    }
}

/// The targets of Markdown links and pictures that lie in the repository.
fn link_targets(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .collect()
}

#[test]
fn a_link_is_found_where_there_is_one() {
    let text = "![a](docs/a.png) and [b](b.md#part), not [c](https://example.org) or [d](#d)";
    assert_eq!(link_targets(text), ["docs/a.png", "b.md#part"]);
}
