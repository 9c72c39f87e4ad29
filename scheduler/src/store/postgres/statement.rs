//! Statements about many rows and many tables that are one round trip.

use std::mem;

use kraftr_protocol::Timestamp;
use sqlx::postgres::PgHasArrayType;
use sqlx::{Encode, PgConnection, Postgres, QueryBuilder, Type};

use super::columns::Moment;

/// Parts that write, as one statement: `WITH a AS (INSERT …), b AS (UPDATE …) SELECT …`.
///
/// Every part sees the tables as they were before; foreign keys, triggers and deferred constraints see them when
/// all parts are written.
pub(super) struct Parts {
    sql: QueryBuilder<Postgres>,
    empty: bool,
}

impl Parts {
    pub(super) fn new() -> Self {
        Self { sql: QueryBuilder::new("WITH "), empty: true }
    }

    /// Begins a part of that name, to be written by the caller.
    pub(super) fn part(&mut self, name: &str) -> &mut QueryBuilder<Postgres> {
        if !mem::take(&mut self.empty) {
            self.sql.push("),\n");
        }
        self.sql.push(name).push(" AS (")
    }

    /// Writes all parts, if there are any, and evaluates about them what `select` says.
    pub(super) async fn execute(
        mut self,
        connection: &mut PgConnection,
        select: impl FnOnce(&mut QueryBuilder<Postgres>),
    ) -> sqlx::Result<()> {
        if self.empty {
            return Ok(());
        }
        select(self.sql.push(")\nSELECT "));
        self.sql.build().execute(connection).await?;
        Ok(())
    }
}

type Bind<'v> = Box<dyn FnOnce(&mut QueryBuilder<Postgres>) + Send + 'v>;

/// Rows as columns: each is one array, whatever the number of rows.
#[derive(Default)]
pub(super) struct Columns<'v> {
    columns: Vec<(&'static str, &'static str, Bind<'v>)>,
    moments: Vec<(&'static str, Timestamp)>,
}

impl<'v> Columns<'v> {
    /// A column of that name and type. Values of another type are cast, text to JSON for one.
    pub(super) fn add<T>(mut self, name: &'static str, kind: &'static str, values: Vec<T>) -> Self
    where
        T: Send + 'v,
        for<'e> T: Encode<'e, Postgres> + Type<Postgres> + PgHasArrayType,
    {
        let bind: Bind<'v> = Box::new(move |sql: &mut QueryBuilder<Postgres>| {
            sql.push_bind(values);
        });
        self.columns.push((name, kind, bind));
        self
    }

    /// A column that is the same in every row.
    pub(super) fn moment(mut self, name: &'static str, at: Timestamp) -> Self {
        self.moments.push((name, at));
        self
    }

    fn names(&self) -> Vec<&'static str> {
        self.columns.iter().map(|(name, ..)| *name).collect()
    }

    /// `UNNEST($1::uuid[], …) WITH ORDINALITY AS new (id, …, place)`.
    pub(super) fn unnest(self, sql: &mut QueryBuilder<Postgres>) {
        let names = self.names().join(", ");
        let mut before = "UNNEST(";
        for (_, kind, bind) in self.columns {
            sql.push(before);
            bind(sql);
            sql.push("::").push(kind).push("[]");
            before = ", ";
        }
        sql.push(") WITH ORDINALITY AS new (").push(names).push(", place)");
    }

    /// Inserts the rows into a table, in their order.
    pub(super) fn insert_into(mut self, table: &str, sql: &mut QueryBuilder<Postgres>) {
        let (names, moments) = (self.names().join(", "), mem::take(&mut self.moments));
        sql.push("INSERT INTO ").push(table).push(" (").push(&names);
        for (name, _) in &moments {
            sql.push(", ").push(name);
        }
        sql.push(") SELECT ").push(&names);
        for (_, at) in moments {
            sql.push(", ").push_bind(Moment(at)).push("::timestamptz");
        }
        sql.push(" FROM ");
        self.unnest(sql);
        sql.push(" ORDER BY place");
    }
}
