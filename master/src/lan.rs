//! The LAN of this machine's default route.

use std::net::Ipv4Addr;

use decnet_wire::ids::InterfaceName;
use ipnet::Ipv4Net;

use crate::fleet::model::Lan;

/// The interface, subnet and gateway of the default route, if there is one.
#[must_use]
pub fn detect() -> Option<Lan> {
    let (interface, gateway) = default_route(&std::fs::read_to_string("/proc/self/net/route").ok()?)?;
    let subnet = nix::ifaddrs::getifaddrs().ok()?.find_map(|address| {
        if address.interface_name != interface {
            return None;
        }
        let own = address.address?.as_sockaddr_in()?.ip();
        let mask = address.netmask?.as_sockaddr_in()?.ip();
        Ipv4Net::with_netmask(own, mask).ok().map(|net| net.trunc())
    })?;
    let interface: InterfaceName = interface.parse().ok()?;
    Some(Lan {
        subnet,
        gateway: Some(gateway),
        interface: Some(interface),
    })
}

/// Reads the kernel's table: hexadecimal columns in host byte order (proc(5), "/proc/net/route").
fn default_route(table: &str) -> Option<(String, Ipv4Addr)> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, gateway, _, _, _, _, mask, ..] = columns.as_slice() else {
            return None;
        };
        if *destination != "00000000" || *mask != "00000000" {
            return None;
        }
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        Some(((*interface).to_owned(), Ipv4Addr::from(gateway.to_ne_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_found_among_others() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        assert_eq!(
            default_route(table),
            Some(("eth0".to_owned(), Ipv4Addr::new(192, 168, 1, 1)))
        );
        assert_eq!(default_route("Iface\n"), None);
    }
}
