//! What a bench runs on: the embedded parts, over a temporary directory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kraftr_protocol::message::Link;
use kraftr_protocol::{Class, Clock, Ids, Lane};
use kraftr_scheduler::app::SubmissionFailed;
use kraftr_scheduler::blobs::{BlobError, BlobStore, ObjectInfo, PutTerms};
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::store::sqlite::SqliteStore;
use kraftr_scheduler::store::{Store, StoreError, SubmitError};
use kraftr_transport::in_process::{Bounds, InProcess, JOBS_PER_LANE_MAX};
use kraftr_transport::{Transport, TransportError};

/// Callers that submit at the same time where one by one is measured, as HTTP requests would.
pub(super) const PUBLISHERS: usize = 64;
/// Length that every object of the bench is said to have.
pub(super) const OBJECT_BYTES: u64 = 100_000;

/// The one lane of the bench.
pub(super) fn lane() -> Lane {
    Lane { pool: "bench".to_owned(), release: "noop".to_owned(), class: Class::Interactive }
}

/// Why a bench could not measure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A submission could not be judged.
    #[error(transparent)]
    Submission(#[from] SubmissionFailed),
    /// A submission was refused.
    #[error("a submission was refused: {0}")]
    Refused(#[from] SubmitError),
    /// The temporary directory or the listener.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A task crashed.
    #[error("a task of the bench crashed: {0}")]
    Crashed(#[from] tokio::task::JoinError),
    /// Nothing moved for a long time.
    #[error("{done} of {jobs} renders ended and then none for {patience_s} s; the log says why")]
    Stalled {
        /// Renders that ended.
        done: u64,
        /// Renders that should.
        jobs: u64,
        /// How long nothing moved.
        patience_s: u64,
    },
}

/// The way between scheduler and workers, with room for that many jobs in the lane.
pub(super) fn transport(jobs: usize) -> Arc<dyn Transport> {
    Arc::new(InProcess::new(Bounds { jobs_per_lane: jobs.max(JOBS_PER_LANE_MAX), ..Bounds::default() }))
}

/// The database of a bench; it goes with this value.
pub(super) struct Database {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn Ids>,
    _directory: tempfile::TempDir,
}

impl Database {
    pub(super) async fn open() -> Result<Self, BenchError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("bench.sqlite");
        let store = SqliteStore::open(&path, Arc::clone(&clock), Arc::clone(&ids)).await?;
        Ok(Self { store: Arc::new(store), clock, ids, _directory: directory })
    }
}

/// An object store that has every object at the length that the bench reports: pictures are not what
/// is measured.
pub(super) struct Weightless;

#[async_trait]
impl BlobStore for Weightless {
    async fn put(&self, _key: &str, _bytes: Bytes, _content_type: &str) -> Result<(), BlobError> {
        Ok(())
    }

    async fn get(&self, _key: &str) -> Result<Option<Bytes>, BlobError> {
        Ok(None)
    }

    async fn len(&self, _key: &str) -> Result<Option<u64>, BlobError> {
        Ok(Some(OBJECT_BYTES))
    }

    async fn holds(&self, _key: &str, _terms: &PutTerms) -> Result<bool, BlobError> {
        Ok(true)
    }

    async fn delete(&self, _key: &str) -> Result<(), BlobError> {
        Ok(())
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<ObjectInfo>, BlobError> {
        Ok(Vec::new())
    }

    async fn presign_get(&self, key: &str, _ttl: Duration) -> Result<Link, BlobError> {
        Ok(Link { url: format!("http://bench.invalid/{key}"), headers: Vec::new() })
    }

    async fn presign_put(&self, key: &str, _terms: &PutTerms, _ttl: Duration) -> Result<Link, BlobError> {
        Ok(Link { url: format!("http://bench.invalid/{key}"), headers: Vec::new() })
    }
}
