//! The direction of dependencies (ARCHITECTURE.md): who may name whom, and what must never be linked.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The crates of ours that each of them may depend on.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("kraftr-protocol", &[]),
    ("kraftr-imaging", &[]),
    ("kraftr-provenance", &["kraftr-imaging"]),
    ("kraftr-transport", &["kraftr-protocol"]),
    ("kraftr-models", &["kraftr-protocol", "kraftr-imaging"]),
    ("kraftr-scheduler", &["kraftr-protocol", "kraftr-transport", "kraftr-imaging", "kraftr-provenance"]),
    (
        "kraftr-worker",
        &["kraftr-protocol", "kraftr-transport", "kraftr-imaging", "kraftr-provenance", "kraftr-models"],
    ),
    (
        "kraftr",
        &[
            "kraftr-protocol",
            "kraftr-transport",
            "kraftr-imaging",
            "kraftr-provenance",
            "kraftr-models",
            "kraftr-scheduler",
            "kraftr-worker",
        ],
    ),
    ("kraftr-benches", &["kraftr", "kraftr-imaging", "kraftr-provenance"]),
];

/// What must not be linked into a crate, not even through others.
const NEVER_LINKS: &[(&str, &[&str])] = &[
    ("kraftr-protocol", &["tokio", "futures", "reqwest", "sqlx", "candle-core", "image"]),
    ("kraftr-imaging", &["tokio", "futures", "reqwest", "sqlx", "candle-core"]),
    ("kraftr-provenance", &["tokio", "futures", "reqwest", "sqlx", "candle-core"]),
    ("kraftr-models", &["tokio", "reqwest", "axum", "sqlx", "lapin"]),
    ("kraftr-transport", &["candle-core", "sqlx", "axum", "reqwest"]),
    ("kraftr-scheduler", &["candle-core", "candle-nn"]),
    ("kraftr-worker", &["sqlx", "sqlx-core", "axum"]),
];

/// Name -> names of what it depends on, without what only tests and build scripts need.
struct Graph {
    members: BTreeSet<String>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--locked"])
            // What browsers would need is not linked into anything of ours.
            .args([
                "--filter-platform",
                "x86_64-unknown-linux-gnu",
                "--filter-platform",
                "aarch64-apple-darwin",
            ])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

        let list = |value: &Value| value.as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let names: BTreeMap<String, String> = list(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let is_normal =
            |dependency: &Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let normal = list(&node["deps"])
                .into_iter()
                .filter(is_normal)
                .map(|dep| names[&text(&dep["pkg"])].clone());
            dependencies.entry(names[&text(&node["id"])].clone()).or_default().extend(normal);
        }
        let members =
            list(&metadata["workspace_members"]).iter().map(|id| names[&text(id)].clone()).collect();
        Self { members, dependencies }
    }

    /// Everything that is linked into `name`.
    fn linked(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(next) = open.pop() {
            for dependency in &self.dependencies[next] {
                if seen.insert(dependency.as_str()) {
                    open.push(dependency);
                }
            }
        }
        seen
    }
}

#[test]
fn crates_name_only_those_below_them() {
    let graph = Graph::read();
    let known: BTreeSet<String> = MAY_NAME.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(graph.members, known, "every crate of the workspace has its place in MAY_NAME");
    for (name, allowed) in MAY_NAME {
        let named: Vec<&String> = graph.dependencies[*name].intersection(&graph.members).collect();
        for dependency in named {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn heavy_things_stay_where_they_belong() {
    let graph = Graph::read();
    for (name, forbidden) in NEVER_LINKS {
        let linked = graph.linked(name);
        for crate_name in *forbidden {
            assert!(!linked.contains(crate_name), "{name} must never link {crate_name}");
        }
    }
    // The walk finds what is there, also through others: else the assertions above prove nothing.
    assert!(graph.linked("kraftr-worker").contains("candle-core"));
    assert!(graph.linked("kraftr").contains("sqlx-core"));
}
