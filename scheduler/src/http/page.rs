//! Lists in pages: `?limit=&cursor=` -> `{"data":[…],"next_cursor":…}`, newest first.

use std::fmt::Display;
use std::str::FromStr;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use kraftr_protocol::limits::{PAGE_DEFAULT, PAGE_MAX};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::fields::{Fields, Wrong, text, wrong};
use crate::store::Page;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listing<T> {
    /// The rows, newest first.
    pub data: Vec<T>,
    /// What `cursor` takes for the next page; null on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What every list takes.
#[expect(dead_code, reason = "describes the request for OpenAPI; its fields are read one by one")]
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Window {
    /// Rows wanted at most: 1 to 100, 20 when absent. Anything else is refused, never clamped.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Window {
    /// Reads `limit` and `cursor`; the cursor must be one of a list of `Id`s.
    pub(super) fn read<Id: FromStr>(fields: &mut Fields, uuid: impl FnOnce(Id) -> Uuid) -> Page {
        let limit = fields.optional("limit", limit);
        let before = fields.optional("cursor", cursor).map(uuid);
        Page { limit: limit.unwrap_or(PAGE_DEFAULT), before }
    }
}

fn limit(value: Value) -> Result<u32, Wrong> {
    let text = text(value)?;
    // `parse` alone would take "+5" and "007".
    let plain = text.bytes().all(|digit| digit.is_ascii_digit()) && !text.starts_with('0');
    let number = if plain { text.parse().ok() } else { None };
    number
        .filter(|number| (1..=PAGE_MAX).contains(number))
        .ok_or_else(|| wrong(format!("must be a whole number from 1 to {PAGE_MAX}")))
}

fn cursor<Id: FromStr>(value: Value) -> Result<Id, Wrong> {
    let text = text(value)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).ok();
    let id = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse::<Id>().ok());
    id.ok_or_else(|| wrong("is not a cursor of this list; use next_cursor of the page before"))
}

/// One row more than a page shows: it tells whether there is a next page.
pub(super) fn one_more(page: Page) -> Page {
    Page { limit: page.limit + 1, ..page }
}

/// The page of `rows`, which were asked for with [`one_more`].
pub(super) fn listing<Row, Id: Display, T>(
    page: Page,
    mut rows: Vec<Row>,
    id: impl Fn(&Row) -> Id,
    show: impl FnMut(Row) -> T,
) -> Listing<T> {
    let more = rows.len() > page.limit as usize;
    rows.truncate(page.limit as usize);
    let last = rows.last().filter(|_| more).map(id);
    let next_cursor = last.map(|id| BASE64_URL_SAFE_NO_PAD.encode(id.to_string()));
    Listing { data: rows.into_iter().map(show).collect(), next_cursor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kraftr_protocol::{AssetId, RenderId};

    fn page(query: &str) -> Option<Page> {
        let mut fields = Fields::from_query(Some(query));
        let page = Window::read(&mut fields, |id: RenderId| id.0);
        fields.finish().ok().map(|()| page)
    }

    #[test]
    fn limits_are_refused_and_never_clamped() {
        assert_eq!(page("").unwrap().limit, PAGE_DEFAULT);
        assert_eq!(page("limit=1").unwrap().limit, 1);
        assert_eq!(page("limit=100").unwrap().limit, 100);
        for wrong in ["0", "101", "-1", "+5", "05", "1.0", "ten", "", "99999999999999999999"] {
            assert_eq!(page(&format!("limit={wrong}")), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_cursor_leads_behind_the_last_row() {
        let ids: Vec<RenderId> = (0..3).map(|n| RenderId(Uuid::from_u128(9 - n))).collect();
        let window = Page { limit: 2, before: None };
        let first = listing(window, ids.clone(), |id| *id, |id| id);
        assert_eq!(first.data, ids[..2]);
        let cursor = first.next_cursor.unwrap();
        assert_eq!(page(&format!("cursor={cursor}")).unwrap().before, Some(ids[1].0));
        assert_eq!(listing(window, ids[..2].to_vec(), |id| *id, |id| id).next_cursor, None);
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        let other = BASE64_URL_SAFE_NO_PAD.encode(AssetId(Uuid::from_u128(1)).to_string());
        for wrong in [&*other, "x", "====", "%00"] {
            assert_eq!(page(&format!("cursor={wrong}")), None, "{wrong}");
        }
    }
}
