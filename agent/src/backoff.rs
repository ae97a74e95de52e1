//! How long to wait before trying again.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};

use crate::link::LinkError;

/// Decorrelated jitter: each wait is drawn between the floor and three times the wait before it, under a
/// ceiling. Many agents that lost one master at one moment spread out instead of returning in step.
/// (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
#[derive(Debug)]
pub(crate) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    last: Duration,
    rng: SmallRng,
}

impl Backoff {
    /// Between half a second and ten seconds: an engine that restarts is back soon, and asking it is cheap.
    pub(crate) fn for_the_engine(rng: SmallRng) -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(10), rng)
    }

    /// Between one second and one minute: what a master that is away, or busy, is asked with.
    pub(crate) fn for_the_master(rng: SmallRng) -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60), rng)
    }

    /// `floor` must not be above `ceiling`; where it is, every wait is `ceiling`.
    pub(crate) fn new(floor: Duration, ceiling: Duration, rng: SmallRng) -> Self {
        Self {
            floor,
            ceiling,
            last: floor,
            rng,
        }
    }

    /// The next wait. Never under the floor, never over the ceiling.
    pub(crate) fn next(&mut self) -> Duration {
        let most = self.last.saturating_mul(3).min(self.ceiling);
        self.last = if most <= self.floor {
            self.floor.min(self.ceiling)
        } else {
            self.rng.random_range(self.floor..=most)
        };
        self.last
    }

    /// It worked: the next wait starts from the floor again.
    pub(crate) fn reset(&mut self) {
        self.last = self.floor;
    }
}

/// How long to leave a master alone, by how it failed us.
#[derive(Debug)]
pub(crate) struct Patience {
    usual: Backoff,
    refused: Backoff,
}

impl Patience {
    pub(crate) fn new() -> Self {
        let (minute, quarter) = (Duration::from_secs(60), Duration::from_secs(900));
        Self {
            usual: Backoff::for_the_master(seeded_by_the_system()),
            refused: Backoff::new(minute, quarter, seeded_by_the_system()),
        }
    }

    /// The pause after an error. A master that does not let this host in is asked rarely.
    pub(crate) fn after(&mut self, error: &LinkError) -> Duration {
        if error.is_refusal() {
            self.refused.next()
        } else {
            self.usual.next()
        }
    }

    /// The pause after an answer that was in order but brought nothing of use.
    pub(crate) fn after_nothing(&mut self) -> Duration {
        self.usual.next()
    }

    pub(crate) fn reset(&mut self) {
        self.usual.reset();
        self.refused.reset();
    }
}

/// A generator for jitter, seeded by the system. Nothing secret comes from it.
pub(crate) fn seeded_by_the_system() -> SmallRng {
    let mut seed = <SmallRng as SeedableRng>::Seed::default();
    rand::fill(&mut seed);
    SmallRng::from_seed(seed)
}

/// Doubles from one second with every try, up to five minutes: how often a decky is repaired that does not
/// stay repaired. The first repair is made at once.
#[must_use]
pub(crate) fn repair_delay(tries: u32) -> Duration {
    const CEILING: Duration = Duration::from_secs(300);
    match tries {
        0 => Duration::ZERO,
        // 2^9 s is over the ceiling already.
        tries => Duration::from_secs(1 << (tries - 1).min(9)).min(CEILING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_stays_between_floor_and_ceiling_and_spreads() {
        for seed in 0..200 {
            let mut backoff = Backoff::for_the_master(SmallRng::seed_from_u64(seed));
            let waits: Vec<_> = (0..50).map(|_| backoff.next()).collect();
            for wait in &waits {
                assert!((1..=60).contains(&wait.as_secs()), "seed {seed}: {wait:?}");
                assert!(*wait <= Duration::from_secs(60), "seed {seed}: {wait:?}");
            }
            let distinct: std::collections::BTreeSet<_> = waits.iter().collect();
            assert!(distinct.len() > 25, "seed {seed}: waits do not spread");
        }
    }

    #[test]
    fn success_brings_the_first_wait_back_under_three_seconds() {
        let mut backoff = Backoff::for_the_master(SmallRng::seed_from_u64(7));
        for _ in 0..30 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(3));
    }

    #[test]
    fn a_first_repair_is_immediate_and_no_repair_waits_longer_than_five_minutes() {
        assert_eq!(repair_delay(0), Duration::ZERO);
        assert_eq!(repair_delay(1), Duration::from_secs(1));
        assert_eq!(repair_delay(2), Duration::from_secs(2));
        for tries in 0..100 {
            assert!(repair_delay(tries) <= repair_delay(tries + 1));
        }
        assert_eq!(repair_delay(u32::MAX), Duration::from_secs(300));
    }
}
