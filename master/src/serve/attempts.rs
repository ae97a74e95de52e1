//! How often somebody may be refused: who guesses, or is broken, is put off before anything is looked at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::listen::Network;

/// Refusals in a row that one address is allowed: a class of hosts behind one address, with a wrong token each.
const BURST: u32 = 30;
/// How long until one more is allowed.
const REFILL: Duration = Duration::from_secs(2);
/// Most addresses that are told apart. All further ones count as one.
const ADDRESSES: usize = 4096;

/// Refusals by who was refused; those under no name are of all for whom there was no room.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<Option<Network>, Refused>>);

/// What an address has on its account, as of a moment.
#[derive(Debug, Clone, Copy)]
struct Refused {
    count: u32,
    since: Instant,
}

impl Refused {
    /// What is left of it at a later moment.
    fn at(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.since);
        let forgiven = u32::try_from(passed.as_millis() / REFILL.as_millis()).unwrap_or(u32::MAX);
        Self {
            count: self.count.saturating_sub(forgiven),
            since: self.since + REFILL * forgiven.min(self.count),
        }
    }
}

impl Attempts {
    /// How long an address has to wait until it may ask; none when it may.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.get(&Some(address.into())).or_else(|| {
            // Nobody is told apart any more whom there was no room for.
            (accounts.len() >= ADDRESSES)
                .then(|| accounts.get(&None))
                .flatten()
        })?;
        let refused = known.at(now);
        (refused.count >= BURST).then(|| (refused.since + REFILL).saturating_duration_since(now))
    }

    /// Notes a refusal.
    pub(super) fn refused(&self, address: IpAddr, now: Instant) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whose = Some(Network::from(address));
        if !accounts.contains_key(&whose) && accounts.len() >= ADDRESSES {
            accounts.retain(|_, refused| refused.at(now).count > 0);
            if accounts.len() >= ADDRESSES {
                whose = None;
            }
        }
        let account = accounts.entry(whose).or_insert(Refused { count: 0, since: now });
        let before = account.at(now);
        *account = Refused {
            count: (before.count + 1).min(BURST),
            since: if before.count == 0 { now } else { before.since },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn who_is_refused_again_and_again_waits_and_nobody_else_does() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(attempts.wait(v4(1), now), None);
            attempts.refused(v4(1), now);
        }
        assert_eq!(attempts.wait(v4(1), now), Some(REFILL));
        assert_eq!(attempts.wait(v4(2), now), None);
        // One more after a while, and all of it after a long one.
        assert_eq!(attempts.wait(v4(1), now + REFILL), None);
        attempts.refused(v4(1), now + REFILL);
        assert_eq!(attempts.wait(v4(1), now + REFILL), Some(REFILL));
        let later = now + REFILL * (BURST + 1);
        assert_eq!(attempts.wait(v4(1), later), None);
        for _ in 0..BURST {
            assert_eq!(attempts.wait(v4(1), later), None);
            attempts.refused(v4(1), later);
        }
        assert!(attempts.wait(v4(1), later).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_and_a_mapped_address_is_the_ipv4_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for n in 0..BURST {
            attempts.refused(address(&format!("2001:db8::{:x}", n + 1)), now);
            attempts.refused(address("192.0.2.1"), now);
        }
        assert!(attempts.wait(address("2001:db8::ffff"), now).is_some());
        assert!(attempts.wait(address("2001:db8:0:1::1"), now).is_none());
        assert!(attempts.wait(address("::ffff:192.0.2.1"), now).is_some());
    }

    #[test]
    fn many_addresses_take_no_more_room_and_are_put_off_together() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..10_000 {
            attempts.refused(v4(n), now);
        }
        assert!(attempts.0.lock().unwrap().len() <= ADDRESSES + 1);
        assert!(attempts.wait(v4(20_000), now).is_some(), "one of the others");
        assert!(
            attempts.wait(v4(1), now).is_none(),
            "known by itself, and refused once"
        );
        let later = now + REFILL * (BURST + 1);
        attempts.refused(v4(20_000), later);
        assert!(attempts.wait(v4(20_000), later).is_none());
    }
}
