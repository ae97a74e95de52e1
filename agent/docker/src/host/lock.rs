//! Closes a network namespace against calls outwards, with packet filter rules inside it.
//!
//! What leaves is, in this order, let go: packets of connections that somebody else has opened, or errors about them;
//! resets, which open nothing and which a scanner expects (a closed port answers odd packets with one); loopback, but
//! for the engine's resolver, which would carry questions to the world; neighbour discovery (RFC 4861) and
//! multicast listener reports (RFC 3810), without which IPv6 is dead; what is declared. The rest is counted and
//! dropped. ARP is no part of it.
//!
//! | module | what it does |
//! | --- | --- |
//! | `rules` | the rules, as data |
//! | `nftables` | the same as a table of nftables, family `inet` |
//! | `x_tables` | the same as filter tables of IPv4 and IPv6, for kernels without that family |

mod nftables;
mod rules;
mod x_tables;

use std::fmt;

use decnet_plan::compose::Egress;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What the name of the rules is written behind, where a kernel has room for names only.
const MARK: &str = "rules-";

/// Which of the kernel's packet filters closes namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The table `inet decnet`.
    Nftables,
    /// The table `filter`, of IPv4 and of IPv6, which is the agent's alone in these namespaces. It is what
    /// `iptables-legacy` shows.
    XTables,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::XTables => "x_tables",
        })
    }
}

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

    /// The counter of that name; None for a name that is not ours.
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

/// Closes the namespace that the calling thread stands in. Whatever rules of ours are there go.
pub(crate) fn close(way: Way, egress: &Egress, rules: &str) -> Result<(), Errno> {
    match way {
        Way::Nftables => nftables::close(egress, rules),
        Way::XTables => x_tables::close(egress, rules),
    }
}

/// The name of the rules that the namespace of the calling thread is closed with, in whatever way; None when it is open.
pub(crate) fn rules() -> Result<Option<String>, Errno> {
    match nftables::rules() {
        Ok(None) | Err(_) if x_tables::are_there() => x_tables::rules(),
        rules => rules,
    }
}

/// What the rules of the namespace of the calling thread have counted; None when it is open.
pub(crate) fn counters() -> Result<Option<EgressCounters>, Errno> {
    match nftables::counters() {
        Ok(None) | Err(_) if x_tables::are_there() => x_tables::counters(),
        counters => counters,
    }
}
