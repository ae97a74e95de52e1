//! Alarms: what somebody tried who must not, in the audit log.
//!
//! Guarantees: whoever raises alarms without end fills neither the disk nor the memory. One source is told of at most
//! once in [`QUIET`], and after every time only after twice as long, up to [`QUIET_MAX`]; all sources together
//! [`HOURLY`] times an hour. What is not told of is counted, and the count stands in the next entry. At most
//! [`SOURCES`] sources are told apart; who comes after them counts as one. An entry is at most about 4 KiB: that makes
//! 6 MiB a day at the very worst, and some kilobytes from one host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use decnet_wire::ids::Timestamp;
use serde_json::json;

use super::{Control, ControlError};
use crate::audit::{Action, Actor, Change, Who};
use crate::text::chain;

/// How long an alarm of one source keeps those after it back, at first.
const QUIET: time::Duration = time::Duration::minutes(10);
/// How long at the most. A source that was silent for as long is forgotten.
const QUIET_MAX: time::Duration = time::Duration::hours(24);
/// Entries of alarms in one hour.
const HOURLY: u32 = 60;
/// Sources that are told apart.
const SOURCES: usize = 1024;
/// The longest text of an alarm, in characters.
const TEXT: usize = 500;

/// What somebody tried.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    action: Action,
    by: Actor,
    subject: String,
    text: String,
}

impl Alarm {
    /// `text` tells what was tried, in one line.
    pub(crate) fn new(action: Action, by: &Actor, subject: impl Into<String>, text: &str) -> Self {
        Self {
            action,
            by: by.clone(),
            subject: subject.into(),
            text: text.chars().take(TEXT).collect(),
        }
    }

    fn source(&self) -> String {
        match (self.by.who(), self.by.from()) {
            (Who::Host { id, .. }, _) => id.to_string(),
            (_, Some(IpAddr::V4(address))) => address.to_string(),
            // One line has a whole /64.
            (_, Some(IpAddr::V6(address))) => format!("{:?}", &address.segments()[..4]),
            (_, None) => String::new(),
        }
    }
}

/// What was told, and what was kept back.
#[derive(Debug, Default)]
pub(super) struct Alarms(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sources: HashMap<(Action, String), Source>,
    /// When the present hour began, and how often alarms were told of in it.
    hour: Option<(Timestamp, u32)>,
}

#[derive(Debug)]
struct Source {
    told_at: Option<Timestamp>,
    seen_at: Timestamp,
    quiet: time::Duration,
    /// How many were not told of, and the newest of them.
    kept_back: u64,
    newest: Alarm,
}

impl Alarms {
    /// Counts an alarm. With how many before it, when it is to be told of now.
    fn raise(&self, alarm: &Alarm, now: Timestamp) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (alarm.action, alarm.source());
        if state.sources.len() >= SOURCES && !state.sources.contains_key(&key) {
            key.1 = "others".to_owned();
        }
        let source = state.sources.entry(key.clone()).or_insert_with(|| Source {
            told_at: None,
            seen_at: now,
            quiet: QUIET,
            kept_back: 0,
            newest: alarm.clone(),
        });
        source.seen_at = now;
        source.newest = alarm.clone();
        source.kept_back += 1;
        state.tell(&key, now).map(|(_, count)| count - 1)
    }

    /// What was kept back and may be told of now. Forgets who has been silent for long.
    fn overdue(&self, now: Timestamp) -> Vec<(Alarm, u64)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .sources
            .retain(|_, source| source.kept_back > 0 || passed(source.seen_at, now) < QUIET_MAX);
        let waiting: Vec<_> = state
            .sources
            .iter()
            .filter(|(_, source)| source.kept_back > 0)
            .map(|(key, _)| key.clone())
            .collect();
        waiting
            .iter()
            .filter_map(|key| state.tell(key, now))
            .map(|(alarm, count)| (alarm, count - 1))
            .collect()
    }
}

