//! Whether hosts are heard. Pure: every time is passed in, and is time for which the master listened.
//!
//! Guarantees: the wall clock has no part in it. While the master was stopped, suspended or not there, nobody's silence
//! grew. A host whose heartbeats come within [`SILENCE`] of each other is always heard; one whose heartbeats come late
//! again and again is given twice as long and does not go back and forth.

use std::time::Duration;

use super::ingest::HEARTBEAT_S;

/// So many heartbeats in a row have to be missed.
const MISSED: u32 = 3;
/// Until the third has had time to arrive. It also makes the whole longer than the 102 s after which an agent is heard
/// that lost two reports in a row: an interval, then twice the 30 s that it waits for an answer and the most that it
/// pauses after each (3 s and 9 s).
const GRACE: Duration = Duration::from_secs(15);
/// After so long without a heartbeat a host is unreachable: 105 s.
pub const SILENCE: Duration = Duration::from_secs(HEARTBEAT_S as u64 * MISSED as u64).saturating_add(GRACE);
/// For how long a host is given twice as long, after a heartbeat that came too late.
const WARY: Duration = Duration::from_secs(15 * 60);

/// How often the master notes that it listens.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// Of a longer time between two beats only so much was listened.
const BEAT_MAX: Duration = Duration::from_secs(5);

/// For how long the master has listened. Fed with readings of a clock that never goes back; it may stand still while
/// the machine is suspended, or go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    total: Duration,
    last: Duration,
    beats: bool,
}

impl Listening {
    pub(super) const fn begin(reading: Duration) -> Self {
        Self {
            total: Duration::ZERO,
            last: reading,
            beats: false,
        }
    }

    /// How long the master has listened by this reading. Before the first beat all of the time counts.
    pub(super) fn at(&self, reading: Duration) -> Duration {
        let passed = reading.saturating_sub(self.last);
        self.total + if self.beats { passed.min(BEAT_MAX) } else { passed }
    }

    /// Notes that the master listens now.
    pub(super) fn beat(&mut self, reading: Duration) {
        self.total = self.at(reading);
        self.last = self.last.max(reading);
        self.beats = true;
    }
}

/// When a host was heard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Liveness {
    /// Its newest heartbeat. None: not since the master began to listen.
    heard: Option<Duration>,
    /// Its newest heartbeat that came too late.
    late: Option<Duration>,
}

impl Liveness {
    /// Takes a heartbeat.
    pub(super) fn hear(&mut self, now: Duration) {
        if self
            .heard
            .is_some_and(|heard| now.saturating_sub(heard) > SILENCE)
        {
            self.late = Some(now);
        }
        self.heard = Some(now);
    }

    /// Whether the host counts as heard. Without a heartbeat it never becomes true again.
    pub(super) fn is_heard(&self, now: Duration) -> bool {
        self.silent_for(now) <= self.patience(now)
    }

