//! What a development installation signs with: one row.

use sqlx::Row as _;

use super::SqliteStore;
use crate::store::StoreError;

pub(super) async fn keep(
    store: &SqliteStore,
    made: &str,
    replaced: Option<&str>,
) -> Result<String, StoreError> {
    let mut write = store.write().await?;
    let row = sqlx::query(
        "INSERT INTO authority (id, kept) VALUES (1, ?1)
         ON CONFLICT (id) DO UPDATE SET kept = CASE WHEN kept = ?2 THEN ?1 ELSE kept END
         RETURNING kept",
    )
    .bind(made)
    .bind(replaced)
    .fetch_one(&mut *write.tx)
    .await?;
    let kept = row.try_get("kept")?;
    write.commit().await?;
    Ok(kept)
}

pub(super) async fn kept(store: &SqliteStore) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("SELECT kept FROM authority").fetch_optional(&store.reader).await?;
    Ok(row.map(|row| row.try_get("kept")).transpose()?)
}
