//! Tenants and their API keys.

use kraftr_protocol::{ApiKeyId, Digest, OrgId};

use super::{SqliteStore, columns};
use crate::store::{ApiKey, Org, StoreError};

pub(super) async fn create_org(store: &SqliteStore, name: &str) -> Result<Org, StoreError> {
    let mut write = store.write().await?;
    let org = Org { id: OrgId(write.id()), name: name.to_owned(), created_at: write.now };
    sqlx::query("INSERT INTO orgs (id, name, created_at) VALUES (?, ?, ?)")
        .bind(org.id.0)
        .bind(name)
        .bind(org.created_at.0)
        .execute(&mut *write.tx)
        .await?;
    sqlx::query("INSERT INTO accounts (org_id, posted, held) VALUES (?, 0, 0)")
        .bind(org.id.0)
        .execute(&mut *write.tx)
        .await?;
    write.commit().await?;
    Ok(org)
}

pub(super) async fn orgs(store: &SqliteStore) -> Result<Vec<Org>, StoreError> {
    sqlx::query("SELECT id, name, created_at FROM orgs ORDER BY id")
        .fetch_all(&store.reader)
        .await?
        .iter()
        .map(columns::org)
        .collect()
}

pub(super) async fn create_key(
    store: &SqliteStore,
    org: OrgId,
    label: &str,
    secret: Digest,
) -> Result<ApiKey, StoreError> {
    let mut write = store.write().await?;
    let key = ApiKey {
        id: ApiKeyId(write.id()),
        org,
        label: label.to_owned(),
        created_at: write.now,
        revoked_at: None,
    };
    sqlx::query("INSERT INTO api_keys (id, org_id, label, secret_sha256, created_at) VALUES (?, ?, ?, ?, ?)")
        .bind(key.id.0)
        .bind(org.0)
        .bind(label)
        .bind(&secret.0[..])
        .bind(key.created_at.0)
        .execute(&mut *write.tx)
        .await?;
    write.commit().await?;
    Ok(key)
}

pub(super) async fn keys(store: &SqliteStore, org: OrgId) -> Result<Vec<ApiKey>, StoreError> {
    sqlx::query("SELECT id, org_id, label, created_at, revoked_at FROM api_keys WHERE org_id = ? ORDER BY id")
        .bind(org.0)
        .fetch_all(&store.reader)
        .await?
        .iter()
        .map(columns::key)
        .collect()
}

pub(super) async fn key_by_secret(store: &SqliteStore, secret: Digest) -> Result<Option<ApiKey>, StoreError> {
    sqlx::query("SELECT id, org_id, label, created_at, revoked_at FROM api_keys WHERE secret_sha256 = ?")
        .bind(&secret.0[..])
        .fetch_optional(&store.reader)
        .await?
        .as_ref()
        .map(columns::key)
        .transpose()
}

pub(super) async fn revoke_key(store: &SqliteStore, key: ApiKeyId) -> Result<bool, StoreError> {
    let mut write = store.write().await?;
    let known = sqlx::query("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?")
        .bind(write.now.0)
        .bind(key.0)
        .execute(&mut *write.tx)
        .await?
        .rows_affected();
    write.commit().await?;
    Ok(known == 1)
}
