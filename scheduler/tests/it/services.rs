//! Real services for tests. A variable that is missing fails the test: a suite that did not run proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kraftr_protocol::Ids as _;
use kraftr_protocol::Timestamp;
use kraftr_scheduler::clock::SystemIds;
use kraftr_scheduler::store::postgres::{PgOptions, PgStore};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use url::Url;

/// The variable's value.
#[expect(clippy::disallowed_methods, reason = "tests are told about their services as the program is")]
pub(crate) fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; eval \"$(scripts/services up --dir DIR)\" starts the services and says where they are")
    })
}

/// A database of one test; it goes with this value.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
    pub(crate) skew: Arc<AtomicI64>,
}

impl Database {
    /// Makes an empty one.
    pub(crate) async fn new() -> Self {
        let mut url = Url::parse(&required("KRAFTR_DATABASE_URL")).unwrap();
        let name = format!("test_{}", SystemIds.uuid(Timestamp(0)).simple());
        let mut server = PgConnection::connect(url.as_str()).await.unwrap();
        server.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        url.set_path(&name);
        Self { url: url.into(), name, skew: Arc::default() }
    }

    /// Opens it.
    pub(crate) async fn store(&self) -> PgStore {
        let options = PgOptions { connections: 8, skew: Arc::clone(&self.skew) };
        PgStore::connect(&self.url, options, Arc::new(SystemIds)).await.unwrap()
    }

    /// A connection beside every store.
    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Moves the clock of its stores.
    pub(crate) fn advance(skew: &AtomicI64, by: Duration) {
        skew.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::Relaxed);
    }

    /// Removes it.
    pub(crate) async fn remove(self) {
        let mut server = PgConnection::connect(&required("KRAFTR_DATABASE_URL")).await.unwrap();
        server.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await.unwrap();
    }
}
