//! Of what one host does too often at once, the latest counts.
//!
//! A connection that broke unnoticed keeps its request waiting here; the host, which is back by another one, must not be
//! kept out by it. So the oldest gives way, not the newest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use decnet_wire::ids::HostId;
use tokio_util::sync::CancellationToken;

/// The requests of one kind that are under way, by host.
#[derive(Debug)]
pub(super) struct Latest {
    most: usize,
    hosts: Mutex<HashMap<HostId, VecDeque<(u64, CancellationToken)>>>,
}

/// One request; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    latest: &'a Latest,
    host: HostId,
    number: u64,
    given_up: CancellationToken,
}

impl Latest {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            hosts: Mutex::default(),
        }
    }

    /// Begins one more of this host; what is too many is given up.
    pub(super) fn enter(&self, host: HostId) -> Entry<'_> {
        let given_up = CancellationToken::new();
        let mut hosts = self.hosts();
        let requests = hosts.entry(host).or_default();
        let number = requests.back().map_or(0, |(last, _)| last + 1);
        requests.push_back((number, given_up.clone()));
        while requests.len() > self.most
            && let Some((_, oldest)) = requests.pop_front()
        {
            oldest.cancel();
        }
        Entry {
            latest: self,
            host,
            number,
            given_up,
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, VecDeque<(u64, CancellationToken)>>> {
        // Nothing panics in between.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    /// Ends when a later request has taken this one's place.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // Its number may be a later one's by now, once all were gone: then this one was given up.
        if self.given_up.is_cancelled() {
            return;
        }
        let mut hosts = self.latest.hosts();
        if let Some(requests) = hosts.get_mut(&self.host) {
            requests.retain(|(number, _)| *number != self.number);
            if requests.is_empty() {
                hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn host(number: u128) -> HostId {
        HostId::new(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn the_oldest_of_a_host_is_given_up_and_no_other_hosts() {
        let latest = Latest::new(2);
        let other = latest.enter(host(2));
        let mut mine: VecDeque<_> = (0..4).map(|_| latest.enter(host(1))).collect();
        for given_up in [true, true, false, false] {
            let entry = mine.pop_front().unwrap();
            assert_eq!(entry.given_up.is_cancelled(), given_up);
            mine.push_back(entry);
        }
        mine[0].given_up().await;
        assert!(!other.given_up.is_cancelled());
        drop((mine, other));
        assert!(latest.hosts().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn one_that_was_given_up_takes_nothing_with_it_when_it_ends() {
        let latest = Latest::new(1);
        let first = latest.enter(host(1));
        let second = latest.enter(host(1));
        drop(first);
        let third = latest.enter(host(1));
        assert!(second.given_up.is_cancelled());
        assert!(!third.given_up.is_cancelled());
    }
}
