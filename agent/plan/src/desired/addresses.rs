//! No address and no MAC twice on one network, and none outside it.

use std::collections::BTreeMap;

use super::{Desired, DocumentError, endpoints};

pub(super) fn check(desired: &Desired, errors: &mut Vec<DocumentError>) {
    let mut addresses = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for (stack, service, spec) in desired.containers() {
        for endpoint in endpoints(spec) {
            let path = format!("services.{service}.networks");
            let mut fail = |problem: String| errors.push(DocumentError::new(Some(stack), &*path, problem));
            let network = &endpoint.network;
            if let Some(address) = endpoint.address {
                if let Some(spec) = desired.networks().get(network) {
                    // Without a gateway the engine gives the first address to one of its own.
                    let gateway = spec.gateway.or_else(|| spec.subnet.hosts().next());
                    let reserved = [
                        Some(spec.subnet.network()),
                        Some(spec.subnet.broadcast()),
                        gateway,
                        desired.host_addresses.get(network).copied(),
                    ];
                    if !spec.subnet.contains(&address) {
                        fail(format!(
                            "{address} is outside {}, the subnet of network {network}",
                            spec.subnet
                        ));
                    } else if spec.subnet.prefix_len() < 31 && reserved.contains(&Some(address)) {
                        fail(format!("{address} is reserved in network {network}"));
                    }
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
