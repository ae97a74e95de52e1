//! The rules, as data: what may leave a closed namespace, whatever filter the kernel has.

use std::net::{IpAddr, Ipv4Addr};

use decnet_plan::compose::{Destination, Egress, Protocol};
use ipnet::IpNet;

/// The engine's resolver in every namespace on a network of its own (libnetwork's `resolverIPSandbox`).
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// The port of DNS (RFC 1035).
const DNS: u16 = 53;

/// IANA protocol numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// ICMPv6 types that keep a host on its link: listener report and done (RFC 2710), router and neighbour solicitation,
/// neighbour advertisement (RFC 4861), version 2 listener report (RFC 3810).
const LINK_TYPES: [u8; 6] = [131, 132, 133, 135, 136, 143];

pub(super) const DROPPED_OTHER: &str = "dropped-other";
const ALLOWED: &str = "allowed";
/// The names of everything that is counted.
pub(super) const COUNTERS: [&str; 6] = [
    "dropped-tcp",
    "dropped-udp",
    "dropped-icmp",
    "dropped-dns",
    DROPPED_OTHER,
    ALLOWED,
];

/// What a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// Of a connection that the other side has opened, or an error about one. A connection that is opened from here has
    /// its first packet dropped and never becomes one.
    Answer,
    /// A TCP segment with the reset flag (RFC 9293, section 3.1).
    Reset,
    /// Leaves by the loopback interface.
    Loopback,
    /// ICMPv6 of this type.
    Link(u8),
    /// To an address of this network; of one protocol, and to one range of ports, where these are said.
    To {
        net: IpNet,
        protocol: Option<u8>,
        ports: Option<(u16, u16)>,
    },
    /// Of one protocol.
    Of(u8),
    Any,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes.
    Go,
    /// It is counted, and goes.
    Allow(&'static str),
    /// It is counted and goes not.
    Drop(&'static str),
}

/// The rules for what is sent: the first that a packet matches decides. The last matches every packet.
pub(super) fn output(egress: &Egress) -> Vec<(Packet, Fate)> {
    let mut rules = vec![(Packet::Answer, Fate::Go), (Packet::Reset, Fate::Go)];
    if !egress.allow.iter().any(asks_names) {
        let resolver = Packet::To {
            net: RESOLVER.into(),
            protocol: None,
            ports: None,
        };
        rules.push((resolver, Fate::Drop("dropped-dns")));
    }
    rules.push((Packet::Loopback, Fate::Go));
    rules.extend(LINK_TYPES.map(|kind| (Packet::Link(kind), Fate::Go)));
    for Destination { protocol, net, ports } in &egress.allow {
        let number = match (protocol, net) {
            (Protocol::Tcp, _) => TCP,
            (Protocol::Udp, _) => UDP,
            (Protocol::Icmp, IpNet::V4(_)) => ICMP,
            (Protocol::Icmp, IpNet::V6(_)) => ICMPV6,
        };
        let declared = Packet::To {
            net: *net,
            protocol: Some(number),
            ports: *ports,
        };
        rules.push((declared, Fate::Allow(ALLOWED)));
    }
    rules.extend([
        (Packet::Of(TCP), Fate::Drop("dropped-tcp")),
        (Packet::Of(UDP), Fate::Drop("dropped-udp")),
        (Packet::Of(ICMP), Fate::Drop("dropped-icmp")),
        (Packet::Of(ICMPV6), Fate::Drop("dropped-icmp")),
        (Packet::Any, Fate::Drop(DROPPED_OTHER)),
    ]);
    rules
}

/// Whether it is a name server: then the engine's resolver, which asks from within the namespace, may be asked.
fn asks_names(destination: &Destination) -> bool {
    destination
        .ports
        .is_some_and(|(first, last)| (first..=last).contains(&DNS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_place_and_the_last_rule_lets_nothing_go() {
        let mut counters = super::super::EgressCounters::default();
        for name in COUNTERS {
            assert!(counters.of(name).is_some(), "{name}");
        }
        let rules = output(&Egress::default());
        assert_eq!(rules.last(), Some(&(Packet::Any, Fate::Drop(DROPPED_OTHER))));
    }

    #[test]
    fn only_who_may_ask_a_name_server_may_ask_the_engines_resolver() {
        let resolver = |text: &[&str]| {
            let allow = text.iter().map(|text| text.parse().unwrap()).collect();
            output(&Egress { allow })
                .iter()
                .any(|(_, fate)| *fate == Fate::Drop("dropped-dns"))
        };
        assert!(resolver(&[]));
        assert!(resolver(&["tcp/192.0.2.1:80"]));
        assert!(!resolver(&["udp/192.0.2.1:1-100"]));
    }
}
