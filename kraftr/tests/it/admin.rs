//! `kraftr admin` as operators use it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use kraftr_protocol::{AssetId, Digest};
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::store::objects::asset_key;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{NewAsset, Store as _};
use uuid::Uuid;

use crate::program::{arg, failure_of, kraftr, stdout_of};

/// An empty fleet's data directory.
struct Fleet {
    scratch: tempfile::TempDir,
}

impl Fleet {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("kraftr.db");
        SqliteStore::open(&file, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
        Self { scratch }
    }

    fn directory(&self) -> &Path {
        self.scratch.path()
    }

    fn url(&self) -> String {
        format!("sqlite://{}", arg(&self.directory().join("kraftr.db")))
    }
}

fn admin(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = kraftr();
    let nowhere: PathBuf = std::env::temp_dir();
    command.current_dir(nowhere).arg("admin").args(arguments).envs(variables.iter().copied());
    command.output().unwrap()
}

#[tokio::test]
async fn the_database_is_the_directory_named_or_the_one_configured() {
    let (one, other) = (Fleet::new().await, Fleet::new().await);
    let (one_url, other_url) = (one.url(), other.url());
    let variables = [("KRAFTR_DATABASE_URL", one_url.as_str())];
    stdout_of(&admin(&variables, &["org", "create", "shop"]));
    assert!(stdout_of(&admin(&[], &["org", "list", "--database-url", &one_url])).contains("shop"));
    let said = stdout_of(&admin(&variables, &["org", "list", "--database-url", &other_url]));
    assert!(!said.contains("shop"), "the flag wins: {said}");
    let directory = arg(other.directory()).to_owned();
    let said = stdout_of(&admin(&variables, &["--data-dir", &directory, "org", "list"]));
    assert!(!said.contains("shop"), "the directory wins: {said}");
    let both = ["--data-dir", &directory, "--database-url", &other_url, "org", "list"];
    assert!(failure_of(&admin(&[], &both), 2).contains("--data-dir"));
}

#[tokio::test]
async fn mistakes_of_the_configuration_are_refused_before_anything_is_opened() {
    let fleet = Fleet::new().await;
    let url = fleet.url();
    let variables = [("KRAFTR_DATABASE_URL", url.as_str()), ("KRAFTR_DATABASE_ULR", "x")];
    let said = failure_of(&admin(&variables, &["org", "list"]), 1);
    assert!(said.contains("did you mean KRAFTR_DATABASE_URL?"), "{said}");
    let missing = format!("{url}.typo");
    let said = failure_of(&admin(&[], &["org", "list", "--database-url", &missing]), 1);
    assert!(said.contains("there is no database at"), "{said}");
    assert!(!fleet.directory().join("kraftr.db.typo").exists(), "nothing is made by looking");
}

#[tokio::test]
async fn fsck_says_what_does_not_agree() {
    let fleet = Fleet::new().await;
    let directory = arg(fleet.directory()).to_owned();
    let fsck = ["--data-dir", &directory, "fsck", "--json"];
    let upload = fleet.directory().join("blobs/~incoming/0");
    std::fs::create_dir_all(upload.parent().unwrap()).unwrap();
    std::fs::write(&upload, "half a picture").unwrap();
    let said: serde_json::Value = serde_json::from_str(&stdout_of(&admin(&[], &fsck))).unwrap();
    assert_eq!((&said["ok"], &said["queues"]), (&true.into(), &serde_json::Value::Null), "{said}");
    let org = stdout_of(&admin(&[], &["--data-dir", &directory, "org", "create", "shop"]));
    let file = fleet.directory().join("kraftr.db");
    let store = SqliteStore::open(&file, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let (org, id) = (org.trim().parse().unwrap(), AssetId(Uuid::from_u128(1)));
    let asset = NewAsset {
        id,
        org,
        object_key: asset_key(org, id),
        sha256: Digest::of(b"picture"),
        content_type: "image/png".into(),
        width: 64,
        height: 64,
        bytes: 7,
    };
    store.insert_asset(&asset, None).await.unwrap();
    let said = admin(&[], &fsck);
    assert_eq!(said.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["missing"][0]["key"], asset.object_key);
    assert!(upload.exists(), "an upload of the fleet beside it goes on");
}
