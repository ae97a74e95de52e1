//! What was last announced of hosts and deckies, so that a change is announced once.
//!
//! Guarantees: the changes of one host, and those of one decky, are announced in the order in which they happened. What
//! the store holds when the master starts is where changes are counted from.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use decnet_wire::ids::{DeckyName, HostId, Timestamp};
use decnet_wire::observed::Observed;

use super::events::{DeckyStateEvent, Event, HostStateEvent};
use super::hosts::{HostState, ObservedState};
use super::{Control, ControlError};
use crate::records::{DeckyRecord, Host, ObservedRecord};
use crate::store::{Reader, StoreError};
use crate::text::chain;

/// What was last announced.
#[derive(Debug, Default)]
pub(super) struct LastSaid {
    hosts: Mutex<HashMap<HostId, HostState>>,
    deckies: Mutex<Deckies>,
    /// How many reports were looked at.
    looks: AtomicU64,
}

#[derive(Debug, Default)]
struct Deckies {
    /// Where a decky is seen, and how. One that is not here is torn down.
    seen: HashMap<DeckyName, (HostId, ObservedState)>,
    /// The newest look at each host that was announced.
    newest: HashMap<HostId, u64>,
}

/// What a report says of its host's deckies.
#[derive(Debug)]
pub(super) struct Look {
    number: u64,
    states: BTreeMap<DeckyName, ObservedState>,
}

impl LastSaid {
    /// What the store holds of deckies.
    pub(super) fn of_deckies(r: &Reader<'_>) -> Result<Self, StoreError> {
        let mut seen_at = HashMap::new();
        let records = r.all::<DeckyRecord>()?;
        for seen in r.all::<ObservedRecord>()? {
            seen_at.extend(
                observed_states(&records, seen.host, &seen.observed)
                    .into_iter()
                    .filter(|(_, state)| *state != ObservedState::TornDown)
                    .map(|(name, state)| (name, (seen.host, state))),
            );
        }
        Ok(Self {
            hosts: Mutex::default(),
            deckies: Mutex::new(Deckies {
                seen: seen_at,
                newest: HashMap::new(),
            }),
            looks: AtomicU64::new(0),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, HostState>> {
        // The map is whole after every statement that changes it.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what a host sees, in the transaction that stores it: these happen one after another, and so do the
    /// numbers.
    pub(super) fn look(&self, records: &[DeckyRecord], host: HostId, observed: &Observed) -> Look {
        Look {
            number: self.looks.fetch_add(1, Ordering::Relaxed) + 1,
            states: observed_states(records, host, observed),
        }
    }

    fn deckies(&self) -> MutexGuard<'_, Deckies> {
        self.deckies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a host sees its deckies.
fn observed_states(
    records: &[DeckyRecord],
    host: HostId,
    observed: &Observed,
) -> BTreeMap<DeckyName, ObservedState> {
    records
        .iter()
        .filter(|record| record.decky.host == host)
        .map(|record| {
            let state = ObservedState::of(&record.decky, observed);
            (record.decky.name.clone(), state)
        })
        .collect()
}

impl Control {
    /// Takes up the states that hosts have now, and announces none.
    pub(super) fn begin_with_hosts(&self) -> Result<(), ControlError> {
        let hosts = self.db.read(Self::read_hosts)?;
        let states = hosts.iter().map(|host| (host.id, self.condition(host)));
        self.said.hosts().extend(states);
        Ok(())
    }

    /// Announces the states of all hosts that changed: those whose heartbeats stopped.
    ///
    /// # Errors
    /// The store's.
    pub fn note_hosts(&self) -> Result<(), ControlError> {
        for host in self.db.read(Self::read_hosts)? {
            let changed = self.said.hosts().get(&host.id) != Some(&self.condition(&host));
            // What was read may be old by now: another look decides.
            if changed {
                self.note_host(host.id);
            }
        }
        Ok(())
    }

    /// Announces a host's state, if it changed. To be called after the change was stored.
    pub(super) fn note_host(&self, id: HostId) {
        // Held from the look at the store until it is announced: another change of a host waits for its turn. That is
        // rare.
        let mut said = self.said.hosts();
        match self.db.read(|r| r.get::<Host>(&id)) {
            Ok(Some(host)) => self.note(&mut said, &host),
            Ok(None) => {}
            // The sweep looks again.
            Err(error) => tracing::warn!(error = %chain(&error), %id, "a host's state was not announced"),
        }
    }

    /// A host is no more: nothing is expected of it, nor of what it saw.
    pub(super) fn note_gone(&self, id: HostId) {
        self.said.hosts().remove(&id);
        self.said.deckies().seen.retain(|_, (at, _)| *at != id);
    }

    /// A heartbeat came. Looks further only when the host was not active.
    pub(super) fn note_heartbeat(&self, id: HostId) {
        let active = self.said.hosts().get(&id) == Some(&HostState::Active);
        if !active {
            self.note_host(id);
        }
    }

    fn note(&self, said: &mut HashMap<HostId, HostState>, host: &Host) {
        let to = self.condition(host);
        let from = said.insert(host.id, to);
        if from == Some(to) {
            return;
        }
        if to == HostState::Revoked {
            // It says nothing more of them.
            self.said.deckies().seen.retain(|_, (at, _)| *at != host.id);
        }
        let silence = self.silence(host.id).as_secs();
        let reason = match to {
            HostState::Invited => "a token was made for it".to_owned(),
            HostState::Waiting => "somebody uses its token and waits for approval".to_owned(),
            HostState::Enrolled => "it has a certificate".to_owned(),
            HostState::Active => "its heartbeats come".to_owned(),
            HostState::Unreachable => format!("no heartbeat for {silence} s in which the master listened"),
            HostState::Revoked => "an operator revoked it".to_owned(),
            HostState::Decommissioning => "it is being wiped".to_owned(),
            HostState::Decommissioned => "it said that it is wiped".to_owned(),
        };
        tracing::info!(host = %host.name, from = from.map(HostState::as_str), to = to.as_str(), reason, "host state");
        self.events.publish([Event::HostState(HostStateEvent {
            host_name: host.name.clone(),
            host_uuid: host.id,
            from,
            to,
            reason,
            ts: self.now(),
        })]);
    }

    /// Announces what changed of the deckies on a host. Those that it does not speak of and that were seen there are gone
    /// from it.
    pub(super) fn note_deckies(&self, host: HostId, look: Look, now: Timestamp) {
        let mut said = self.said.deckies();
        let Deckies { seen, newest } = &mut *said;
        let newest = newest.entry(host).or_default();
        // A newer one was faster.
        if *newest > look.number {
            return;
        }
        *newest = look.number;
        let mut states = look.states;
        for (name, (at, _)) in seen.iter() {
            if *at == host && !states.contains_key(name) {
                states.insert(name.clone(), ObservedState::TornDown);
            }
        }
        let mut events = Vec::new();
        for (name, to) in states {
            let from = match seen.get(&name) {
                // Seen elsewhere: that host has its own say.
                Some((at, _)) if *at != host && to == ObservedState::TornDown => continue,
                Some((at, from)) if *at == host => *from,
                _ => ObservedState::TornDown,
            };
            if to == ObservedState::TornDown {
                seen.remove(&name);
            } else {
                seen.insert(name.clone(), (host, to));
            }
            if from != to {
                events.push(Event::DeckyState(DeckyStateEvent {
                    decky_name: name,
                    host_uuid: host,
                    from,
                    to,
                    ts: now,
                }));
            }
        }
        self.events.publish(events);
    }
}
