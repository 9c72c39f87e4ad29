//! Requests by their idempotency key.

use std::collections::BTreeSet;

use kraftr_protocol::{AssetId, Digest, OrgId, RenderId, limits};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::columns::Moment;
use super::{PgStore, corrupt};
use crate::store::{Idempotency, Resource, StoreError, Ticket};

/// Looks at a key that is taken and given free at the same time before its request counts as under way.
const LOOKS: u32 = 3;

pub(super) async fn begin(
    store: &PgStore,
    org: OrgId,
    key: &str,
    fingerprint: Digest,
) -> Result<Idempotency, StoreError> {
    let token = i64::from_be_bytes(store.ids.random());
    let mut connection = store.pool.acquire().await?;
    for _ in 0..LOOKS {
        let now = store.now(&mut connection).await?;
        let reserved = sqlx::query(
            "INSERT INTO idempotency_keys (org_id, key, fingerprint, token, reserved_until)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (org_id, key) DO UPDATE SET
                 fingerprint = excluded.fingerprint, token = excluded.token,
                 reserved_until = excluded.reserved_until
             WHERE idempotency_keys.resource_kind IS NULL AND idempotency_keys.reserved_until <= $6",
        )
        .bind(org.0)
        .bind(key)
        .bind(&fingerprint.0[..])
        .bind(token)
        .bind(Moment(now.plus(limits::IDEMPOTENCY_LEASE)))
        .bind(Moment(now))
        .execute(&mut *connection)
        .await?;
        if reserved.rows_affected() == 1 {
            return Ok(Idempotency::Fresh(Ticket { org, key: key.to_owned(), token }));
        }
        if let Some(taken) = taken(&mut connection, org, key, fingerprint).await? {
            return Ok(taken);
        }
    }
    Ok(Idempotency::InFlight)
}

/// What is under a key that is taken; `None` when it was given free meanwhile.
async fn taken(
    connection: &mut PgConnection,
    org: OrgId,
    key: &str,
    fingerprint: Digest,
) -> Result<Option<Idempotency>, StoreError> {
    let row = sqlx::query(
        "SELECT fingerprint, resource_kind, resource_id FROM idempotency_keys WHERE org_id = $1 AND key = $2",
    )
    .bind(org.0)
    .bind(key)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<Vec<u8>, _>("fingerprint")? != fingerprint.0 {
        return Ok(Some(Idempotency::Mismatch));
    }
    Ok(Some(match row.try_get::<Option<String>, _>("resource_kind")? {
        None => Idempotency::InFlight,
        Some(kind) => Idempotency::Done(resource(&kind, row.try_get("resource_id")?)?),
    }))
}

fn resource(kind: &str, id: Uuid) -> Result<Resource, StoreError> {
    match kind {
        "asset" => Ok(Resource::Asset(AssetId(id))),
        "render" => Ok(Resource::Render(RenderId(id))),
        "cancellation" => Ok(Resource::Cancellation(RenderId(id))),
        other => Err(corrupt(format_args!("resource kind {other}"))),
    }
}

/// Locks the keys that are still reserved by these tickets; which they are.
pub(super) async fn lock_held<'t>(
    connection: &mut PgConnection,
    tickets: impl Iterator<Item = &'t Ticket>,
) -> Result<BTreeSet<(OrgId, String, i64)>, StoreError> {
    let (mut orgs, mut keys, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for ticket in tickets {
        orgs.push(ticket.org.0);
        keys.push(ticket.key.clone());
        tokens.push(ticket.token);
    }
    if keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    sqlx::query(
        "SELECT org_id, key, token FROM idempotency_keys
         WHERE resource_kind IS NULL
             AND (org_id, key, token) IN (SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::bigint[]))
         ORDER BY org_id, key FOR NO KEY UPDATE",
    )
    .bind(orgs)
    .bind(keys)
    .bind(tokens)
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| Ok((OrgId(row.try_get("org_id")?), row.try_get("key")?, row.try_get("token")?)))
    .collect()
}

/// Records what requests made; how many reservations were still their own.
pub(super) async fn complete(
    connection: &mut PgConnection,
    made: &[(Ticket, Resource)],
) -> Result<u64, StoreError> {
    if made.is_empty() {
        return Ok(0);
    }
    let (mut kinds, mut ids) = (Vec::new(), Vec::new());
    for (_, resource) in made {
        let (kind, id) = match resource {
            Resource::Asset(id) => ("asset", id.0),
            Resource::Render(id) => ("render", id.0),
            Resource::Cancellation(id) => ("cancellation", id.0),
        };
        kinds.push(kind);
        ids.push(id);
    }
    let rows = sqlx::query(
        "UPDATE idempotency_keys SET resource_kind = made.kind, resource_id = made.id
         FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::uuid[])
             AS made (org_id, key, token, kind, id)
         WHERE idempotency_keys.org_id = made.org_id AND idempotency_keys.key = made.key
             AND idempotency_keys.token = made.token AND resource_kind IS NULL",
    )
    .bind(made.iter().map(|(ticket, _)| ticket.org.0).collect::<Vec<_>>())
    .bind(made.iter().map(|(ticket, _)| ticket.key.clone()).collect::<Vec<_>>())
    .bind(made.iter().map(|(ticket, _)| ticket.token).collect::<Vec<_>>())
    .bind(kinds)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(rows.rows_affected())
}

pub(super) async fn complete_alone(
    store: &PgStore,
    ticket: &Ticket,
    made: Resource,
) -> Result<bool, StoreError> {
    let mut connection = store.pool.acquire().await?;
    Ok(complete(&mut connection, &[(ticket.clone(), made)]).await? == 1)
}

pub(super) async fn abandon(store: &PgStore, ticket: &Ticket) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM idempotency_keys WHERE org_id = $1 AND key = $2 AND token = $3 AND resource_kind IS NULL",
    )
    .bind(ticket.org.0)
    .bind(&ticket.key)
    .bind(ticket.token)
    .execute(&store.pool)
    .await?;
    Ok(())
}
