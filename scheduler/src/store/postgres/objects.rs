//! Which objects rows refer to.

use std::collections::BTreeSet;

use kraftr_protocol::message::Held;
use sqlx::Row as _;
use uuid::Uuid;

use super::columns::{self, not_deleted};
use super::{NEWEST, PgStore};
use crate::store::{LaneLoad, ObjectKind, ObjectName, ObjectRow, Page, StoreError};

pub(super) async fn wanted(store: &PgStore, keys: &[String]) -> Result<BTreeSet<String>, StoreError> {
    let names = || keys.iter().filter_map(|key| ObjectName::parse(key).map(|name| (key, name)));
    let (mut assets, mut claims): (Vec<Uuid>, Vec<Uuid>) = (Vec::new(), Vec::new());
    for (_, name) in names() {
        match name {
            ObjectName::Asset(asset) => assets.push(asset.0),
            ObjectName::Artifact(held) => claims.push(held.render.0),
        }
    }
    let mut connection = store.pool.acquire().await?;
    // Claims first: one that ends in between has its artifacts recorded by then.
    let running: BTreeSet<(Uuid, i64)> =
        sqlx::query("SELECT id, epoch FROM renders WHERE id = ANY($1) AND status = 'running'")
            .bind(claims)
            .fetch_all(&mut *connection)
            .await?
            .iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("epoch")?)))
            .collect::<Result<_, StoreError>>()?;
    let mut wanted: BTreeSet<String> = sqlx::query(concat!(
        "SELECT object_key FROM assets WHERE id = ANY($1) AND object_key = ANY($2) AND ",
        not_deleted!(),
        " UNION ALL
         SELECT object_key FROM artifacts JOIN renders ON renders.id = render_id
         WHERE object_key = ANY($2) AND ",
        not_deleted!()
    ))
    .bind(assets)
    .bind(keys)
    .fetch_all(&mut *connection)
    .await?
    .iter()
    .map(|row| row.try_get("object_key"))
    .collect::<Result<_, sqlx::Error>>()?;
    let held = |held: Held| running.contains(&(held.render.0, held.epoch.0));
    wanted.extend(
        names()
            .filter(|(_, name)| matches!(name, ObjectName::Artifact(claim) if held(*claim)))
            .map(|(key, _)| key.clone()),
    );
    Ok(wanted)
}

pub(super) async fn list(
    store: &PgStore,
    kind: ObjectKind,
    page: &Page,
) -> Result<Vec<ObjectRow>, StoreError> {
    let query = match kind {
        ObjectKind::Assets => {
            "SELECT id, object_key, bytes FROM assets WHERE deleted_at IS NULL AND id < $1 ORDER BY id DESC LIMIT $2"
        }
        ObjectKind::Artifacts => {
            concat!(
                "SELECT artifacts.id, object_key, bytes FROM artifacts JOIN renders ON renders.id = render_id
                 WHERE artifacts.id < $1 AND ",
                not_deleted!(),
                " ORDER BY artifacts.id DESC LIMIT $2"
            )
        }
    };
    sqlx::query(query)
        .bind(page.before.unwrap_or(NEWEST))
        .bind(i64::from(page.limit))
        .fetch_all(&store.pool)
        .await?
        .iter()
        .map(columns::object)
        .collect()
}

pub(super) async fn lanes_in_flight(store: &PgStore) -> Result<Vec<LaneLoad>, StoreError> {
    sqlx::query(
        "SELECT pool, release, class, COUNT(*) FILTER (WHERE status = 'dispatched') AS dispatched,
             COUNT(*) FILTER (WHERE status = 'running') AS running
         FROM renders WHERE status IN ('dispatched', 'running') GROUP BY pool, release, class ORDER BY 1, 2, 3",
    )
    .fetch_all(&store.pool)
    .await?
    .iter()
    .map(columns::lane_load)
    .collect()
}
