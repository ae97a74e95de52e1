//! How long something has lasted, whatever becomes of the clock.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use decnet_wire::ids::{OperationId, Timestamp};

/// Since when rows are open, by a clock that only grows.
///
/// Guarantees: nothing lasts longer than this master runs, so that the time in which nobody could report counts
/// against nobody; a step of the wall clock makes nothing older or younger by more than the time between two looks.
#[derive(Debug)]
pub(in crate::control) struct Watch {
    began: Duration,
    /// When open rows were looked at last.
    looked: Duration,
    open: HashMap<OperationId, Duration>,
}

impl Watch {
    pub(in crate::control) fn begin(now: Duration) -> Self {
        Self {
            began: now,
            looked: now,
            open: HashMap::new(),
        }
    }

    /// How long this master has run.
    pub(in crate::control) fn up_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    /// How long each of these rows has been open; all others are forgotten. `wall` is the time by the clock that says
    /// when they were started.
    pub(super) fn look(
        &mut self,
        rows: impl IntoIterator<Item = (OperationId, Timestamp)>,
        wall: Timestamp,
        now: Duration,
    ) -> HashMap<OperationId, Duration> {
        // What was not open at the last look was started after it.
        let most = now.saturating_sub(self.looked);
        let mut ages = HashMap::new();
        let mut open = HashSet::new();
        for (id, started_at) in rows {
            let since = *self.open.entry(id).or_insert_with(|| {
                let by_the_clock = Duration::try_from(wall.get() - started_at.get()).unwrap_or_default();
                now.saturating_sub(by_the_clock.min(most))
            });
            open.insert(id);
            ages.insert(id, now.saturating_sub(since));
        }
        self.open.retain(|id, _| open.contains(id));
        self.looked = now;
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;
    use uuid::Uuid;

    const YEAR: time::Duration = time::Duration::days(365);

    fn id(n: u128) -> OperationId {
        OperationId::new(Uuid::from_u128(n))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Rows failed at once when the clock was set forward, and were open for a year when it was set back.
    #[test]
    fn a_clock_that_is_set_by_a_year_makes_nothing_older_or_younger() {
        let start = Timestamp::new(datetime!(2026-01-01 00:00 UTC));
        for step in [YEAR, -YEAR, time::Duration::ZERO] {
            let mut watch = Watch::begin(seconds(100));
            watch.look([], start, seconds(100));
            let mut last = Duration::ZERO;
            for beat in 1..=100_u32 {
                let now = seconds(100 + u64::from(beat) * 10);
                // The step comes in the middle, and a row comes with every look.
                let stepped = if beat > 50 { step } else { time::Duration::ZERO };
                let wall = Timestamp::new(start.get() + time::Duration::seconds(10) * beat + stepped);
                let ages = watch.look([(id(1), start), (id(u128::from(beat) + 1), wall)], wall, now);
                assert_eq!(ages.len(), 2);
                last = ages[&id(1)];
                let expected = seconds(u64::from(beat) * 10);
                assert!(
                    last <= expected && last + seconds(10) >= expected,
                    "{step} {beat} {last:?}"
                );
            }
            assert!(last >= seconds(990), "{last:?}");
            assert_eq!(watch.open.len(), 2, "what is open no more is forgotten");
        }
    }

    #[test]
    fn what_was_open_before_the_master_began_is_as_old_as_the_master() {
        let start = Timestamp::new(datetime!(2026-01-01 00:00 UTC));
        let mut watch = Watch::begin(seconds(5));
        let wall = Timestamp::new(start.get() + time::Duration::days(3));
        let ages = watch.look([(id(1), start)], wall, seconds(6));
        assert_eq!(ages[&id(1)], seconds(1));
        let ages = watch.look([(id(1), start)], wall, seconds(66));
        assert_eq!(ages[&id(1)], seconds(61));
    }
}
