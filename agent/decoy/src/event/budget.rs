//! How much one visitor may make the log grow.
//!
//! Tokens are bytes. A pipelined two-byte command costs a line of 500 bytes, so without a bound a visitor
//! would fill the log, and push out what others did, at hundreds of times their own speed. What does not
//! fit is counted, and the count is logged.
//!
//! Flow: [`Ledger::admits`] before an event is put together, [`Ledger::charge`] with its length after. A
//! purse may so go into debt by one line, which is shorter than any purse is deep.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// One connection: some 500 events at once, then some 8 a second.
const CONNECTION: Rate = Rate::new(256 * 1024, 4 * 1024);

/// One address: what a fast password guesser with 16 connections causes is logged whole.
const SOURCE: Rate = Rate::new(1024 * 1024, 8 * 1024);

/// Everyone together, for datagrams with forged sources.
const SERVICE: Rate = Rate::new(4 * 1024 * 1024, 64 * 1024);

/// Addresses remembered. A new one beyond that shares the purse of all others.
const REMEMBERED: usize = 1024;

/// Addresses named when counts are told; the rest are summed up.
const NAMED: usize = 16;

/// How often counts of what was left out are logged.
pub(crate) const TELL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Bytes.
    burst: u64,
    /// Bytes a second.
    refill: u64,
}

impl Rate {
    const fn new(burst: u64, refill: u64) -> Self {
        Self { burst, refill }
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Purse {
    rate: Rate,
    /// Bytes spent and not refilled yet; above the burst is debt.
    spent: u64,
    since: Instant,
}

impl Purse {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            spent: 0,
            since: now,
        }
    }

    /// The purse of one connection.
    pub(crate) fn of_connection(now: Instant) -> Self {
        Self::new(CONNECTION, now)
    }

    fn has_any(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let gained = u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .saturating_mul(self.rate.refill)
            / 1000;
        // The clock moves only when something was gained, or frequent calls would gain nothing.
        if gained > 0 {
            self.spent = self.spent.saturating_sub(gained);
            self.since = now;
        }
        self.spent < self.rate.burst
    }

    fn spend(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_add(bytes as u64);
    }
}

#[derive(Debug)]
struct Source {
    purse: Purse,
    suppressed: u64,
}

impl Source {
    fn new(now: Instant) -> Self {
        Self {
            purse: Purse::new(SOURCE, now),
            suppressed: 0,
        }
    }
}

