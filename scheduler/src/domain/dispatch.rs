//! How many renders may be in flight in a lane: the broker never holds the backlog.

use kraftr_protocol::limits;

/// Renders that may be dispatched now into a lane whose present workers have `slots` slots together
/// and which has `in_flight` renders on their way or running.
///
/// The window is `slots * (1 + lookahead)`: enough that a worker finds its next job waiting, so little
/// that order and cancellation stay in the database.
pub fn free_places(slots: u32, in_flight: u32) -> u32 {
    slots.saturating_mul(1 + limits::LOOKAHEAD).saturating_sub(in_flight)
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
