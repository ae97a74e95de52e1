//! Closes a network namespace against calls outwards, with nftables rules inside it.
//!
//! The rules are one table, `inet decnet`. Two chains hook what leaves (`output`, `forward`); a third is empty, and its
//! name says which rules these are. All of it is put in place by one transaction of the kernel: there is no moment
//! between the old rules and the new ones.
//!
//! What leaves is, in this order, let go: packets of connections that somebody else has opened, or errors about them;
//! resets, which open nothing and which a scanner expects (a closed port answers odd packets with one); loopback, but
//! for the engine's resolver, which would carry questions to the world; neighbour discovery (RFC 4861) and
//! multicast listener reports (RFC 3810), without which IPv6 is dead; what is declared. The rest is counted and
//! dropped.
//!
//! ARP does not pass here: it is no part of the family `inet`.

mod encode;

use std::net::Ipv4Addr;

use decnet_plan::compose::{Destination, Egress, Protocol};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use super::netlink::Netlink;
use encode::{Batch, Chain, Hook, Rule};

pub(super) const TABLE: &str = "decnet";
/// What the marking chain's name starts with.
const MARK: &str = "rules-";

/// The engine's resolver in every namespace on a network of its own (libnetwork's `resolverIPSandbox`).
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port of DNS (RFC 1035).
const DNS: u16 = 53;

/// IANA protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// ICMPv6 types that keep a host on its link: listener report and done (RFC 2710), router and neighbour solicitation,
/// neighbour advertisement (RFC 4861), version 2 listener report (RFC 3810).
const LINK_TYPES: [u8; 6] = [131, 132, 133, 135, 136, 143];

/// Packets that were dropped, by what they were, and let go because they are declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressCounters {
    pub dropped_tcp: u64,
    pub dropped_udp: u64,
    /// ICMP and ICMPv6.
    pub dropped_icmp: u64,
    /// Questions to the engine's resolver.
    pub dropped_dns: u64,
    pub dropped_other: u64,
    pub allowed: u64,
}

impl EgressCounters {
    /// Every packet that was dropped.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped_tcp + self.dropped_udp + self.dropped_icmp + self.dropped_dns + self.dropped_other
    }

    fn of(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "dropped-tcp" => &mut self.dropped_tcp,
            "dropped-udp" => &mut self.dropped_udp,
            "dropped-icmp" => &mut self.dropped_icmp,
            "dropped-dns" => &mut self.dropped_dns,
            "dropped-other" => &mut self.dropped_other,
            "allowed" => &mut self.allowed,
            _ => return None,
        })
    }
}

const COUNTERS: [&str; 6] = [
    "dropped-tcp",
    "dropped-udp",
    "dropped-icmp",
    "dropped-dns",
    "dropped-other",
    "allowed",
];

/// Closes the namespace that the calling thread stands in. Whatever rules of ours are there go.
pub(crate) fn close(egress: &Egress, rules: &str) -> Result<(), Errno> {
    let mut batch = Batch::new(TABLE);
    // Removing what is not there would be an error, so it is made first.
    batch.table();
    batch.remove_table();
    batch.table();
    for counter in COUNTERS {
        batch.counter(counter);
    }
    batch.chain(&Chain {
        name: format!("{MARK}{rules}"),
        hook: None,
    });
    for hook in [Hook::Output, Hook::Forward] {
        batch.chain(&Chain {
            name: hook.name().to_owned(),
            hook: Some(hook),
        });
    }
    for rule in output(egress) {
        batch.rule(Hook::Output.name(), &rule);
    }
    batch.rule(Hook::Forward.name(), &Rule::new().count("dropped-other").drop());
    let (request, last) = batch.finish();
    Netlink::open(SockProtocol::NetlinkNetFilter)?
        .exchange(&request, last)
        .map(drop)
}

/// The name of the rules that the namespace of the calling thread is closed with; None when it is open.
pub(crate) fn rules() -> Result<Option<String>, Errno> {
    let (request, last) = encode::list_chains();
    let answers = Netlink::open(SockProtocol::NetlinkNetFilter)?.exchange(&request, last)?;
    let (mut mark, mut hooks) = (None, 0);
    for answer in answers {
        let Some((table, name)) = encode::named(&answer.body, encode::CHAIN_TABLE, encode::CHAIN_NAME) else {
            continue;
        };
        if table != TABLE {
            continue;
        }
        match name.strip_prefix(MARK) {
            Some(rules) => mark = Some(rules.to_owned()),
            None => hooks += 1,
        }
    }
    // Somebody has taken a part away: that is open.
    Ok(mark.filter(|_| hooks == 2))
}

/// What the rules of the namespace of the calling thread have counted; None when it is open.
pub(crate) fn counters() -> Result<Option<EgressCounters>, Errno> {
    let (request, last) = encode::list_objects();
    let answers = Netlink::open(SockProtocol::NetlinkNetFilter)?.exchange(&request, last)?;
    let mut counters: Option<EgressCounters> = None;
    for answer in answers {
        let found = encode::named(&answer.body, encode::OBJECT_TABLE, encode::OBJECT_NAME);
        let Some((table, name)) = found else { continue };
        if table != TABLE {
            continue;
        }
        if let (Some(counter), Some(packets)) = (
            counters.get_or_insert_default().of(&name),
            encode::packets(&answer.body),
        ) {
            *counter = packets;
        }
    }
    Ok(counters)
}

fn output(egress: &Egress) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new().established().accept(),
        Rule::new().protocol(TCP).tcp_reset().accept(),
    ];
    if !egress.allow.iter().any(asks_names) {
        rules.push(
            Rule::new()
                .to(&IpNet::from(std::net::IpAddr::V4(RESOLVER)))
                .count("dropped-dns")
                .drop(),
        );
    }
    rules.push(Rule::new().loopback().accept());
    for kind in LINK_TYPES {
        rules.push(Rule::new().protocol(ICMPV6).icmp_type(kind).accept());
    }
    for Destination { protocol, net, ports } in &egress.allow {
        let number = match (protocol, net) {
            (Protocol::Tcp, _) => TCP,
            (Protocol::Udp, _) => UDP,
            (Protocol::Icmp, IpNet::V4(_)) => ICMP,
            (Protocol::Icmp, IpNet::V6(_)) => ICMPV6,
        };
        let mut rule = Rule::new().to(net).protocol(number);
        if let Some((first, last)) = ports {
            rule = rule.ports(*first, *last);
        }
        rules.push(rule.count("allowed").accept());
    }
    for (protocol, counter) in [
        (TCP, "dropped-tcp"),
        (UDP, "dropped-udp"),
        (ICMP, "dropped-icmp"),
        (ICMPV6, "dropped-icmp"),
    ] {
        rules.push(Rule::new().protocol(protocol).count(counter).drop());
    }
    rules.push(Rule::new().count("dropped-other").drop());
    rules
}

/// Whether it is a name server: then the engine's resolver, which asks from within the namespace, may be asked.
fn asks_names(destination: &Destination) -> bool {
    destination
        .ports
        .is_some_and(|(first, last)| (first..=last).contains(&DNS))
}

#[cfg(test)]
mod tests;
