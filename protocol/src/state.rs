//! The states of a render and the transitions between them.
//!
//! A state changes only by a [`Transition`], and a transition names where it may start and where it
//! ends: an illegal one cannot be written down. Stores turn `from` and `to` into guarded updates.

use serde::{Deserialize, Serialize};

/// Where a render stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits in the database.
    Queued,
    /// A job message is on its way to a lane.
    Dispatched,
    /// A worker holds a claim.
    Running,
    /// Delivered and charged.
    Succeeded,
    /// Not delivered, not charged.
    Failed,
    /// Stopped by its owner, not charged.
    Cancelled,
    /// Waited too long, not charged.
    Expired,
}

impl Status {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// True for a state that never changes again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The word used in JSON and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The state of that name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// The only ways in which a render changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// The dispatcher picked it.
    Dispatch,
    /// A worker was granted a claim; a later claim of the same attempt takes over from an earlier one.
    Claim,
    /// Back to the queue: retry, hand-back, lost lease or lost message.
    Requeue,
    /// The worker delivered.
    Succeed,
    /// It failed for good.
    Fail,
    /// Its owner stopped it.
    Cancel,
    /// It waited too long.
    Expire,
}

impl Transition {
    /// Every transition.
    pub const ALL: [Self; 7] =
        [Self::Dispatch, Self::Claim, Self::Requeue, Self::Succeed, Self::Fail, Self::Cancel, Self::Expire];

    /// The states it may start from.
    pub const fn from(self) -> &'static [Status] {
        match self {
            Self::Dispatch | Self::Expire => &[Status::Queued],
            Self::Claim | Self::Requeue => &[Status::Dispatched, Status::Running],
            Self::Succeed | Self::Fail => &[Status::Running],
            Self::Cancel => &[Status::Queued, Status::Dispatched, Status::Running],
        }
    }

    /// The state it ends in.
    pub const fn to(self) -> Status {
        match self {
            Self::Dispatch => Status::Dispatched,
            Self::Claim => Status::Running,
            Self::Requeue => Status::Queued,
            Self::Succeed => Status::Succeeded,
            Self::Fail => Status::Failed,
            Self::Cancel => Status::Cancelled,
            Self::Expire => Status::Expired,
        }
    }

    /// The state that follows `status`, or `None` when the transition may not start there.
    pub fn apply(self, status: Status) -> Option<Status> {
        self.from().contains(&status).then(|| self.to())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_never_change() {
        for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
            for transition in Transition::ALL {
                assert_eq!(transition.apply(status), None, "{transition:?} from {status:?}");
            }
        }
    }

    #[test]
    fn every_pair_of_states_that_may_follow_each_other() {
        use Status::{Cancelled, Dispatched, Expired, Failed, Queued, Running, Succeeded};
        let mut pairs: Vec<(Status, Status)> = Vec::new();
        for from in Status::ALL {
            for transition in Transition::ALL {
                pairs.extend(transition.apply(from).map(|to| (from, to)));
            }
        }
        pairs.sort();
        assert_eq!(
            pairs,
            [
                (Queued, Dispatched),
                (Queued, Cancelled),
                (Queued, Expired),
                (Dispatched, Queued),
                (Dispatched, Running),
                (Dispatched, Cancelled),
                (Running, Queued),
                (Running, Running),
                (Running, Succeeded),
                (Running, Failed),
                (Running, Cancelled),
            ]
        );
    }
}
