//! Credits: the balance and the ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use kraftr_protocol::{Credits, EntryId, RenderId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use super::fields::Fields;
use super::page::{Listing, Window, listing, one_more};
use super::problem::Problem;
use crate::domain::ledger::EntryKind;
use crate::store::Entry;

/// What the organisation has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Balance)]
pub(super) struct BalanceView {
    /// Credits that are its own.
    #[schema(example = 100)]
    pub posted: Credits,
    /// The part of them that live renders hold.
    #[schema(example = 4)]
    pub held: Credits,
    /// What can be spent: `posted` less `held`.
    #[schema(example = 96)]
    pub available: Credits,
}

/// A line of the ledger.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LedgerEntry)]
pub(super) struct EntryView {
    /// Its id.
    pub id: EntryId,
    /// What happened.
    pub kind: EntryKind,
    /// The render it belongs to; null for a grant.
    #[schema(required)]
    pub render: Option<RenderId>,
    /// Credits granted, held, captured, given back or refunded; never negative.
    pub amount: Credits,
    /// The account's `posted` after it.
    pub posted_after: Credits,
    /// The account's `held` after it.
    pub held_after: Credits,
    /// When it was written.
    pub created_at: Timestamp,
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            kind: entry.kind,
            render: entry.render,
            amount: entry.amount,
            posted_after: entry.posted_after,
            held_after: entry.held_after,
            created_at: entry.created_at,
        }
    }
}

/// Reads the balance.
#[utoipa::path(
    get, path = "/v1/balance", tag = "credits", operation_id = "read_balance", security(("api_key" = [])),
    responses((status = OK, description = "What the organisation has.", body = BalanceView)),
)]
pub(super) async fn balance(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> Result<Json<BalanceView>, Problem> {
    let balance = api.app.store.balance(caller.org).await?;
    Ok(Json(BalanceView { posted: balance.posted, held: balance.held, available: balance.available() }))
}

/// Lists the ledger, newest first.
///
/// A render holds its price when it is submitted; a `capture` takes what was delivered, a `void` gives back
/// all of it.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "credits", operation_id = "list_ledger", security(("api_key" = [])),
    params(Window),
    responses((status = OK, description = "A page of entries.", body = Listing<EntryView>)),
)]
pub(super) async fn ledger(
    State(api): State<Arc<Api>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Listing<EntryView>>, Problem> {
    let mut fields = Fields::from_query(query.as_deref());
    let page = Window::read(&mut fields, |id: EntryId| id.0);
    fields.finish()?;
    let rows = api.app.store.ledger(caller.org, &one_more(page)).await?;
    Ok(Json(listing(page, rows, |entry| entry.id, EntryView::from)))
}
