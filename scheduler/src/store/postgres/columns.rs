//! Rows of this database as values.

use kraftr_protocol::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Type};

/// Microseconds from the Unix epoch to this database's own, 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;

/// A `timestamptz`, which is microseconds on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(pub(super) Timestamp);

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        moment.0
    }
}

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Moment {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Postgres>>::encode_by_ref(&(self.0.0 - EPOCH), buffer)
    }
}

impl Decode<'_, Postgres> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self(Timestamp(i64::from_be_bytes(bytes) + EPOCH)))
    }
}

crate::store::columns::row_readers!(sqlx::postgres::PgRow, Moment, Timestamp::from);

/// `deleted_at IS NULL` for rows that are looked up by their ids, in words that match no partial index: a planner that
/// knows a table as empty would walk all of such an index instead.
macro_rules! not_deleted {
    () => {
        "COALESCE(deleted_at, 'infinity') = 'infinity'"
    };
}
pub(super) use not_deleted;

/// A statement that locks rows, with the moment after each was locked as `locked_at`.
macro_rules! locking {
    ($($select:expr),+) => {
        concat!(
            "WITH locked AS MATERIALIZED (", $($select,)+ ") SELECT locked.*, clock_timestamp() AS locked_at FROM locked"
        )
    };
}
pub(super) use locking;

/// The database's clock after the last of these rows was locked; absent when there are none.
pub(super) fn locked_at(rows: &[PgRow]) -> Result<Option<Timestamp>, StoreError> {
    let Some(last) = rows.last() else { return Ok(None) };
    Ok(Some(last.try_get::<Moment, _>("locked_at")?.0))
}
