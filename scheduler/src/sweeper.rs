//! Erases objects that no row refers to: uploads whose request died, pictures of claims that were fenced, and
//! whatever an erasure missed.
//!
//! An object is an orphan when it is older than [`ORPHAN_AGE`], its key is one of ours, no row refers to it and no
//! claim under way may still report it. Objects are stored before their rows are written, so the age must be
//! longer than any request or claim. Foreign keys are counted and left alone.

use std::time::Duration;

use kraftr_protocol::{Timestamp, limits};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::blobs::{BlobError, BlobStore, ObjectInfo};
use crate::store::{ObjectName, Store, StoreError};

/// Age from which an object without a row is an orphan.
pub const ORPHAN_AGE: Duration = Duration::from_hours(1);
const _: () = assert!(ORPHAN_AGE.as_secs() > limits::URL_TTL.as_secs() + limits::RENDER_TIME_MAX.as_secs());
/// How often a leader sweeps.
const EVERY: Duration = Duration::from_hours(1);
/// How long a new leader waits with its first sweep.
const FIRST: Duration = Duration::from_mins(1);
/// Objects of one listing.
const PAGE: usize = 1_000;
/// Pause between two listings, so that a sweep is nobody's load.
const PAUSE: Duration = Duration::from_millis(50);
/// Orphans that are named; more are counted.
pub const NAMED_MAX: usize = 1_000;

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects looked at.
    pub objects: u64,
    /// Objects whose keys are none of ours.
    pub foreign: u64,
    /// Orphans.
    pub orphans: u64,
    /// Bytes of the orphans.
    pub orphan_bytes: u64,
    /// Keys of the first of them.
    pub named: Vec<String>,
}

/// What to do with orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// Erase them.
    Erase,
    /// Say what there is.
    Report,
}

/// Looks at every object once.
pub async fn pass(
    store: &dyn Store,
    blobs: &dyn BlobStore,
    now: Timestamp,
    what: Orphans,
) -> Result<Swept, SweepError> {
    let mut swept = Swept::default();
    let mut after: Option<String> = None;
    loop {
        let page = blobs.list("", after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(swept) };
        after = Some(last.key.clone());
        swept.objects += page.len() as u64;
        let orphans = orphans(store, page, now, &mut swept).await?;
        for orphan in orphans {
            swept.orphans += 1;
            swept.orphan_bytes += orphan.bytes;
            if what == Orphans::Erase {
                tracing::info!(object.key = orphan.key, object.bytes = orphan.bytes, "an orphan is erased");
                blobs.delete(&orphan.key).await?;
            }
            if swept.named.len() < NAMED_MAX {
                swept.named.push(orphan.key);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Those of a page that nobody wants.
async fn orphans(
    store: &dyn Store,
    page: Vec<ObjectInfo>,
    now: Timestamp,
    swept: &mut Swept,
) -> Result<Vec<ObjectInfo>, StoreError> {
    let old = now.minus(ORPHAN_AGE);
    let (ours, foreign): (Vec<_>, Vec<_>) =
        page.into_iter().partition(|object| ObjectName::parse(&object.key).is_some());
    swept.foreign += foreign.len() as u64;
    let candidates: Vec<ObjectInfo> = ours.into_iter().filter(|object| object.modified < old).collect();
    let keys: Vec<String> = candidates.iter().map(|object| object.key.clone()).collect();
    if keys.is_empty() {
        return Ok(candidates);
    }
    let wanted = store.wanted_objects(&keys).await?;
    Ok(candidates.into_iter().filter(|object| !wanted.contains(&object.key)).collect())
}

/// Sweeps now and then while this replica leads, until `shutdown`.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = app.leadership.leading() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = EVERY;
        if app.leadership.term().is_none() {
            continue;
        }
        let swept = tokio::select! {
            () = shutdown.cancelled() => return,
            swept = pass(&*app.store, &*app.blobs, app.clock.now(), Orphans::Erase) => swept,
        };
        match swept {
            Ok(swept) => {
                app.metrics.objects_swept.inc_by(swept.orphans);
                tracing::info!(objects = swept.objects, orphans = swept.orphans, "swept");
            }
            Err(error) => tracing::error!(%error, "the sweep ended early; the next begins anew"),
        }
    }
}
