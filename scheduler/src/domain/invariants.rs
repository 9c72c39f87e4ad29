//! The invariants of the ledger, by name. One catalogue serves the audit command, the property
//! tests, the simulation and the metric that alerts.

use serde::Serialize;

/// What must hold at every moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// All entries together sum to zero.
    EntriesSumToZero,
    /// Every org's balance equals the sum of its entries.
    BalanceEqualsEntries,
    /// `0 <= held <= posted` for every org.
    HeldWithinPosted,
    /// Every ended render has exactly one capture or void: a capture if it succeeded, else a void.
    EndedHasOneSettlement,
    /// Every live render has exactly one hold and no settlement.
    LiveHasOneOpenHold,
    /// What an org has held is the price of its live renders.
    HeldEqualsLivePrices,
    /// Each org entry of a render's kind exists once.
    KindOncePerRender,
    /// A succeeded render has artifacts and was charged for each of them.
    ChargedForDelivered,
    /// No idempotency key led to two renders.
    KeyChargedOnce,
    /// Every ended render says when and how it ended.
    EndIsExplained,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Self; 10] = [
        Self::EntriesSumToZero,
        Self::BalanceEqualsEntries,
        Self::HeldWithinPosted,
        Self::EndedHasOneSettlement,
        Self::LiveHasOneOpenHold,
        Self::HeldEqualsLivePrices,
        Self::KindOncePerRender,
        Self::ChargedForDelivered,
        Self::KeyChargedOnce,
        Self::EndIsExplained,
    ];
}

/// One place where an invariant does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// Where, by id, with the figures that disagree.
    pub detail: String,
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Orgs looked at.
    pub orgs: i64,
    /// Renders looked at.
    pub renders: i64,
    /// Entries looked at.
    pub entries: i64,
    /// What does not hold; empty when the books are right.
    pub violations: Vec<Violation>,
}

impl Audit {
    /// True when every invariant holds.
    pub fn ok(&self) -> bool {
        self.violations.is_empty()
    }
}
