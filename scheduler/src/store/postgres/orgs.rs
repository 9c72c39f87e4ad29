//! Tenants and their API keys.

use kraftr_protocol::{ApiKeyId, Digest, OrgId};

use super::PgStore;
use super::columns::{self, Moment};
use crate::store::{ApiKey, Org, StoreError};

pub(super) async fn create_org(store: &PgStore, name: &str) -> Result<Org, StoreError> {
    let mut write = store.write().await?;
    let org = Org { id: OrgId(write.id()), name: name.to_owned(), created_at: write.now };
    sqlx::query("INSERT INTO orgs (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(org.id.0)
        .bind(name)
        .bind(Moment(org.created_at))
        .execute(&mut *write.tx)
        .await?;
    sqlx::query("INSERT INTO accounts (org_id, posted, held) VALUES ($1, 0, 0)")
        .bind(org.id.0)
        .execute(&mut *write.tx)
        .await?;
    write.commit().await?;
    Ok(org)
}

pub(super) async fn orgs(store: &PgStore) -> Result<Vec<Org>, StoreError> {
    sqlx::query("SELECT id, name, created_at FROM orgs ORDER BY id")
        .fetch_all(&store.pool)
        .await?
        .iter()
        .map(columns::org)
        .collect()
}

pub(super) async fn create_key(
    store: &PgStore,
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
    sqlx::query(
        "INSERT INTO api_keys (id, org_id, label, secret_sha256, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(key.id.0)
    .bind(org.0)
    .bind(label)
    .bind(&secret.0[..])
    .bind(Moment(key.created_at))
    .execute(&mut *write.tx)
    .await?;
    write.commit().await?;
    Ok(key)
}

pub(super) async fn keys(store: &PgStore, org: OrgId) -> Result<Vec<ApiKey>, StoreError> {
    sqlx::query(
        "SELECT id, org_id, label, created_at, revoked_at FROM api_keys WHERE org_id = $1 ORDER BY id",
    )
    .bind(org.0)
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::key)
    .collect()
}

pub(super) async fn key_by_secret(store: &PgStore, secret: Digest) -> Result<Option<ApiKey>, StoreError> {
    sqlx::query("SELECT id, org_id, label, created_at, revoked_at FROM api_keys WHERE secret_sha256 = $1")
        .bind(&secret.0[..])
        .fetch_optional(&store.pool)
        .await?
        .as_ref()
        .map(columns::key)
        .transpose()
}

pub(super) async fn revoke_key(store: &PgStore, key: ApiKeyId) -> Result<bool, StoreError> {
    let mut write = store.write().await?;
    let known = sqlx::query("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2")
        .bind(Moment(write.now))
        .bind(key.0)
        .execute(&mut *write.tx)
        .await?
        .rows_affected();
    write.commit().await?;
    Ok(known == 1)
}
