//! Where the host sends what is for nobody on its own LANs.

use std::io;
use std::net::Ipv4Addr;

use decnet_wire::ids::InterfaceName;

/// A way out of the host's LANs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    pub interface: InterfaceName,
    pub gateway: Ipv4Addr,
}

/// The default routes of IPv4, in the kernel's order: the one that is used first.
///
/// # Errors
/// The kernel does not tell.
pub fn default_routes() -> io::Result<Vec<DefaultRoute>> {
    Ok(read(&std::fs::read_to_string("/proc/self/net/route")?))
}

/// Reads the kernel's table: hexadecimal columns in host byte order (proc(5), "/proc/net/route").
fn read(table: &str) -> Vec<DefaultRoute> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, gateway, _, _, _, _, mask, ..] = columns.as_slice() else {
            return None;
        };
        if *destination != "00000000" || *mask != "00000000" {
            return None;
        }
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        Some(DefaultRoute {
            interface: interface.parse().ok()?,
            gateway: Ipv4Addr::from(gateway.to_ne_bytes()),
        })
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_found_among_others() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let found = DefaultRoute {
            interface: "eth0".parse().unwrap(),
            gateway: Ipv4Addr::new(192, 168, 1, 1),
        };
        assert_eq!(read(table), [found]);
        assert_eq!(read("Iface\n"), []);
    }
}
