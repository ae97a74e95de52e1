//! When a stack may be worked on again. Kept in memory: after a restart everything may be tried at once.

use std::collections::BTreeMap;
use std::time::Duration;

use decnet_wire::ids::StackName;
use tokio::time::Instant;

use crate::backoff::repair_delay;

/// A stack that has been as it should be for this long is over what befell it.
pub(crate) const STEADY: Duration = Duration::from_secs(60);
/// What befalls a stack that was as it should be for this long says nothing about the repairs before: the next
/// one is made at once. A container that lives longer than this and dies costs one repair in as long.
const CALM: Duration = Duration::from_secs(10);
/// Rounds without a failure that may follow each other before a stack is slowed down. One change takes one
/// or two.
const FREE_ROUNDS: u32 = 3;
/// As many rounds of successful steps after which an operation's stack is said not to come to rest.
const RESTLESS: u32 = 10;
/// None stands for what stacks share.
pub(crate) type Part = Option<StackName>;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    parts: BTreeMap<Part, Entry>,
}

#[derive(Debug)]
struct Entry {
    aim: u64,
    failures: u32,
    rounds: u32,
    not_before: Option<Instant>,
    settled_since: Option<Instant>,
    /// What went wrong in the newest round that was for it.
    error: Option<String>,
}

impl Pace {
    /// Keeps what is still there. A part that is aimed at something else starts afresh.
    pub(crate) fn aim_at(&mut self, aims: &BTreeMap<Part, u64>) {
        self.parts
            .retain(|part, entry| aims.get(part) == Some(&entry.aim));
        for (part, aim) in aims {
            self.parts.entry(part.clone()).or_insert(Entry {
                aim: *aim,
                failures: 0,
                rounds: 0,
                not_before: None,
                settled_since: None,
                error: None,
            });
        }
    }

    /// Whether it is this part's turn.
    pub(crate) fn may(&self, part: &Part, now: Instant) -> bool {
        self.parts
            .get(part)
            .and_then(|entry| entry.not_before)
            .is_none_or(|at| at <= now)
    }

    /// Nothing is left to do for it. True when that has been so for [`STEADY`].
    pub(crate) fn settled(&mut self, part: &Part, now: Instant) -> bool {
        let Some(entry) = self.parts.get_mut(part) else {
            return false;
        };
        entry.error = None;
        let since = *entry.settled_since.get_or_insert(now);
        now.duration_since(since) >= STEADY
    }

    /// Something is left to do for it.
    pub(crate) fn unsettled(&mut self, part: &Part, now: Instant) {
        let Some(entry) = self.parts.get_mut(part) else {
            return;
        };
        if entry
            .settled_since
            .take()
            .is_some_and(|since| now.duration_since(since) >= CALM)
        {
            (entry.failures, entry.rounds, entry.not_before) = (0, 0, None);
        }
    }

    /// It did not work; the next try waits longer.
    pub(crate) fn failed(&mut self, part: &Part, now: Instant, error: &str) {
        if let Some(entry) = self.parts.get_mut(part) {
            entry.error = Some(error.to_owned());
            entry.failures = entry.failures.saturating_add(1);
            entry.not_before = Some(now + repair_delay(entry.failures));
        }
    }

    /// Its steps worked. True when that has happened so often that it does not come to rest.
    pub(crate) fn worked(&mut self, part: &Part, now: Instant) -> bool {
        let Some(entry) = self.parts.get_mut(part) else {
            return false;
        };
        entry.error = None;
        entry.rounds = entry.rounds.saturating_add(1);
        if entry.rounds > FREE_ROUNDS {
            entry.not_before = Some(now + repair_delay(entry.rounds - FREE_ROUNDS));
        }
        entry.rounds >= RESTLESS
    }

    /// It is worked on as if for the first time.
    pub(crate) fn forget(&mut self, part: &Part) {
        self.parts.remove(part);
    }

    /// How often it did not work, or did not stay.
    pub(crate) fn tries(&self, part: &Part) -> u32 {
        let entry = self.parts.get(part);
        entry.map_or(0, |entry| {
            entry.failures.max(entry.rounds.saturating_sub(FREE_ROUNDS))
        })
    }

    /// When it has its turn, if that is not now.
    pub(crate) fn turn(&self, part: &Part) -> Option<Instant> {
        self.parts.get(part)?.not_before
    }

    /// What went wrong with it last, as long as it is not over.
    pub(crate) fn error(&self, part: &Part) -> Option<&str> {
        self.parts.get(part)?.error.as_deref()
    }

    /// When the next part has its turn that does not have it now.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        self.parts
            .values()
            .filter_map(|entry| entry.not_before)
            .filter(|at| *at > now)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> (Pace, Part) {
        let part: Part = Some("web".parse().unwrap());
        let mut pace = Pace::default();
        pace.aim_at(&BTreeMap::from([(part.clone(), 1)]));
        (pace, part)
    }

    /// A decky that dies and is brought back, again and again, and lives for `lives`: how long each repair waits.
    fn waits(lives: Duration, deaths: usize) -> Vec<Duration> {
        let (mut pace, part) = pace();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..deaths {
            pace.unsettled(&part, now);
            let wait = pace.next(now).map_or(Duration::ZERO, |at| at.duration_since(now));
            waits.push(wait);
            now += wait;
            assert!(pace.may(&part, now));
            pace.worked(&part, now);
            pace.settled(&part, now);
            now += lives;
        }
        waits
    }

    // Four faults in a minute made the fifth wait for a repair for seconds, the tenth for a minute.
    #[test]
    fn faults_that_have_nothing_to_do_with_each_other_are_each_repaired_at_once() {
        assert_eq!(waits(CALM, 20), [Duration::ZERO; 20]);
    }

    #[test]
    fn what_does_not_stay_up_is_repaired_ever_more_rarely() {
        let waits = waits(CALM - Duration::from_secs(1), 20);
        assert_eq!(waits[..4], [Duration::ZERO; 4]);
        assert!(waits.is_sorted(), "{waits:?}");
        assert!(*waits.last().unwrap() > Duration::from_secs(200), "{waits:?}");
    }
}
