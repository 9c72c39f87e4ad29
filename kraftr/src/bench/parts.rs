//! What a bench runs on: the embedded parts over a temporary directory, or services.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kraftr_protocol::message::Link;
use kraftr_protocol::{Class, Clock, Ids, Lane};
use kraftr_scheduler::app::SubmissionFailed;
use kraftr_scheduler::blobs::{BlobError, BlobStore, ObjectInfo, PutTerms};
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::provenance::SetupError;
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
    /// The certificates that credentials are signed with.
    #[error(transparent)]
    Provenance(#[from] SetupError),
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

/// A database that counts.
pub struct Books {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Its name in the report.
    pub name: &'static str,
}

/// The way between scheduler and workers; each side has its own end.
pub struct Ways {
    /// The scheduler's.
    pub scheduler: Arc<dyn Transport>,
    /// The workers'.
    pub workers: Arc<dyn Transport>,
    /// Its name in the report.
    pub name: &'static str,
    /// Messages that were handed to a broker and taken from it by both ends.
    pub messages: Option<Box<dyn Fn() -> (u64, u64) + Send + Sync>>,
}

/// What a bench runs on.
pub struct Ground {
    /// The database; absent where only the transport is measured.
    pub books: Option<Books>,
    /// The transport.
    pub ways: Ways,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness and ids.
    pub ids: Arc<dyn Ids>,
    directory: Option<tempfile::TempDir>,
}

impl Ground {
    /// Services that are there already.
    pub fn on(books: Option<Books>, ways: Ways) -> Self {
        Self { books, ways, clock: Arc::new(SystemClock), ids: Arc::new(SystemIds), directory: None }
    }

    /// The way inside one process, with room for that many jobs in a lane.
    pub fn in_process(jobs: usize) -> Ways {
        let bounds = Bounds { jobs_per_lane: jobs.max(JOBS_PER_LANE_MAX), ..Bounds::default() };
        let transport: Arc<dyn Transport> = Arc::new(InProcess::new(bounds));
        Ways { scheduler: Arc::clone(&transport), workers: transport, name: "in-process", messages: None }
    }

    /// An SQLite database in a temporary directory that goes with this value, unless there is one already.
    pub async fn with_books(mut self) -> Result<Self, BenchError> {
        if self.books.is_none() {
            let directory = tempfile::tempdir()?;
            let path = directory.path().join("bench.sqlite");
            let store = SqliteStore::open(&path, Arc::clone(&self.clock), Arc::clone(&self.ids)).await?;
            self.books = Some(Books { store: Arc::new(store), name: "sqlite" });
            self.directory = Some(directory);
        }
        Ok(self)
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
