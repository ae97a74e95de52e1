//! The clock, passed in wherever a decision or a record needs the time.

use std::fmt::Debug;
use std::sync::Arc;

use decnet_wire::ids::Timestamp;
use time::OffsetDateTime;

/// Tells the time of day. Durations are measured with tokio's clock, which tests can pause.
pub trait Clock: Debug + Send + Sync {
    /// The moment, in UTC.
    fn now(&self) -> Timestamp;
}

/// A clock that tasks share.
pub type SharedClock = Arc<dyn Clock>;

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::new(OffsetDateTime::now_utc())
    }
}

/// The later of two moments.
#[must_use]
pub(crate) fn later(a: Timestamp, b: Option<Timestamp>) -> Timestamp {
    b.map_or(a, |b| a.max(b))
}
