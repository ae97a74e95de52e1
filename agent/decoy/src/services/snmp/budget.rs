//! Bounds what one address is sent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Bytes sent to one address within a window. Walking everything takes about 20 KiB.
const BYTES: usize = 128 * 1024;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; the memory starts afresh beyond that.
const REMEMBERED: usize = 4096;

/// Answers sent lately, by address. A forged source can make the agent send its victim no more than this.
#[derive(Debug, Default)]
pub(super) struct Budget {
    sent: HashMap<IpAddr, (Instant, usize)>,
}

impl Budget {
    /// Whether `bytes` more may be sent to `to`; if so they count as sent.
    pub(super) fn allows(&mut self, to: IpAddr, bytes: usize) -> bool {
        if self.sent.len() >= REMEMBERED && !self.sent.contains_key(&to) {
            self.sent.clear();
        }
        let now = Instant::now();
        let (since, sent) = self.sent.entry(to).or_insert((now, 0));
        if now.duration_since(*since) > WINDOW {
            (*since, *sent) = (now, 0);
        }
        if *sent + bytes > BYTES {
            return false;
        }
        *sent += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_be_flooded_and_others_are_still_answered() {
        let mut budget = Budget::default();
        let (victim, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let sent = (0..100_000).filter(|_| budget.allows(victim, 484)).count();
        assert_eq!(sent, BYTES / 484);
        assert!(budget.allows(other, 484));
    }
}
