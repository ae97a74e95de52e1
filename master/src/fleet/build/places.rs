//! Which host and which address a decky gets.
//!
//! A LAN is known by its subnet: hosts on the same subnet share one pool, and no address is given out twice in the
//! whole fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{HostId, HostName};
use ipnet::Ipv4Net;

use super::BuildError;
use crate::fleet::ini::{Document, Faults, IniClass, is_host};
use crate::fleet::model::{Fleet, HostSlot, Lan};

pub(super) struct Places<'a> {
    /// By name.
    hosts: Vec<Place<'a>>,
    /// Addresses that no decky may have, and whose they are.
    reserved: BTreeMap<Ipv4Addr, String>,
    occupied: BTreeSet<Ipv4Addr>,
    /// Where the search for a free address goes on, by subnet. Addresses never become free during a build.
    next: BTreeMap<Ipv4Net, u32>,
    /// The subnet and the address in it from which on new deckies get theirs.
    start: Option<(Ipv4Net, Ipv4Addr)>,
}

struct Place<'a> {
    id: HostId,
    name: &'a HostName,
    subnet: Ipv4Net,
    deckies: usize,
}

impl<'a> Places<'a> {
    /// `fleet` is the LAN of every target that has none of its own.
    pub(super) fn new(targets: &'a [HostSlot], fleet: Option<&Lan>) -> Self {
        let mut places = Self {
            hosts: Vec::new(),
            reserved: BTreeMap::new(),
            occupied: BTreeSet::new(),
            next: BTreeMap::new(),
            start: None,
        };
        for host in targets {
            // The LAN was resolved before, so a target without any does not get here.
            let Some(lan) = host.lan.as_ref().or(fleet) else {
                continue;
            };
            let subnet = lan.subnet.trunc();
            // Without a gateway the engine takes the first host address for itself.
            if let Some(address) = lan.gateway.or_else(|| subnet.hosts().next()) {
                places
                    .reserved
                    .insert(address, format!("the gateway of {subnet}"));
            }
            for address in &host.addresses {
                places.reserved.insert(*address, format!("host {}", host.name));
            }
            places.hosts.push(Place {
                id: host.id,
                name: &host.name,
                subnet,
                deckies: 0,
            });
        }
        places.hosts.sort_by_key(|place| place.name);
        places
    }

    /// Checks the text's own addresses and keeps them from everyone else. `fleet` are the deckies that stay.
    pub(super) fn explicit(&mut self, document: &Document, fleet: &Fleet, faults: &mut Faults) {
        let used: BTreeMap<Ipv4Addr, _> = fleet
            .deckies
            .values()
            .map(|decky| (decky.address, &decky.name))
            .collect();
        for ip in document.deckies.iter().filter_map(|spec| spec.ip.as_ref()) {
            let mut fault = |class, message: String| faults.push(BuildError::new(class, message).at(ip));
            if !self.hosts.iter().any(|place| place.subnet.contains(&ip.value)) {
                let message = format!(
                    "{} is outside {}; choose one inside, or remove ip",
                    ip.value,
                    self.subnets()
                );
                fault(IniClass::Address, message);
            } else if self.host_for(ip.value).is_none() {
                let message = format!(
                    "{} is the network or broadcast address of its LAN; choose another",
                    ip.value
                );
                fault(IniClass::Address, message);
            } else if let Some(owner) = self.reserved.get(&ip.value) {
                fault(
                    IniClass::Address,
                    format!("{} is the address of {owner}; choose another", ip.value),
                );
            } else if let Some(name) = used.get(&ip.value) {
                fault(
                    IniClass::Collision,
                    format!(
                        "{} is already the address of decky {name}; choose another",
                        ip.value
                    ),
                );
            } else {
                self.occupied.insert(ip.value);
            }
        }
    }

    /// Whether a decky may take `address`: it lies on a target's LAN and nobody has it.
    pub(super) fn is_free(&self, address: Ipv4Addr) -> bool {
        self.hosts.iter().any(|place| is_host(&place.subnet, address)) && !self.is_taken(address)
    }

    fn is_taken(&self, address: Ipv4Addr) -> bool {
        self.reserved.contains_key(&address) || self.occupied.contains(&address)
    }

    pub(super) fn occupy(&mut self, address: Ipv4Addr) {
        self.occupied.insert(address);
    }

    /// Counts one more decky on a host.
    pub(super) fn load(&mut self, host: HostId) {
        if let Some(place) = self.hosts.iter_mut().find(|place| place.id == host) {
            place.deckies += 1;
        }
    }

    /// Whether `host` is a target and its LAN can have `address`.
    pub(super) fn fits(&self, host: HostId, address: Ipv4Addr) -> bool {
        self.hosts
            .iter()
            .any(|place| place.id == host && is_host(&place.subnet, address))
    }

    /// The least loaded target, by name among equals, whose LAN can have `address`.
    pub(super) fn host_for(&self, address: Ipv4Addr) -> Option<HostId> {
        let able = self.hosts.iter().filter(|place| is_host(&place.subnet, address));
        able.min_by_key(|place| (place.deckies, place.name))
            .map(|place| place.id)
    }

    /// The least loaded target whose LAN has a free address, and the lowest such address. The address is taken then.
    pub(super) fn allocate(&mut self) -> Option<(HostId, Ipv4Addr)> {
        let mut order: Vec<(usize, &HostName, HostId, Ipv4Net)> = self
            .hosts
            .iter()
            .map(|place| (place.deckies, place.name, place.id, place.subnet))
            .collect();
        order.sort_unstable_by_key(|(deckies, name, ..)| (*deckies, *name));
        for (_, _, host, subnet) in order {
            if let Some(address) = self.lowest_free(subnet) {
                self.occupied.insert(address);
                return Some((host, address));
            }
        }
        None
    }

    /// From here on [`Places::following`] gives out addresses, in this one's subnet.
    pub(super) fn start_at(&mut self, start: Ipv4Addr, faults: &mut Faults) {
        let able = self.hosts.iter().find(|place| is_host(&place.subnet, start));
        let Some(place) = able else {
            let message = format!(
                "{start} is not a host address of {}; choose one that is",
                self.subnets()
            );
            let error = BuildError::new(IniClass::Address, message).section("generate");
            faults.push(error.key("ip_start"));
            return;
        };
        self.next.insert(place.subnet, u32::from(start));
        self.start = Some((place.subnet, start));
    }

    /// The next free address from the start on; it is taken then.
    pub(super) fn following(&mut self) -> Option<Ipv4Addr> {
        let (subnet, _) = self.start?;
        let address = self.lowest_free(subnet)?;
        self.occupied.insert(address);
        Some(address)
    }

    fn lowest_free(&mut self, subnet: Ipv4Net) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
        let mut next = self
            .next
            .get(&subnet)
            .copied()
            .unwrap_or_else(|| first.saturating_add(1));
        while next < last && self.is_taken(Ipv4Addr::from(next)) {
            next += 1;
        }
        self.next.insert(subnet, next);
        (next < last).then(|| Ipv4Addr::from(next))
    }

    /// Why there is no address.
    pub(super) fn exhausted(&self) -> String {
        if let Some((subnet, start)) = self.start {
            return format!(
                "no free address is left from {start} on in {subnet}; start lower, use a larger net, or fewer deckies"
            );
        }
        format!(
            "no free address is left on {}; use a larger net, or fewer deckies",
            self.subnets()
        )
    }

    fn subnets(&self) -> String {
        let subnets: BTreeSet<Ipv4Net> = self.hosts.iter().map(|place| place.subnet).collect();
        subnets
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }
}
