//! Rows as values. Both databases name their columns alike and hold numbers in 64 bits, so that one
//! reading serves both; it is a macro because a generic function would have to name every bound.

use kraftr_protocol::{Digest, Transition};

use super::StoreError;

pub(super) fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

/// A number that the schema keeps within `T`.
pub(super) fn number<T: TryFrom<i64>>(value: i64, column: &str) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| corrupt(format_args!("{column} holds {value}")))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, StoreError> {
    bytes.try_into().map(Digest).map_err(|_| corrupt("a digest is not 32 bytes long"))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(corrupt)
}

pub(super) fn transition_named(word: &str) -> Result<Transition, StoreError> {
    Transition::ALL
        .into_iter()
        .find(|transition| format!("{transition:?}").to_lowercase() == word)
        .ok_or_else(|| corrupt(format_args!("transition {word}")))
}

/// Defines the readers of every row for one database's row type; `$Moment` is what its moments are read as.
macro_rules! row_readers {
    ($Row:ty, $Moment:ty, $read_moment:expr) => {
        use kraftr_protocol::{
            ApiKeyId, ArtifactId, AssetId, Class, Credits, EntryId, Epoch, GpuMillis, Lane, OrgId, RenderId,
            Status, WatermarkRef, WorkerId,
        };
        use sqlx::Row as _;

        use crate::domain::ledger::EntryKind;
        use crate::domain::retry::Blame;
        use crate::store::columns::{corrupt, digest, json, number, transition_named};
        use crate::store::work::RenderRow;
        use crate::store::{
            ApiKey, Artifact, Asset, Entry, LaneLoad, ObjectRow, Org, Render, StoreError, TransitionRow,
        };

        /// Reads where a row's object is.
        pub(super) fn object(row: &$Row) -> Result<ObjectRow, StoreError> {
            Ok(ObjectRow {
                id: row.try_get("id")?,
                key: row.try_get("object_key")?,
                bytes: number(row.try_get("bytes")?, "bytes")?,
            })
        }

        /// Reads what is in flight in a lane.
        pub(super) fn lane_load(row: &$Row) -> Result<LaneLoad, StoreError> {
            let lane = Lane {
                pool: row.try_get("pool")?,
                release: row.try_get("release")?,
                class: class(row.try_get("class")?)?,
            };
            Ok(LaneLoad {
                lane,
                dispatched: number(row.try_get("dispatched")?, "dispatched")?,
                running: number(row.try_get("running")?, "running")?,
            })
        }

        /// Reads a render; `artifacts` stay empty.
        pub(super) fn render(row: &$Row) -> Result<RenderRow, StoreError> {
            let status: String = row.try_get("status")?;
            let watermark: Vec<u8> = row.try_get("watermark")?;
            let moment = |column| row.try_get::<Option<$Moment>, _>(column).map(|at| at.map($read_moment));
            let step: Option<i64> = row.try_get("cancelled_at_step")?;
            let text = |column| row.try_get::<Option<String>, _>(column);
            Ok(RenderRow {
                render: Render {
                    id: RenderId(row.try_get("id")?),
                    org: OrgId(row.try_get("org_id")?),
                    status: Status::parse(&status).ok_or_else(|| corrupt(format_args!("status {status}")))?,
                    revision: row.try_get("revision")?,
                    model: row.try_get("model")?,
                    spec: json(&row.try_get::<String, _>("spec")?)?,
                    class: class(&row.try_get::<String, _>("class")?)?,
                    person: AssetId(row.try_get("person_id")?),
                    garment: AssetId(row.try_get("garment_id")?),
                    price: Credits(row.try_get("price")?),
                    attempts: number(row.try_get("attempt")?, "attempt")?,
                    epoch: Epoch(row.try_get("epoch")?),
                    failure: text("failure")?.as_deref().map(json).transpose()?,
                    cancel_requested_at: moment("cancel_requested_at")?,
                    cancelled_at_step: step.map(|step| number(step, "cancelled_at_step")).transpose()?,
                    watermark: WatermarkRef(watermark.as_slice().try_into().map_err(corrupt)?),
                    webhook: row.try_get("webhook")?,
                    metadata: text("metadata")?.as_deref().map(json).transpose()?,
                    artifacts: Vec::new(),
                    created_at: $read_moment(row.try_get::<$Moment, _>("created_at")?),
                    started_at: moment("started_at")?,
                    finished_at: moment("finished_at")?,
                },
                pool: row.try_get("pool")?,
                estimate: GpuMillis(number(row.try_get("estimate_ms")?, "estimate_ms")?),
                worker: row.try_get::<Option<_>, _>("worker_id")?.map(WorkerId),
                lease_until: moment("lease_until")?,
                not_before: $read_moment(row.try_get::<$Moment, _>("not_before")?),
                blame: Blame {
                    failures: number(row.try_get("failures")?, "failures")?,
                    crashes: number(row.try_get("crashes")?, "crashes")?,
                    lost_leases: number(row.try_get("lost_leases")?, "lost_leases")?,
                },
                device_ms: row.try_get("device_ms")?,
            })
        }

        pub(super) fn class(word: &str) -> Result<Class, StoreError> {
            let known = Class::ALL.into_iter().find(|class| class.as_str() == word);
            known.ok_or_else(|| corrupt(format_args!("class {word}")))
        }

        pub(super) fn asset(row: &$Row) -> Result<Asset, StoreError> {
            Ok(Asset {
                id: AssetId(row.try_get("id")?),
                org: OrgId(row.try_get("org_id")?),
                object_key: row.try_get("object_key")?,
                sha256: digest(&row.try_get::<Vec<u8>, _>("sha256")?)?,
                content_type: row.try_get("content_type")?,
                width: number(row.try_get("width")?, "width")?,
                height: number(row.try_get("height")?, "height")?,
                bytes: number(row.try_get("bytes")?, "bytes")?,
                created_at: $read_moment(row.try_get::<$Moment, _>("created_at")?),
            })
        }

        pub(super) fn artifact(row: &$Row) -> Result<Artifact, StoreError> {
            Ok(Artifact {
                id: ArtifactId(row.try_get("id")?),
                render: RenderId(row.try_get("render_id")?),
                sample: number(row.try_get("sample")?, "sample")?,
                object_key: row.try_get("object_key")?,
                sha256: digest(&row.try_get::<Vec<u8>, _>("sha256")?)?,
                content_type: row.try_get("content_type")?,
                width: number(row.try_get("width")?, "width")?,
                height: number(row.try_get("height")?, "height")?,
                bytes: number(row.try_get("bytes")?, "bytes")?,
            })
        }

        pub(super) fn entry(row: &$Row) -> Result<Entry, StoreError> {
            let kind: String = row.try_get("kind")?;
            Ok(Entry {
                id: EntryId(row.try_get("id")?),
                kind: EntryKind::parse(&kind).ok_or_else(|| corrupt(format_args!("entry kind {kind}")))?,
                render: row.try_get::<Option<_>, _>("render_id")?.map(RenderId),
                amount: Credits(row.try_get("amount")?),
                posted_after: Credits(row.try_get("posted_after")?),
                held_after: Credits(row.try_get("held_after")?),
                created_at: $read_moment(row.try_get::<$Moment, _>("created_at")?),
            })
        }

        pub(super) fn org(row: &$Row) -> Result<Org, StoreError> {
            Ok(Org {
                id: OrgId(row.try_get("id")?),
                name: row.try_get("name")?,
                created_at: $read_moment(row.try_get::<$Moment, _>("created_at")?),
            })
        }

        pub(super) fn key(row: &$Row) -> Result<ApiKey, StoreError> {
            Ok(ApiKey {
                id: ApiKeyId(row.try_get("id")?),
                org: OrgId(row.try_get("org_id")?),
                label: row.try_get("label")?,
                created_at: $read_moment(row.try_get::<$Moment, _>("created_at")?),
                revoked_at: row.try_get::<Option<$Moment>, _>("revoked_at")?.map($read_moment),
            })
        }

        pub(super) fn transition(row: &$Row) -> Result<TransitionRow, StoreError> {
            let status: String = row.try_get("status")?;
            let word: Option<String> = row.try_get("transition")?;
            Ok(TransitionRow {
                revision: row.try_get("revision")?,
                transition: word.as_deref().map(transition_named).transpose()?,
                status: Status::parse(&status).ok_or_else(|| corrupt(format_args!("status {status}")))?,
                reason: row.try_get("reason")?,
                at: $read_moment(row.try_get::<$Moment, _>("at")?),
            })
        }
    };
}
pub(super) use row_readers;
