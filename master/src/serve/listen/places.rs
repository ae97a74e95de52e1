//! Who has a place at a listener, and who gives way when there is none left.
//!
//! Guarantees: strangers never take the place of a client that has proven itself; a client that floods takes its own
//! places, not those of other addresses or owners; whoever is let in ends the connection of whoever gives way.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Network;
use super::limits::Limits;

/// SHA-256 of the certificate or token that a client has proven itself with.
pub(super) type Owner = [u8; 32];

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    book: Mutex<Book>,
    gave_way: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    strangers: Quota<Network>,
    proven: Quota<Owner>,
    /// How many of the proven each address has.
    addresses: HashMap<Network, usize>,
}

/// Connections by who has them, each with what ends it. Numbers grow: the lowest is the oldest.
#[derive(Debug)]
struct Quota<K> {
    owners: HashMap<K, BTreeMap<u64, Guest>>,
    len: usize,
}

#[derive(Debug)]
struct Guest {
    network: Network,
    cut: CancellationToken,
}

impl<K> Default for Quota<K> {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            len: 0,
        }
    }
}

impl<K: Hash + Eq + Copy> Quota<K> {
    fn of(&self, owner: &K) -> usize {
        self.owners.get(owner).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, owner: K, number: u64, guest: Guest) {
        self.owners.entry(owner).or_default().insert(number, guest);
        self.len += 1;
    }

    fn remove(&mut self, owner: &K, number: u64) -> Option<Guest> {
        let guests = self.owners.get_mut(owner)?;
        let guest = guests.remove(&number)?;
        if guests.is_empty() {
            self.owners.remove(owner);
        }
        self.len -= 1;
        Some(guest)
    }

    fn oldest_of(&self, owner: &K) -> Option<u64> {
        self.owners.get(owner)?.keys().next().copied()
    }