impl State {
    fn tell(&mut self, key: &(Action, String), now: Timestamp) -> Option<(Alarm, u64)> {
        let source = self.sources.get_mut(key)?;
        if source.told_at.is_some_and(|at| passed(at, now) < source.quiet) {
            return None;
        }
        let (began, told) = self.hour.get_or_insert((now, 0));
        if passed(*began, now) >= time::Duration::HOUR {
            (*began, *told) = (now, 0);
        }
        if *told >= HOURLY {
            return None;
        }
        *told += 1;
        if source.told_at.is_some() {
            source.quiet = QUIET_MAX.min(source.quiet * 2);
        }
        source.told_at = Some(now);
        Some((source.newest.clone(), std::mem::take(&mut source.kept_back)))
    }
}

/// Also when the clock was set back.
fn passed(since: Timestamp, now: Timestamp) -> time::Duration {
    (now.get() - since.get()).abs()
}

impl Control {
    /// Raises an alarm. It stands in the audit log, unless its source is told of already; nothing waits for that.
    ///
    /// Not to be called within a transaction.
    pub(crate) fn alarm(&self, alarm: &Alarm) {
        let now = self.now();
        self.metrics.alarm(alarm.action);
        tracing::warn!(
            action = alarm.action.as_str(),
            by = %alarm.by.who(),
            from = ?alarm.by.from(),
            subject = alarm.subject,
            text = alarm.text,
            "alarm"
        );
        if let Some(before) = self.alarms.raise(alarm, now) {
            self.write_alarm(alarm, before, now);
        }
    }

    /// Tells of the alarms that were kept back, when their time has come.
    ///
    /// # Errors
    /// Never: what cannot be written is in the log.
    pub fn tell_alarms(&self) -> Result<(), ControlError> {
        let now = self.now();
        for (alarm, before) in self.alarms.overdue(now) {
            self.write_alarm(&alarm, before, now);
        }
        Ok(())
    }

    fn write_alarm(&self, alarm: &Alarm, before: u64, now: Timestamp) {
        let told = self.db.change(&alarm.by, now, |_| {
            let what = json!({ "text": alarm.text, "not_told_before": before });
            let change = Change::new(alarm.action, alarm.subject.as_str()).after(what);
            Ok::<_, ControlError>(change.done(()))
        });
        // Whoever is refused is refused all the same.
        if let Err(error) = told {
            tracing::error!(error = %chain(&error), "an alarm is not in the audit log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::new(datetime!(2026-01-01 00:00 UTC) + time::Duration::minutes(minutes))
    }

    fn alarm(from: u32) -> Alarm {
        let by = Actor::stranger(Some(std::net::Ipv4Addr::from(from).into()));
        Alarm::new(Action::AlarmTokenReuse, &by, "host/edge", "tried")
    }

    #[test]
    fn one_source_is_told_of_at_once_and_then_ever_more_rarely_and_nothing_is_lost() {
        let alarms = Alarms::default();
        let mut told = Vec::new();
        let mut count = 0;
        for minute in 0..(7 * 24 * 60) {
            count += 1;
            if let Some(before) = alarms.raise(&alarm(1), at(minute)) {
                told.push(before + 1);
            }
        }
        assert!((8..=16).contains(&told.len()), "{told:?}");
        assert_eq!(told[..3], [1, 10, 20]);
        // The rest is told of when its time has come, also when nobody raises another one.
        let rest = alarms.overdue(at(9 * 24 * 60));
        assert_eq!(told.iter().sum::<u64>() + rest[0].1 + 1, count);
        assert!(alarms.overdue(at(9 * 24 * 60)).is_empty());
        assert!(alarms.overdue(at(12 * 24 * 60)).is_empty());
        assert!(alarms.0.lock().unwrap().sources.is_empty(), "it is forgotten");
    }

    #[test]
    fn any_number_of_sources_write_a_bounded_number_of_entries_and_take_bounded_memory() {
        let alarms = Alarms::default();
        let mut told = 0;
        for from in 0..100_000 {
            told += u32::from(alarms.raise(&alarm(from), at(i64::from(from / 1000))).is_some());
        }
        // 100 minutes: two hours have begun.
        assert!((HOURLY..=2 * HOURLY).contains(&told), "{told}");
        assert!(alarms.0.lock().unwrap().sources.len() <= SOURCES + 1);
    }

    #[test]
    fn a_source_does_not_silence_another_one() {
        let alarms = Alarms::default();
        for _ in 0..1000 {
            alarms.raise(&alarm(1), at(0));
        }
        assert_eq!(alarms.raise(&alarm(2), at(1)), Some(0));
    }
}
