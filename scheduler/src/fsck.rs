//! Do rows and objects agree? For `kraftr admin fsck`.

use futures::{StreamExt as _, TryStreamExt as _};
use kraftr_protocol::Timestamp;
use serde::Serialize;

use crate::blobs::{BlobError, BlobStore};
use crate::store::{ObjectKind, ObjectRow, Page, Store};
use crate::sweeper::{self, Orphans, SweepError, Swept};

/// Rows of one page.
const PAGE: u32 = 500;
/// Objects asked for at the same time.
const AT_ONCE: usize = 16;

/// A row whose object is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Where the object should be.
    pub key: String,
    /// The length that it should have.
    pub bytes: u64,
    /// The length that it has; absent when there is none.
    pub found_bytes: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fsck {
    /// Rows that refer to an object.
    pub rows: u64,
    /// Those whose object is missing or has another length.
    pub missing: Vec<Missing>,
    /// What there is beside them.
    pub swept: Swept,
}

/// Compares every row with its object and every object with its row. Both may change meanwhile: what looks wrong is
/// looked at again before it is reported.
pub async fn check(
    store: &dyn Store,
    blobs: &dyn BlobStore,
    now: Timestamp,
    what: Orphans,
) -> Result<Fsck, SweepError> {
    let mut found = Fsck::default();
    for kind in [ObjectKind::Assets, ObjectKind::Artifacts] {
        let mut before = None;
        loop {
            let rows = store.objects(kind, &Page { limit: PAGE, before }).await?;
            let Some(last) = rows.last() else { break };
            before = Some(last.id);
            found.rows += rows.len() as u64;
            found.missing.extend(missing(store, blobs, rows).await?);
        }
    }
    found.swept = sweeper::pass(store, blobs, now, what).await?;
    Ok(found)
}

async fn missing(
    store: &dyn Store,
    blobs: &dyn BlobStore,
    rows: Vec<ObjectRow>,
) -> Result<Vec<Missing>, SweepError> {
    let look = async |row: ObjectRow| -> Result<Option<Missing>, BlobError> {
        let found_bytes = blobs.len(&row.key).await?;
        let right = found_bytes == Some(row.bytes);
        Ok((!right).then_some(Missing { key: row.key, bytes: row.bytes, found_bytes }))
    };
    let looks = futures::stream::iter(rows).map(look).buffered(AT_ONCE);
    let wrong: Vec<Missing> = looks.try_filter_map(async |row| Ok(row)).try_collect().await?;
    let keys: Vec<String> = wrong.iter().map(|row| row.key.clone()).collect();
    if keys.is_empty() {
        return Ok(wrong);
    }
    // A row that was deleted meanwhile takes its object along.
    let wanted = store.wanted_objects(&keys).await?;
    Ok(wrong.into_iter().filter(|row| wanted.contains(&row.key)).collect())
}
