//! Rows of this database as values.

use kraftr_protocol::Timestamp;

crate::store::columns::row_readers!(sqlx::sqlite::SqliteRow, i64, Timestamp);
