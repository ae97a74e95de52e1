//! No address and no MAC twice on one network, and none outside it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Desired, DocumentError};
use crate::step::NetworkSpec;

/// Why a network cannot have an address.
fn misplaced(spec: &NetworkSpec, address: IpAddr) -> Option<String> {
    let mut subnets = Vec::new();
    for pool in &spec.ipam.pools {
        let subnet = pool
            .subnet
            .filter(|subnet| subnet.addr().is_ipv4() == address.is_ipv4());
        let Some(subnet) = subnet else { continue };
        subnets.push(subnet.to_string());
        if !subnet.contains(&address) {
            continue;
        }
        // Without a gateway the engine gives the first address to one of its own.
        let gateway = pool.gateway.or_else(|| subnet.hosts().next());
        let broadcast = address.is_ipv4().then(|| subnet.broadcast());
        let reserved = [Some(subnet.network()), broadcast, gateway];
        let narrow = subnet.max_prefix_len() - subnet.prefix_len() < 2;
        let taken = !narrow && reserved.contains(&Some(address));
        return taken.then(|| format!("{address} is reserved in network {}", spec.name));
    }
    let outside = !subnets.is_empty();
    outside.then(|| {
        format!(
            "{address} is outside {}, the subnet of network {}",
            subnets.join(", "),
            spec.name
        )
    })
}

pub(super) fn check(desired: &Desired, errors: &mut Vec<DocumentError>) {
    let mut addresses = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for (stack, service, spec) in desired.containers() {
        for endpoint in spec.endpoints() {
            let path = format!("services.{service}.networks");
            let mut fail = |problem: String| errors.push(DocumentError::new(Some(stack), &*path, problem));
            let network = &endpoint.network;
            for address in endpoint.addresses() {
                let network_spec = desired.networks().get(network);
                if let Some(problem) = network_spec.and_then(|spec| misplaced(spec, address)) {
                    fail(problem);
                } else if desired.host_addresses.get(network).copied().map(IpAddr::V4) == Some(address) {
                    fail(format!("{address} is reserved in network {network}"));
                }
                if let Some(other) = addresses.insert((network, address), &spec.name) {
                    fail(format!(
                        "{address} on network {network} is the address of {other} as well"
                    ));
                }
            }
            if let Some(mac) = endpoint.mac
                && let Some(other) = macs.insert((network, mac), &spec.name)
            {
                fail(format!(
                    "{mac} on network {network} is the MAC address of {other} as well"
                ));
            }
        }
    }
}
