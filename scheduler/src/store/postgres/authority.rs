//! What a development installation signs with: one row.

use sqlx::Row as _;

use super::PgStore;
use crate::store::StoreError;

pub(super) async fn keep(store: &PgStore, made: &str, replaced: Option<&str>) -> Result<String, StoreError> {
    let row = sqlx::query(
        "INSERT INTO authority AS a (id, kept) VALUES (1, $1)
         ON CONFLICT (id) DO UPDATE SET kept = CASE WHEN a.kept = $2 THEN excluded.kept ELSE a.kept END
         RETURNING kept",
    )
    .bind(made)
    .bind(replaced)
    .fetch_one(&store.pool)
    .await?;
    Ok(row.try_get("kept")?)
}

pub(super) async fn kept(store: &PgStore) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("SELECT kept FROM authority").fetch_optional(&store.pool).await?;
    Ok(row.map(|row| row.try_get("kept")).transpose()?)
}
