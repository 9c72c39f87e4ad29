//! The library of uploaded pictures.

use kraftr_protocol::{AssetId, Digest, OrgId};
use sqlx::SqliteConnection;

use super::{SqliteStore, columns, idempotency, outbox};
use crate::store::{Asset, DeleteOutcome, NewAsset, Page, Resource, StoreError, Ticket, Topic};

macro_rules! select_asset {
    ($rest:literal) => {
        concat!(
            "SELECT id, org_id, object_key, sha256, content_type, width, height, bytes, created_at FROM assets ",
            $rest
        )
    };
}

pub(super) async fn insert(
    store: &SqliteStore,
    asset: &NewAsset,
    ticket: Option<&Ticket>,
) -> Result<Asset, StoreError> {
    let mut write = store.write().await?;
    sqlx::query(
        "INSERT INTO assets (id, org_id, object_key, sha256, content_type, width, height, bytes, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (org_id, sha256) WHERE deleted_at IS NULL DO NOTHING",
    )
    .bind(asset.id.0)
    .bind(asset.org.0)
    .bind(&asset.object_key)
    .bind(&asset.sha256.0[..])
    .bind(&asset.content_type)
    .bind(asset.width)
    .bind(asset.height)
    .bind(asset.bytes as i64)
    .bind(write.now.0)
    .execute(&mut *write.tx)
    .await?;
    let row = sqlx::query(select_asset!("WHERE org_id = ? AND sha256 = ? AND deleted_at IS NULL"))
        .bind(asset.org.0)
        .bind(&asset.sha256.0[..])
        .fetch_one(&mut *write.tx)
        .await?;
    let kept = columns::asset(&row)?;
    if let Some(ticket) = ticket {
        // An asset costs nothing: if the reservation lapsed, the same content still means the same asset.
        idempotency::complete(&mut write, ticket, Resource::Asset(kept.id)).await?;
    }
    write.commit().await?;
    Ok(kept)
}

pub(super) async fn get(store: &SqliteStore, org: OrgId, id: AssetId) -> Result<Option<Asset>, StoreError> {
    let mut connection = store.reader.acquire().await?;
    live(&mut connection, org, id).await
}

/// The org's asset of that id, unless it is deleted.
pub(super) async fn live(
    connection: &mut SqliteConnection,
    org: OrgId,
    id: AssetId,
) -> Result<Option<Asset>, StoreError> {
    sqlx::query(select_asset!("WHERE id = ? AND org_id = ? AND deleted_at IS NULL"))
        .bind(id.0)
        .bind(org.0)
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(columns::asset)
        .transpose()
}

pub(super) async fn by_digest(
    store: &SqliteStore,
    org: OrgId,
    sha256: Digest,
) -> Result<Option<Asset>, StoreError> {
    sqlx::query(select_asset!("WHERE org_id = ? AND sha256 = ? AND deleted_at IS NULL"))
        .bind(org.0)
        .bind(&sha256.0[..])
        .fetch_optional(&store.reader)
        .await?
        .as_ref()
        .map(columns::asset)
        .transpose()
}

pub(super) async fn list(store: &SqliteStore, org: OrgId, page: &Page) -> Result<Vec<Asset>, StoreError> {
    sqlx::query(select_asset!(
        "WHERE org_id = ?1 AND deleted_at IS NULL AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3"
    ))
    .bind(org.0)
    .bind(page.before)
    .bind(page.limit)
    .fetch_all(&store.reader)
    .await?
    .iter()
    .map(columns::asset)
    .collect()
}

pub(super) async fn delete(
    store: &SqliteStore,
    org: OrgId,
    id: AssetId,
) -> Result<DeleteOutcome, StoreError> {
    let mut write = store.write().await?;
    let Some(asset) = live(&mut write.tx, org, id).await? else {
        return Ok(DeleteOutcome::NotFound);
    };
    let in_use = sqlx::query(
        "SELECT 1 FROM renders WHERE person_id = ?1 AND status IN ('queued', 'dispatched', 'running')
         UNION ALL
         SELECT 1 FROM renders WHERE garment_id = ?1 AND status IN ('queued', 'dispatched', 'running') LIMIT 1",
    )
    .bind(id.0)
    .fetch_optional(&mut *write.tx)
    .await?;
    if in_use.is_some() {
        return Ok(DeleteOutcome::InUse);
    }
    sqlx::query("UPDATE assets SET deleted_at = ? WHERE id = ?")
        .bind(write.now.0)
        .bind(id.0)
        .execute(&mut *write.tx)
        .await?;
    outbox::add(&mut write, &Topic::Erase { object_key: asset.object_key }).await?;
    write.commit().await?;
    Ok(DeleteOutcome::Deleted)
}
