//! Rows of this database as values.

crate::store::columns::row_readers!(sqlx::sqlite::SqliteRow);