    /// Whose connections are the most.
    fn largest(&self) -> Option<K> {
        self.owners
            .iter()
            .max_by_key(|(_, guests)| guests.len())
            .map(|(owner, _)| *owner)
    }
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            book: Mutex::default(),
            gave_way: AtomicU64::new(0),
        })
    }

    /// How many strangers had to give way since the beginning.
    pub(super) fn gave_way(&self) -> u64 {
        self.gave_way.load(Ordering::Relaxed)
    }

    /// A stranger's place. There always is one: where all are taken, somebody gives way.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, cut: CancellationToken) -> Place {
        let network = Network::from(address);
        let mut book = self.book();
        let strangers = &mut book.strangers;
        let crowded = if strangers.of(&network) >= self.limits.strangers_of_an_address {
            Some(network)
        } else if strangers.len >= self.limits.strangers {
            strangers.largest()
        } else {
            None
        };
        if let Some(crowded) = crowded
            && give_way(strangers, &crowded).is_some()
        {
            self.gave_way.fetch_add(1, Ordering::Relaxed);
        }
        let number = book.next;
        book.next += 1;
        let guest = Guest {
            network,
            cut: cut.clone(),
        };
        book.strangers.add(network, number, guest);
        drop(book);
        Place {
            places: Arc::clone(self),
            number,
            network,
            cut,
            owner: Mutex::new(None),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics in between.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the owner's oldest connection. It is out of the book at once: its task may still take a moment.
fn give_way<K: Hash + Eq + Copy>(quota: &mut Quota<K>, owner: &K) -> Option<Guest> {
    let oldest = quota.oldest_of(owner)?;
    let guest = quota.remove(owner, oldest)?;
    guest.cut.cancel();
    Some(guest)
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    network: Network,
    cut: CancellationToken,
    /// Who it has proven to be.
    owner: Mutex<Option<Owner>>,
}

impl Place {
    /// Moves it to the places of those who have proven themselves. False when these are taken: the connection has to end.
    pub(super) fn prove(&self, owner: Owner) -> bool {
        let mut proven = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.is_some() {
            return true;
        }
        let limits = &self.places.limits;
        // Here nobody is told from a stranger.
        if limits.proven == 0 {
            return true;
        }
        let mut book = self.places.book();
        // It gave way a moment ago.
        let Some(guest) = book.strangers.remove(&self.network, self.number) else {
            return false;
        };
        if book.proven.of(&owner) >= limits.proven_of_an_owner
            && let Some(gone) = give_way(&mut book.proven, &owner)
        {
            book.leave(gone.network);
        }
        let of_address = book.addresses.get(&self.network).copied().unwrap_or(0);
        if book.proven.len >= limits.proven || of_address >= limits.proven_of_an_address {
            self.cut.cancel();
            return false;
        }
        book.addresses.insert(self.network, of_address + 1);
        book.proven.add(owner, self.number, guest);
        *proven = Some(owner);
        true
    }
}

impl Place {
    /// A part of `whole` that differs from connection to connection, so that those which came together do not end together.
    pub(super) fn share_of(&self, whole: Duration) -> Duration {
        const PARTS: u32 = 64;
        let part = u32::try_from(self.number % u64::from(PARTS)).unwrap_or(0);
        whole / PARTS * part
    }
}

impl Book {
    fn leave(&mut self, network: Network) {
        if let Some(count) = self.addresses.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.addresses.remove(&network);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let owner = *self.owner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut book = self.places.book();
        match owner {
            None => {
                book.strangers.remove(&self.network, self.number);
            }
            Some(owner) => {
                if book.proven.remove(&owner, self.number).is_some() {
                    book.leave(self.network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::listen::limits::AGENTS;

    /// Who spoke on the socket was cut off in the middle of a long answer.
    #[test]
    fn where_nobody_is_told_from_a_stranger_nobody_gives_way_by_proving_himself() {
        let places = Places::new(crate::serve::listen::limits::LOCAL);
        let cut = CancellationToken::new();
        let place = places.enter("127.0.0.1".parse().unwrap(), cut.clone());
        assert!(place.prove([1; 32]));
        assert!(!cut.is_cancelled());
    }

    const SMALL: Limits = Limits {
        proven: 6,
        proven_of_an_address: 4,
        proven_of_an_owner: 2,
        strangers: 4,
        strangers_of_an_address: 3,
        ..AGENTS
    };

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    struct Client {
        place: Option<Place>,
        cut: CancellationToken,
    }

    fn enter(places: &Arc<Places>, address: IpAddr) -> Client {
        let cut = CancellationToken::new();
        let place = Some(places.enter(address, cut.clone()));
        Client { place, cut }
    }

    impl Client {
        fn is_in(&self) -> bool {
            !self.cut.is_cancelled()
        }

        fn prove(&self, owner: u8) -> bool {
            self.place.as_ref().unwrap().prove([owner; 32])
        }
    }

    fn which(clients: &[Client]) -> Vec<bool> {
        clients.iter().map(Client::is_in).collect()
    }

    #[test]
    fn the_oldest_stranger_of_an_address_gives_way_to_its_next() {
        let places = Places::new(SMALL);
        let clients: Vec<_> = (0..5).map(|_| enter(&places, ip(1))).collect();
        assert_eq!(which(&clients), [false, false, true, true, true]);
    }

    #[test]
    fn an_address_that_floods_gives_way_to_others_and_not_they_to_it() {
        let places = Places::new(SMALL);
        let other = enter(&places, ip(2));
        let flood: Vec<_> = (0..100).map(|_| enter(&places, ip(1))).collect();
        assert!(other.is_in());
        assert_eq!(flood.iter().filter(|client| client.is_in()).count(), 3);
        let third = enter(&places, ip(3));
        assert!(other.is_in() && third.is_in());
        assert_eq!(flood.iter().filter(|client| client.is_in()).count(), 2);
    }

    #[test]
    fn strangers_never_take_the_place_of_a_client_that_has_proven_itself() {
        let places = Places::new(SMALL);
        let agent = enter(&places, ip(1));
        assert!(agent.prove(1));
        let flood: Vec<_> = (0..100).map(|at| enter(&places, ip(at))).collect();
        assert!(agent.is_in());
        assert_eq!(flood.iter().filter(|client| client.is_in()).count(), 4);
    }

    #[test]
    fn an_owner_with_too_many_connections_loses_its_oldest_and_never_another_owners() {
        let places = Places::new(SMALL);
        let other = enter(&places, ip(1));
        assert!(other.prove(1));
        let mine: Vec<_> = (0..4)
            .map(|_| {
                let client = enter(&places, ip(1));
                assert!(client.prove(2));
                client
            })
            .collect();
        assert_eq!(which(&mine), [false, false, true, true]);
        assert!(other.is_in());
    }

    #[test]
    fn whoever_finds_no_place_among_the_proven_is_sent_away_and_those_inside_stay() {
        let places = Places::new(SMALL);
        let inside: Vec<_> = (0..4).map(|_| enter(&places, ip(1))).collect();
        assert!(
            inside
                .iter()
                .zip(1..)
                .skip(1)
                .all(|(client, owner)| client.prove(owner))
        );
        assert_eq!(which(&inside), [false, true, true, true]);
        let fourth = enter(&places, ip(1));
        assert!(fourth.prove(9));
        let fifth = enter(&places, ip(1));
        assert!(!fifth.prove(10), "four of one address");
        assert!(!fifth.is_in());
        let others: Vec<_> = (20..23).map(|at| enter(&places, ip(at))).collect();
        let let_in: Vec<_> = others
            .iter()
            .zip(20..)
            .map(|(client, owner)| client.prove(owner))
            .collect();
        assert_eq!(let_in, [true, true, false], "six of all");
        assert!(inside.iter().skip(1).all(Client::is_in));
    }

    #[test]
    fn places_are_free_again_when_connections_have_ended_however_they_did() {
        let places = Places::new(SMALL);
        for round in 0..50_u8 {
            let mut clients: Vec<_> = (0..5).map(|at| enter(&places, ip(at % 2))).collect();
            for client in &clients {
                client.prove(round % 3);
            }
            for client in &mut clients {
                client.place = None;
            }
        }
        let book = places.book();
        assert_eq!((book.strangers.len, book.proven.len), (0, 0));
        assert!(book.strangers.owners.is_empty() && book.proven.owners.is_empty());
        assert!(book.addresses.is_empty());
    }

    #[test]
    fn a_whole_network_of_ipv6_addresses_has_one_quota() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
