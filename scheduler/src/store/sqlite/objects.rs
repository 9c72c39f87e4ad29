//! Which objects rows refer to.

use std::collections::BTreeSet;

use super::{SqliteStore, columns};
use crate::store::{LaneLoad, ObjectKind, ObjectName, ObjectRow, Page, StoreError};

pub(super) async fn wanted(store: &SqliteStore, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
    let mut tx = store.reader.begin().await?;
    let mut wanted = BTreeSet::new();
    for key in keys {
        let query = match ObjectName::parse(key) {
            None => continue,
            Some(ObjectName::Asset(asset)) => {
                sqlx::query("SELECT 1 FROM assets WHERE id = ? AND object_key = ? AND deleted_at IS NULL")
                    .bind(asset.0)
                    .bind(key)
            }
            Some(ObjectName::Artifact(held)) => sqlx::query(
                "SELECT 1 FROM renders WHERE id = ?1 AND (status = 'running' AND epoch = ?2
                     OR deleted_at IS NULL AND EXISTS (
                         SELECT 1 FROM artifacts WHERE render_id = renders.id AND object_key = ?3))",
            )
            .bind(held.render.0)
            .bind(held.epoch.0)
            .bind(key),
        };
        if query.fetch_optional(&mut *tx).await?.is_some() {
            wanted.insert(key.clone());
        }
    }
    Ok(wanted)
}

pub(super) async fn list(
    store: &SqliteStore,
    kind: ObjectKind,
    page: &Page,
) -> Result<Vec<ObjectRow>, StoreError> {
    let query = match kind {
        ObjectKind::Assets => {
            "SELECT id, object_key, bytes FROM assets
             WHERE deleted_at IS NULL AND (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"
        }
        ObjectKind::Artifacts => {
            "SELECT artifacts.id, object_key, bytes FROM artifacts JOIN renders ON renders.id = render_id
             WHERE deleted_at IS NULL AND (?1 IS NULL OR artifacts.id < ?1) ORDER BY artifacts.id DESC LIMIT ?2"
        }
    };
    sqlx::query(query)
        .bind(page.before)
        .bind(page.limit)
        .fetch_all(&store.reader)
        .await?
        .iter()
        .map(columns::object)
        .collect()
}

pub(super) async fn lanes_in_flight(store: &SqliteStore) -> Result<Vec<LaneLoad>, StoreError> {
    sqlx::query(
        "SELECT pool, release, class, SUM(status = 'dispatched') AS dispatched, SUM(status = 'running') AS running
         FROM renders WHERE status IN ('dispatched', 'running') GROUP BY pool, release, class ORDER BY 1, 2, 3",
    )
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(columns::lane_load)
    .collect()
}
