//! Rows and objects: what nobody refers to is swept, what is missing is found.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kraftr_protocol::{AssetId, Clock as _, Digest, OrgId};
use kraftr_scheduler::blobs::BlobStore as _;
use kraftr_scheduler::blobs::directory::DirectoryBlobs;
use kraftr_scheduler::clock::{SeededIds, SystemClock};
use kraftr_scheduler::fsck::{Missing, check};
use kraftr_scheduler::store::objects::asset_key;
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{NewAsset, Store as _};
use kraftr_scheduler::sweeper::{self, ORPHAN_AGE, Orphans};
use uuid::Uuid;

struct Fleet {
    folder: tempfile::TempDir,
    store: SqliteStore,
    blobs: DirectoryBlobs,
    org: OrgId,
}

impl Fleet {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let store = SqliteStore::in_memory(clock.clone(), Arc::new(SeededIds::new(3))).await.unwrap();
        let blobs = DirectoryBlobs::new(folder.path().to_owned(), String::new(), [3; 32], clock).unwrap();
        let org = store.create_org("shop").await.unwrap().id;
        Self { folder, store, blobs, org }
    }

    /// Stores an object, as old as told.
    async fn object(&self, key: &str, age: Duration) {
        self.blobs.put(key, Bytes::from_static(b"picture"), "image/png").await.unwrap();
        let file = find(self.folder.path(), key.rsplit('/').next().unwrap());
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap() - age;
        File::options()
            .append(true)
            .open(file)
            .unwrap()
            .set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    }

    async fn asset(&self, n: u128, bytes: u64) -> String {
        let (org, id) = (self.org, AssetId(Uuid::from_u128(n)));
        let asset = NewAsset {
            id,
            org,
            object_key: asset_key(org, id),
            sha256: Digest::of(&n.to_le_bytes()),
            content_type: "image/png".into(),
            width: 64,
            height: 64,
            bytes,
        };
        self.store.insert_asset(&asset, None).await.unwrap().object_key
    }
}

/// The file of that name anywhere below `folder`.
fn find(folder: &Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() == name {
                return path;
            }
        }
    }
    panic!("there is no {name}")
}

#[tokio::test]
async fn only_old_objects_of_ours_that_nobody_wants_are_swept() {
    let fleet = Fleet::new().await;
    let old = ORPHAN_AGE + Duration::from_mins(1);
    let known = fleet.asset(1, 7).await;
    let key = |n| asset_key(fleet.org, AssetId(Uuid::from_u128(n)));
    let (orphan, fresh) = (key(2), key(3));
    for (key, age) in
        [(&known, old), (&orphan, old), (&fresh, Duration::ZERO), (&"backup.sql".to_owned(), old)]
    {
        fleet.object(key, age).await;
    }
    let pass = async |what| sweeper::pass(&fleet.store, &fleet.blobs, SystemClock.now(), what).await.unwrap();
    let found = pass(Orphans::Report).await;
    assert_eq!((found.objects, found.foreign, found.orphans, found.orphan_bytes), (4, 1, 1, 7));
    assert_eq!(found.named, std::slice::from_ref(&orphan));
    assert_eq!(fleet.blobs.len(&orphan).await.unwrap(), Some(7), "a report erases nothing");
    assert_eq!(pass(Orphans::Erase).await.orphans, 1);
    assert_eq!(fleet.blobs.len(&orphan).await.unwrap(), None);
    for kept in [known.as_str(), fresh.as_str(), "backup.sql"] {
        assert_eq!(fleet.blobs.len(kept).await.unwrap(), Some(7), "{kept}");
    }
    assert_eq!(pass(Orphans::Erase).await.orphans, 0);
}

#[tokio::test]
async fn missing_and_cut_objects_are_found() {
    let fleet = Fleet::new().await;
    let [right, cut, gone] = [fleet.asset(1, 7).await, fleet.asset(2, 99).await, fleet.asset(3, 7).await];
    for key in [&right, &cut] {
        fleet.object(key, Duration::ZERO).await;
    }
    let found = check(&fleet.store, &fleet.blobs, SystemClock.now(), Orphans::Report).await.unwrap();
    assert_eq!((found.rows, found.swept.orphans), (3, 0));
    let expected = [
        Missing { key: gone, bytes: 7, found_bytes: None },
        Missing { key: cut, bytes: 99, found_bytes: Some(7) },
    ];
    assert_eq!(found.missing, expected);
}
