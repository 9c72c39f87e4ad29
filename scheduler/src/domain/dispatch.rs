//! How many renders may be in flight in a lane: the broker never holds the backlog.

use std::collections::BTreeMap;

use kraftr_protocol::{Lane, limits};

/// Renders that may be dispatched now into a lane whose present workers have `slots` slots together
/// and which has `in_flight` renders on their way or running.
///
/// The window is `slots * (1 + lookahead)`: enough that a worker finds its next job waiting, so little
/// that order and cancellation stay in the database.
pub fn free_places(slots: u32, in_flight: u32) -> u32 {
    slots.saturating_mul(1 + limits::LOOKAHEAD).saturating_sub(in_flight)
}

/// Free places in lanes where nobody waits: whoever comes now need not wait either, and overtakes nobody.
#[derive(Debug, Default)]
pub struct OpenPlaces(BTreeMap<Lane, u32>);

impl OpenPlaces {
    /// So many places in each lane.
    pub fn new(places: impl IntoIterator<Item = (Lane, u32)>) -> Self {
        Self(places.into_iter().collect())
    }

    /// Takes a place in that lane, if there is one.
    pub fn take(&mut self, lane: &Lane) -> bool {
        match self.0.get_mut(lane) {
            Some(places) if *places > 0 => {
                *places -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_bounded_by_slots() {
        assert_eq!(free_places(0, 0), 0);
        assert_eq!(free_places(2, 0), 4);
        assert_eq!(free_places(2, 3), 1);
        assert_eq!(free_places(1, 9), 0);
    }
}
