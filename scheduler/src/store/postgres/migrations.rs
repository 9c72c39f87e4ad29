//! The schema, compiled in.

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr as _, SqlStr};

macro_rules! migration {
    ($version:literal, $number:literal, $name:literal) => {
        (
            $version,
            $name,
            include_str!(concat!("../../../../migrations/postgres/", $number, "_", $name, ".sql")),
        )
    };
}

const MIGRATIONS: [(i64, &str, &str); 10] = [
    migration!(1, "0001", "create_orgs"),
    migration!(2, "0002", "create_ledger"),
    migration!(3, "0003", "create_assets"),
    migration!(4, "0004", "create_renders"),
    migration!(5, "0005", "create_outbox"),
    migration!(6, "0006", "create_leader"),
    migration!(7, "0007", "order_outbox"),
    migration!(8, "0008", "create_dead_letters"),
    migration!(9, "0009", "create_all_moved"),
    migration!(10, "0010", "create_authority"),
];

/// Runs what the database has not seen yet; replicas that start together wait for each other.
pub(super) async fn run(pool: &PgPool) -> Result<(), MigrateError> {
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(version, name, sql)| {
            let sql: SqlStr = sql.into_sql_str();
            Migration::new(version, name.into(), MigrationType::Simple, sql, false)
        })
        .collect();
    Migrator::with_migrations(migrations).run(pool).await
}
