//! The double-entry ledger: which postings each happening makes.
//!
//! A happening (grant, hold, capture, void) is two entries of opposite sign, one on the org's
//! account and one on a system account, so that all entries sum to zero. `hold` moves only the
//! pending part (`held`); `capture` and `void` end the hold and `capture` also moves `posted`. After
//! `TigerBeetle`'s two-phase transfers.

use kraftr_protocol::{Credits, OrgId};
use serde::{Deserialize, Serialize};

/// What happened to an account.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Credits were added.
    Grant,
    /// A render reserved its price.
    Hold,
    /// A delivered render was paid, all or in part; the rest of its hold is free again.
    Capture,
    /// An undelivered render's hold was given back.
    Void,
    /// A payment was given back.
    Refund,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Grant, Self::Hold, Self::Capture, Self::Void, Self::Refund];

    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }

    /// The kind of that name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Whose balance an entry changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    /// A tenant's; it keeps a balance row.
    Org(OrgId),
    /// Where grants come from; summed, never kept.
    Grants,
    /// Where payments go; summed, never kept.
    Revenue,
}

/// One entry to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// Whose balance changes.
    pub account: Account,
    /// Change of `posted`.
    pub posted: i64,
    /// Change of `held`.
    pub held: i64,
}

/// The two entries of one happening, the org's first.
pub type Postings = [Posting; 2];

fn pair(org: OrgId, other: Account, posted: i64, held: i64) -> Postings {
    [
        Posting { account: Account::Org(org), posted, held },
        Posting { account: other, posted: -posted, held: -held },
    ]
}

/// Adds `amount` to the org.
pub fn grant(org: OrgId, amount: Credits) -> Postings {
    pair(org, Account::Grants, amount.0, 0)
}

/// Reserves `price` of the org.
pub fn hold(org: OrgId, price: Credits) -> Postings {
    pair(org, Account::Revenue, 0, price.0)
}

/// Ends the hold of `price` and takes `charged` of it.
pub fn capture(org: OrgId, price: Credits, charged: Credits) -> Postings {
    assert!(0 <= charged.0 && charged.0 <= price.0, "a capture takes at most what is held");
    pair(org, Account::Revenue, -charged.0, -price.0)
}

/// Ends the hold of `price` and takes nothing.
pub fn void(org: OrgId, price: Credits) -> Postings {
    pair(org, Account::Revenue, 0, -price.0)
}

/// What a render of `price` for `samples` images costs when `delivered` of them arrived.
///
/// The price is a whole number of credits an image, so this is exact.
pub fn charge(price: Credits, samples: u32, delivered: u32) -> Credits {
    assert!(delivered <= samples && samples > 0, "no more images are delivered than were asked for");
    Credits(price.0 / i64::from(samples) * i64::from(delivered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn every_happening_sums_to_zero() {
        let org = OrgId(Uuid::from_u128(1));
        for postings in [
            grant(org, Credits(7)),
            hold(org, Credits(4)),
            capture(org, Credits(4), Credits(3)),
            void(org, Credits(4)),
        ] {
            assert_eq!(postings.iter().map(|posting| posting.posted).sum::<i64>(), 0);
            assert_eq!(postings.iter().map(|posting| posting.held).sum::<i64>(), 0);
        }
    }

    #[test]
    fn a_hold_then_its_end_leaves_nothing_held() {
        let org = OrgId(Uuid::from_u128(1));
        for end in [capture(org, Credits(4), Credits(3)), void(org, Credits(4))] {
            assert_eq!(hold(org, Credits(4))[0].held + end[0].held, 0);
        }
        assert_eq!(capture(org, Credits(4), Credits(3))[0].posted, -3);
    }

    #[test]
    fn a_partial_result_costs_its_part() {
        assert_eq!(charge(Credits(8), 4, 3), Credits(6));
        assert_eq!(charge(Credits(8), 4, 0), Credits(0));
    }
}
