//! The library of uploaded pictures.

use std::collections::BTreeMap;

use kraftr_protocol::{AssetId, Digest, OrgId};
use uuid::Uuid;

use super::columns::{self, Moment, not_deleted};
use super::{NEWEST, PgStore, idempotency, outbox};
use crate::store::{Asset, DeleteOutcome, NewAsset, Page, Resource, StoreError, Ticket, Topic};

macro_rules! select_asset {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, org_id, object_key, sha256, content_type, width, height, bytes, created_at FROM assets ",
            $($rest),+
        )
    };
}

pub(super) async fn insert(
    store: &PgStore,
    asset: &NewAsset,
    ticket: Option<&Ticket>,
) -> Result<Asset, StoreError> {
    let mut write = store.write().await?;
    // The update changes nothing; it locks the row that was there first and gives it back.
    let row = sqlx::query(
        "INSERT INTO assets (id, org_id, object_key, sha256, content_type, width, height, bytes, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (org_id, sha256) WHERE deleted_at IS NULL DO UPDATE SET bytes = assets.bytes
         RETURNING id, org_id, object_key, sha256, content_type, width, height, bytes, created_at",
    )
    .bind(asset.id.0)
    .bind(asset.org.0)
    .bind(&asset.object_key)
    .bind(&asset.sha256.0[..])
    .bind(&asset.content_type)
    .bind(i64::from(asset.width))
    .bind(i64::from(asset.height))
    .bind(asset.bytes as i64)
    .bind(Moment(write.now))
    .fetch_one(&mut *write.tx)
    .await?;
    let kept = columns::asset(&row)?;
    if let Some(ticket) = ticket {
        // An asset costs nothing: if the reservation lapsed, the same content still means the same asset.
        idempotency::complete(&mut write.tx, &[(ticket.clone(), Resource::Asset(kept.id))]).await?;
    }
    write.commit().await?;
    Ok(kept)
}

pub(super) async fn get(store: &PgStore, org: OrgId, id: AssetId) -> Result<Option<Asset>, StoreError> {
    sqlx::query(select_asset!("WHERE id = $1 AND org_id = $2 AND ", not_deleted!()))
        .bind(id.0)
        .bind(org.0)
        .fetch_optional(&store.pool)
        .await?
        .as_ref()
        .map(columns::asset)
        .transpose()
}

pub(super) async fn by_digest(
    store: &PgStore,
    org: OrgId,
    sha256: Digest,
) -> Result<Option<Asset>, StoreError> {
    sqlx::query(select_asset!("WHERE org_id = $1 AND sha256 = $2 AND deleted_at IS NULL"))
        .bind(org.0)
        .bind(&sha256.0[..])
        .fetch_optional(&store.pool)
        .await?
        .as_ref()
        .map(columns::asset)
        .transpose()
}

pub(super) async fn list(store: &PgStore, org: OrgId, page: &Page) -> Result<Vec<Asset>, StoreError> {
    sqlx::query(select_asset!(
        "WHERE org_id = $1 AND deleted_at IS NULL AND id < $2 ORDER BY id DESC LIMIT $3"
    ))
    .bind(org.0)
    .bind(page.before.unwrap_or(NEWEST))
    .bind(i64::from(page.limit))
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::asset)
    .collect()
}

/// The assets that these renders need and that are not deleted.
pub(super) async fn inputs_of(
    store: &PgStore,
    renders: &[Uuid],
) -> Result<BTreeMap<AssetId, Asset>, StoreError> {
    sqlx::query(select_asset!(
        "WHERE id IN (SELECT UNNEST(ARRAY[person_id, garment_id]) FROM renders WHERE id = ANY($1)) AND ",
        not_deleted!()
    ))
    .bind(renders)
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(|row| columns::asset(row).map(|asset| (asset.id, asset)))
    .collect()
}

pub(super) async fn delete(store: &PgStore, org: OrgId, id: AssetId) -> Result<DeleteOutcome, StoreError> {
    let mut locks = store.begin().await?;
    // A submission that has locked the asset is waited for, and its render is seen then.
    let row = sqlx::query(select_asset!("WHERE id = $1 AND org_id = $2 AND ", not_deleted!(), " FOR UPDATE"))
        .bind(id.0)
        .bind(org.0)
        .fetch_optional(&mut *locks.tx)
        .await?;
    let Some(asset) = row.as_ref().map(columns::asset).transpose()? else {
        return Ok(DeleteOutcome::NotFound);
    };
    let in_use = sqlx::query(
        "SELECT 1 AS used FROM renders WHERE person_id = $1 AND status IN ('queued', 'dispatched', 'running')
         UNION ALL
         SELECT 1 FROM renders WHERE garment_id = $1 AND status IN ('queued', 'dispatched', 'running') LIMIT 1",
    )
    .bind(id.0)
    .fetch_optional(&mut *locks.tx)
    .await?;
    if in_use.is_some() {
        return Ok(DeleteOutcome::InUse);
    }
    let mut write = store.at_work(locks).await?;
    sqlx::query("UPDATE assets SET deleted_at = $1 WHERE id = $2")
        .bind(Moment(write.now))
        .bind(id.0)
        .execute(&mut *write.tx)
        .await?;
    outbox::add(&mut write.tx, &[Topic::Erase { object_key: asset.object_key }], write.now).await?;
    write.notices.outbox = true;
    write.commit().await?;
    Ok(DeleteOutcome::Deleted)
}
