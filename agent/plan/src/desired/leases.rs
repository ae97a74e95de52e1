//! Addresses that containers have had keep being theirs.
//!
//! A container whose document fixes no address on a LAN gets one from the engine, and another one when it is made
//! anew. What it has had is remembered as a lease, and asked for from then on. A lease changes no hash: remembering
//! recreates nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use decnet_wire::bundle::NetworkDriver;
use decnet_wire::ids::MacAddress;
use decnet_wire::observed::Observed;
use serde::{Deserialize, Serialize};

use super::Desired;
use crate::labels;
use crate::step::NetworkMode;

/// The addresses of this host's containers, by stack, service and network (`web/base/decnet-lan`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases(BTreeMap<String, Lease>);

/// What one container has on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
}

fn key(stack: impl std::fmt::Display, service: &str, network: &str) -> String {
    format!("{stack}/{service}/{network}")
}

impl Leases {
    /// Every lease with its key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.0.iter().map(|(key, lease)| (key.as_str(), lease))
    }
}

impl Desired {
    /// Fills in what containers have had, where their documents fix nothing and nobody else is to have it.
    #[must_use]
    pub fn with_leases(mut self, leases: &Leases) -> Self {
        let (mut addresses, mut macs) = (BTreeSet::new(), BTreeSet::new());
        for (_, _, spec) in self.containers() {
            for endpoint in spec.endpoints() {
                addresses.extend(
                    endpoint
                        .addresses()
                        .map(|address| (endpoint.network.clone(), address)),
                );
                macs.extend(endpoint.mac.map(|mac| (endpoint.network.clone(), mac)));
            }
        }
        let networks = &self.networks;
        for (stack, desired) in &mut self.stacks {
            for (name, service) in &mut desired.services {
                let NetworkMode::Networks { endpoints } = &mut service.spec.network else {
                    continue;
                };
                // Older engines set the MAC address of a container's first network only.
                let mac_elsewhere = endpoints.iter().any(|endpoint| endpoint.mac.is_some());
                for (number, endpoint) in endpoints.iter_mut().enumerate() {
                    let Some(network) = networks
                        .get(&endpoint.network)
                        .filter(|found| found.parent().is_some())
                    else {
                        continue;
                    };
                    let Some(lease) = leases.0.get(&key(stack, name, &endpoint.network)) else {
                        continue;
                    };
                    let mut free = |address: IpAddr| {
                        network.subnets().any(|subnet| subnet.contains(&address))
                            && addresses.insert((endpoint.network.clone(), address))
                    };
                    if endpoint.address.is_none() && free(lease.address.into()) {
                        endpoint.address = Some(lease.address);
                    }
                    if endpoint.address6.is_none() {
                        endpoint.address6 = lease.address6.filter(|address| free((*address).into()));
                    }
                    if let (None, Some(mac), Some(NetworkDriver::Macvlan)) =
                        (endpoint.mac, lease.mac, network.known_driver())
                        && number == 0
                        && !mac_elsewhere
                        && macs.insert((endpoint.network.clone(), mac))
                    {
                        endpoint.mac = Some(mac);
                    }
                }
            }
        }
        self
    }

    /// The leases as they are now: those of before whose containers are still desired, and what containers that run
    /// as desired have.
    #[must_use]
    pub fn leases(&self, observed: &Observed, before: &Leases) -> Leases {
        let running: BTreeMap<&str, _> = observed
            .containers
            .iter()
            .filter(|container| container.state.is_running())
            .map(|container| (container.name.as_str(), container))
            .collect();
        let mut leases = BTreeMap::new();
        for (stack, service, spec) in self.containers() {
            for endpoint in spec.endpoints() {
                let on_lan = self
                    .networks
                    .get(&endpoint.network)
                    .is_some_and(|network| network.parent().is_some());
                if !on_lan {
                    continue;
                }
                let key = key(stack, service, &endpoint.network);
                let seen = running
                    .get(spec.name.as_str())
                    .filter(|container| Some(&container.hash) == spec.labels.get(labels::HASH))
                    .and_then(|container| {
                        let mut attachments = container.attachments.iter();
                        attachments.find(|attachment| attachment.network == endpoint.network)
                    });
                let lease = seen.and_then(|attachment| {
                    Some(Lease {
                        address: endpoint.address.or(attachment.address)?,
                        address6: endpoint.address6.or(attachment.address6),
                        mac: endpoint.mac.or(attachment.mac),
                    })
                });
                leases.extend(
                    lease
                        .or_else(|| before.0.get(&key).copied())
                        .map(|lease| (key, lease)),
                );
            }
        }
        Leases(leases)
    }
}
