//! The schema, compiled in.

use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr as _, SqlStr};

macro_rules! migration {
    ($version:literal, $name:literal) => {
        (
            $version,
            $name,
            include_str!(concat!("../../../../migrations/sqlite/000", $version, "_", $name, ".sql")),
        )
    };
}

const MIGRATIONS: [(i64, &str, &str); 5] = [
    migration!(1, "create_orgs"),
    migration!(2, "create_ledger"),
    migration!(3, "create_assets"),
    migration!(4, "create_renders"),
    migration!(5, "create_outbox"),
];

/// Runs what the database has not seen yet.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), MigrateError> {
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(version, name, sql)| {
            let sql: SqlStr = sql.into_sql_str();
            Migration::new(version, name.into(), MigrationType::Simple, sql, false)
        })
        .collect();
    Migrator::with_migrations(migrations).run(pool).await
}