/// The purses of all visitors of a service.
#[derive(Debug)]
pub(super) struct Ledger {
    service: Purse,
    sources: HashMap<IpAddr, Source>,
    others: Source,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            service: Purse::new(SERVICE, now),
            sources: HashMap::new(),
            others: Source::new(now),
        }
    }

    /// Whether an event of `from` may be written; if not, it is counted.
    pub(super) fn admits(&mut self, from: IpAddr, connection: &mut Purse, now: Instant) -> bool {
        let service = self.service.has_any(now);
        let source = self.source(from, now);
        let admitted = connection.has_any(now) && source.purse.has_any(now) && service;
        if !admitted {
            source.suppressed += 1;
        }
        admitted
    }

    /// Charges an admitted event's length.
    pub(super) fn charge(&mut self, from: IpAddr, connection: &mut Purse, bytes: usize, now: Instant) {
        connection.spend(bytes);
        self.service.spend(bytes);
        self.source(from, now).purse.spend(bytes);
    }

    /// Takes the counts of events left out since the last time; `None` stands for several addresses.
    pub(super) fn settle(&mut self) -> Vec<(Option<IpAddr>, u64)> {
        let mut counts = Vec::new();
        let mut rest = std::mem::take(&mut self.others.suppressed);
        for (address, source) in &mut self.sources {
            let suppressed = std::mem::take(&mut source.suppressed);
            if suppressed > 0 && counts.len() < NAMED {
                counts.push((Some(*address), suppressed));
            } else {
                rest += suppressed;
            }
        }
        if rest > 0 {
            counts.push((None, rest));
        }
        counts
    }

    fn source(&mut self, from: IpAddr, now: Instant) -> &mut Source {
        if self.sources.len() >= REMEMBERED && !self.sources.contains_key(&from) {
            // Who has a full purse and nothing to tell can be forgotten.
            self.sources.retain(|_, source| {
                source.suppressed > 0 || !source.purse.has_any(now) || source.purse.spent > 0
            });
            if self.sources.len() >= REMEMBERED {
                return &mut self.others;
            }
        }
        self.sources.entry(from).or_insert_with(|| Source::new(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 500;

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0xc000_0200 + n).to_be_bytes())
    }

    /// How many of `events` events at one moment are written.
    fn flood(ledger: &mut Ledger, from: IpAddr, connection: &mut Purse, events: u32, now: Instant) -> u64 {
        let mut written = 0;
        for _ in 0..events {
            if ledger.admits(from, connection, now) {
                ledger.charge(from, connection, LINE, now);
                written += 1;
            }
        }
        written
    }

    #[test]
    fn one_connection_writes_its_burst_and_what_is_left_out_is_counted() {
        let start = Instant::now();
        let (mut ledger, mut connection) = (Ledger::new(start), Purse::of_connection(start));
        let written = flood(&mut ledger, address(1), &mut connection, 100_000, start);
        assert_eq!(written, CONNECTION.burst.div_ceil(LINE as u64));
        assert_eq!(ledger.settle(), [(Some(address(1)), 100_000 - written)]);
        assert_eq!(ledger.settle(), [], "a count is told once");

        let later = start + Duration::from_secs(10);
        let more = flood(&mut ledger, address(1), &mut connection, 100_000, later);
        let gained = 10 * CONNECTION.refill / LINE as u64;
        assert!(more.abs_diff(gained) <= 1, "{more} of {gained}");
    }

    #[test]
    fn many_connections_share_their_addresss_purse_and_others_still_have_theirs() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let written: u64 = (0..64)
            .map(|_| {
                flood(
                    &mut ledger,
                    address(1),
                    &mut Purse::of_connection(start),
                    10_000,
                    start,
                )
            })
            .sum();
        assert_eq!(written, SOURCE.burst.div_ceil(LINE as u64));
        let other = flood(
            &mut ledger,
            address(2),
            &mut Purse::of_connection(start),
            10,
            start,
        );
        assert_eq!(other, 10);
    }

    #[test]
    fn forged_sources_fill_neither_the_log_nor_the_memory() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let written: u64 = (0..100_000)
            .map(|n| {
                flood(
                    &mut ledger,
                    address(n),
                    &mut Purse::of_connection(start),
                    1,
                    start,
                )
            })
            .sum();
        assert!(written * LINE as u64 <= SERVICE.burst + LINE as u64);
        assert!(ledger.sources.len() <= REMEMBERED);
        let told = ledger.settle();
        assert!(told.len() <= NAMED + 1);
        assert_eq!(
            told.iter().map(|(_, count)| count).sum::<u64>(),
            100_000 - written
        );

        let later = start + Duration::from_secs(60 * 60);
        assert_eq!(
            flood(
                &mut ledger,
                address(200_000),
                &mut Purse::of_connection(later),
                1,
                later
            ),
            1
        );
        assert!(
            ledger.sources.len() < REMEMBERED,
            "the quiet ones are not forgotten"
        );
    }

    #[test]
    fn events_a_millisecond_apart_still_refill_a_purse() {
        let start = Instant::now();
        let mut purse = Purse::new(Rate::new(1000, 500), start);
        purse.spend(1000);
        assert!(!purse.has_any(start));
        let refilled = (1..=1000).any(|n| purse.has_any(start + Duration::from_millis(n)));
        assert!(refilled);
    }
}
