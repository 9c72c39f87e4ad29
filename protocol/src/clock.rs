//! Time, identity and randomness as values that are handed in.

use uuid::Uuid;

use crate::units::Timestamp;

/// Where a component reads the time; the simulation owns one that only it moves.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Where new identifiers and secrets come from.
pub trait Ids: Send + Sync + 'static {
    /// `len` bytes, unpredictable in production and repeatable in a simulation.
    fn fill(&self, bytes: &mut [u8]);

    /// A `UUIDv7` (RFC 9562) for the moment `now`.
    fn uuid(&self, now: Timestamp) -> Uuid {
        let mut random = [0; 10];
        self.fill(&mut random);
        let millis = u64::try_from(now.0.max(0)).unwrap_or(0) / 1_000;
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}
