//! Requests by their idempotency key.

use kraftr_protocol::{AssetId, Digest, OrgId, RenderId, Timestamp, limits};
use sqlx::Row as _;
use uuid::Uuid;

use super::{SqliteStore, Write, corrupt};
use crate::store::{Idempotency, Resource, StoreError, Ticket};

pub(super) async fn begin(
    store: &SqliteStore,
    org: OrgId,
    key: &str,
    fingerprint: Digest,
) -> Result<Idempotency, StoreError> {
    let mut write = store.write().await?;
    let row = sqlx::query(
        "SELECT fingerprint, reserved_until, resource_kind, resource_id FROM idempotency_keys
         WHERE org_id = ? AND key = ?",
    )
    .bind(org.0)
    .bind(key)
    .fetch_optional(&mut *write.tx)
    .await?;
    if let Some(row) = row {
        let kind: Option<String> = row.try_get("resource_kind")?;
        let reserved_until = Timestamp(row.try_get("reserved_until")?);
        let same = row.try_get::<Vec<u8>, _>("fingerprint")? == fingerprint.0;
        match kind {
            _ if !same && (kind.is_some() || reserved_until > write.now) => return Ok(Idempotency::Mismatch),
            Some(kind) => return Ok(Idempotency::Done(resource(&kind, row.try_get("resource_id")?)?)),
            None if reserved_until > write.now => return Ok(Idempotency::InFlight),
            None => {}
        }
    }
    let token = i64::from_be_bytes(store.ids.random());
    sqlx::query(
        "INSERT INTO idempotency_keys (org_id, key, fingerprint, token, reserved_until) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (org_id, key) DO UPDATE SET
             fingerprint = excluded.fingerprint, token = excluded.token, reserved_until = excluded.reserved_until",
    )
    .bind(org.0)
    .bind(key)
    .bind(&fingerprint.0[..])
    .bind(token)
    .bind(write.now.plus(limits::IDEMPOTENCY_LEASE).0)
    .execute(&mut *write.tx)
    .await?;
    write.commit().await?;
    Ok(Idempotency::Fresh(Ticket { org, key: key.to_owned(), token }))
}

fn resource(kind: &str, id: Uuid) -> Result<Resource, StoreError> {
    match kind {
        "asset" => Ok(Resource::Asset(AssetId(id))),
        "render" => Ok(Resource::Render(RenderId(id))),
        "cancellation" => Ok(Resource::Cancellation(RenderId(id))),
        other => Err(corrupt(format_args!("resource kind {other}"))),
    }
}

/// True while the reservation is this request's.
pub(super) async fn holds(write: &mut Write<'_>, ticket: &Ticket) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT 1 FROM idempotency_keys WHERE org_id = ? AND key = ? AND token = ? AND resource_kind IS NULL",
    )
    .bind(ticket.org.0)
    .bind(&ticket.key)
    .bind(ticket.token)
    .fetch_optional(&mut *write.tx)
    .await?;
    Ok(row.is_some())
}

/// Records what the request made; false when the reservation is no longer its own.
pub(super) async fn complete(
    write: &mut Write<'_>,
    ticket: &Ticket,
    made: Resource,
) -> Result<bool, StoreError> {
    let (kind, id) = match made {
        Resource::Asset(id) => ("asset", id.0),
        Resource::Render(id) => ("render", id.0),
        Resource::Cancellation(id) => ("cancellation", id.0),
    };
    let rows = sqlx::query(
        "UPDATE idempotency_keys SET resource_kind = ?, resource_id = ?
         WHERE org_id = ? AND key = ? AND token = ? AND resource_kind IS NULL",
    )
    .bind(kind)
    .bind(id)
    .bind(ticket.org.0)
    .bind(&ticket.key)
    .bind(ticket.token)
    .execute(&mut *write.tx)
    .await?
    .rows_affected();
    Ok(rows == 1)
}

pub(super) async fn complete_alone(
    store: &SqliteStore,
    ticket: &Ticket,
    made: Resource,
) -> Result<bool, StoreError> {
    let mut write = store.write().await?;
    let done = complete(&mut write, ticket, made).await?;
    write.commit().await?;
    Ok(done)
}

pub(super) async fn abandon(store: &SqliteStore, ticket: &Ticket) -> Result<(), StoreError> {
    let mut write = store.write().await?;
    sqlx::query(
        "DELETE FROM idempotency_keys WHERE org_id = ? AND key = ? AND token = ? AND resource_kind IS NULL",
    )
    .bind(ticket.org.0)
    .bind(&ticket.key)
    .bind(ticket.token)
    .execute(&mut *write.tx)
    .await?;
    write.commit().await
}
