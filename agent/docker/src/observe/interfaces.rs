//! The host's network interfaces.

use std::collections::BTreeMap;
use std::path::Path;

use decnet_plan::desired::HOST_LINK;
use decnet_wire::ids::InterfaceName;
use decnet_wire::observed::Interface;
use ipnet::{Ipv4Net, Ipv6Net};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::EngineError;
use crate::host::links;

/// Every interface, sorted by name, but the engine's own ends of bridged containers: they come and go with every
/// container on the machine, and nothing is ever built on them.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> Result<Vec<Interface>, EngineError> {
    let mut found: BTreeMap<InterfaceName, Interface> = BTreeMap::new();
    for entry in getifaddrs().map_err(EngineError::ListInterfaces)? {
        // Labels of secondary addresses (`eth0:1`) name no link.
        let Ok(name) = entry.interface_name.parse::<InterfaceName>() else {
            continue;
        };
        if is_engine_veth(name.as_str()) || name.as_str().contains(':') {
            continue;
        }
        let interface = found.entry(name.clone()).or_insert_with(|| Interface::new(name));
        interface.up = entry.flags.contains(InterfaceFlags::IFF_UP);
        let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| {
            address.and_then(|address| address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        if let (Some(address), Some(mask)) = (ipv4(entry.address), ipv4(entry.netmask))
            && let Ok(net) = Ipv4Net::with_netmask(address, mask)
        {
            interface.addresses.push(net);
        }
        let ipv6 = |address: Option<nix::sys::socket::SockaddrStorage>| {
            address.and_then(|address| address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip))
        };
        if let (Some(address), Some(mask)) = (ipv6(entry.address), ipv6(entry.netmask))
            && !address.is_unicast_link_local()
            && let Ok(net) = Ipv6Net::with_netmask(address, mask)
        {
            interface.addresses6.push(net);
        }
    }
    let all = links::list().map_err(EngineError::ListInterfaces)?;
    for link in &all {
        if let Some(interface) = found.get_mut(&link.name) {
            interface.kind.clone_from(&link.kind);
            if link.name.as_str().starts_with(HOST_LINK) {
                interface.alias.clone_from(&link.alias);
            }
            let below = |index| all.iter().find(|other| other.index == index);
            interface.parent = link.below.and_then(below).map(|other| other.name.clone());
        }
    }
    let mut interfaces: Vec<_> = found.into_values().collect();
    for interface in &mut interfaces {
        interface.wireless = is_wireless(&interface.name);
        interface.addresses.sort();
        interface.addresses.dedup();
        interface.addresses6.sort();
        interface.addresses6.dedup();
    }
    Ok(interfaces)
}

/// cfg80211 puts one of these into the folder of its devices; the first is the older kernels' way.
fn is_wireless(name: &InterfaceName) -> bool {
    let folder = Path::new("/sys/class/net").join(name.as_str());
    folder.join("wireless").exists() || folder.join("phy80211").exists()
}

/// libnetwork names them `veth` and seven hexadecimal digits.
fn is_engine_veth(name: &str) -> bool {
    name.strip_prefix("veth")
        .is_some_and(|rest| rest.len() == 7 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed_with_its_address() {
        let list = list().unwrap();
        let lo = list
            .iter()
            .find(|interface| interface.name.as_str() == "lo")
            .unwrap();
        assert!(lo.up);
        assert!(lo.addresses.contains(&"127.0.0.1/8".parse().unwrap()));
    }

    #[test]
    fn only_the_engines_own_veths_are_left_out() {
        assert!(is_engine_veth("veth1a2b3c4"));
        for other in ["veth0", "vethlan", "eth0", "veth1a2b3c4d", "vethABCDEF0"] {
            assert!(!is_engine_veth(other), "{other}");
        }
    }
}