    /// Whether it was heard at all since the master began to listen.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.is_some()
    }

    /// For how long nothing came: since its newest heartbeat, or since the master began to listen.
    pub(super) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard.unwrap_or_default())
    }

    fn patience(&self, now: Duration) -> Duration {
        if self.late.is_some_and(|late| now.saturating_sub(late) <= WARY) {
            SILENCE * 2
        } else {
            SILENCE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks every second. Gives out at which seconds it changed.
    fn changes(heartbeats: &[u64], until: u64) -> Vec<(u64, bool)> {
        let mut liveness = Liveness::default();
        let mut seen = true;
        let mut changes = Vec::new();
        for second in 0..=until {
            if heartbeats.contains(&second) {
                liveness.hear(s(second));
            }
            let heard = liveness.is_heard(s(second));
            if heard != seen {
                changes.push((second, heard));
                seen = heard;
            }
        }
        changes
    }

    #[test]
    fn a_host_is_lost_after_three_heartbeats_and_a_grace() {
        assert_eq!(SILENCE, s(105));
        for (heartbeats, expected) in [
            // Never heard by this master: the silence counts from when it began to listen.
            (vec![], vec![(106, false)]),
            (vec![0, 30], vec![(136, false)]),
            (vec![0, 30, 135], vec![(241, false)]),
            // Lost for long, and there again at its first word.
            (vec![0, 1000], vec![(106, false), (1000, true)]),
        ] {
            let until = heartbeats.last().map_or(110, |last| last + 110);
            assert_eq!(changes(&heartbeats, until), expected, "{heartbeats:?}");
        }
    }

    #[test]
    fn a_host_that_is_late_every_time_goes_away_once() {
        let heartbeats: Vec<u64> = (0..100).map(|n| n * 110).collect();
        let until = *heartbeats.last().unwrap();
        assert_eq!(changes(&heartbeats, until), [(106, false), (110, true)]);
    }

    #[test]
    fn wariness_ends_and_only_shortens_patience() {
        let mut liveness = Liveness::default();
        liveness.hear(s(0));
        liveness.hear(s(110));
        assert!(liveness.is_heard(s(110 + 210)));
        assert!(!liveness.is_heard(s(110 + 211)));
        for n in 0..40 {
            liveness.hear(s(140 + n * 30));
        }
        assert!(!liveness.is_heard(s(140 + 39 * 30 + 106)));
    }

    #[test]
    fn the_time_that_the_master_was_stopped_does_not_count() {
        let mut listening = Listening::begin(s(500));
        for second in 500..=520 {
            listening.beat(s(second));
        }
        let mut host = Liveness::default();
        host.hear(listening.at(s(520)));
        // Stopped for an hour: a reader who is faster than the next beat sees no silence either.
        assert!(host.is_heard(listening.at(s(520 + 3600))));
        listening.beat(s(520 + 3600));
        assert_eq!(host.silent_for(listening.at(s(520 + 3600))), BEAT_MAX);
        for second in 1..=100 {
            listening.beat(s(520 + 3600 + second));
            assert!(host.is_heard(listening.at(s(520 + 3600 + second))), "{second}");
        }
        listening.beat(s(520 + 3600 + 101));
        assert!(!host.is_heard(listening.at(s(520 + 3600 + 101))));
    }

    proptest! {
        #[test]
        fn heartbeats_within_the_bound_never_lose_a_host(
            gaps in prop::collection::vec(0..=105_000_u64, 1..200),
            looks in prop::collection::vec(0.0..=1.0_f64, 200),
        ) {
            let mut liveness = Liveness::default();
            let mut now = Duration::ZERO;
            for (gap, look) in gaps.iter().zip(&looks) {
                let gap = Duration::from_millis(*gap);
                prop_assert!(liveness.is_heard(now + gap.mul_f64(*look)));
                now += gap;
                prop_assert!(liveness.is_heard(now));
                liveness.hear(now);
            }
        }

        /// Starts, stops and suspensions at any moments: a host is lost only after a whole period of listening.
        #[test]
        fn nobody_is_lost_before_a_whole_period_of_listening(
            stretches in prop::collection::vec((0..100_u64, 0..100_000_u64), 1..50),
        ) {
            let mut reading = Duration::from_secs(1_000_000);
            let mut listening = Listening::begin(reading);
            let liveness = Liveness::default();
            let mut listened = Duration::ZERO;
            listening.beat(reading);
            for (beats, away) in stretches {
                for _ in 0..beats {
                    reading += BEAT;
                    listened += BEAT;
                    listening.beat(reading);
                }
                // What is at most counted of a time away is no longer than a beat may take.
                reading += s(away);
                listened += s(away).min(BEAT_MAX);
                prop_assert!(listening.at(reading) <= listened);
                prop_assert_eq!(liveness.is_heard(listening.at(reading)), listened <= SILENCE);
                listening.beat(reading);
            }
        }

        #[test]
        fn without_a_heartbeat_nobody_comes_back(
            heartbeats in prop::collection::vec(0..400_u64, 0..20),
            looks in prop::collection::vec(0..60_u64, 1..60),
        ) {
            let mut liveness = Liveness::default();
            let mut now = Duration::ZERO;
            for gap in heartbeats {
                now += s(gap);
                liveness.hear(now);
            }
            let mut lost = false;
            for gap in looks {
                now += s(gap);
                let heard = liveness.is_heard(now);
                prop_assert!(!(lost && heard));
                lost |= !heard;
            }
        }
    }
}
