//! Entries of x_tables (linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h,
//! linux/netfilter_ipv6/ip6_tables.h): what these rules need of them.
//!
//! Numbers are as the machine has them; addresses are as they stand in a packet.

use decnet_xtables::Family;
use ipnet::IpNet;

use crate::host::lock::rules::{ICMPV6, Packet, TCP};

/// `enum nf_inet_hooks`.
pub(super) const INPUT: usize = 1;
pub(super) const FORWARD: usize = 2;
pub(super) const OUTPUT: usize = 3;

/// Verdicts of a rule (`-NF_ACCEPT - 1`, `-NF_DROP - 1`, `XT_RETURN`); one of zero or more is where to go on.
pub(super) const ACCEPT: i32 = -2;
pub(super) const DROP: i32 = -1;
pub(super) const RETURN: i32 = -5;

/// Targets: a verdict has no name; a chain begins with an error, which is called by the chain's name.
const STANDARD: &str = "";
const ERROR: &str = "ERROR";
/// `XT_EXTENSION_MAXNAMELEN`, `XT_FUNCTION_MAXNAMELEN`, with their NUL; `IFNAMSIZ`.
const EXTENSION_NAME: usize = 29;
const CHAIN_NAME: usize = 30;
const INTERFACE_NAME: usize = 16;
/// A match or target before its data: size, name, revision.
const EXTENSION: usize = 2 + EXTENSION_NAME + 1;
/// `XT_ALIGN`: that of a counter.
const ALIGN: usize = 8;

/// Sizes that differ between the families.
const fn address_bytes(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// `struct ipt_ip`, `struct ip6t_ip6`: addresses, interfaces, masks of both; then protocol and flags.
const fn packet_bytes(family: Family) -> usize {
    let (masks, rest) = (4 * address_bytes(family) + 4 * INTERFACE_NAME, 4);
    match family {
        Family::V4 => masks + rest,
        Family::V6 => (masks + rest + 1).next_multiple_of(4),
    }
}

/// Where an entry has the offset of its target, and after it that of the next entry, behind `nfcache`.
const fn offsets_at(family: Family) -> usize {
    packet_bytes(family) + 4
}

/// Where an entry has its counters: packets, then bytes, behind the offsets and `comefrom`.
const fn counters_at(family: Family) -> usize {
    (offsets_at(family) + 2 + 2 + 4).next_multiple_of(ALIGN)
}

/// `struct ipt_entry`, `struct ip6t_entry`.
const fn entry_bytes(family: Family) -> usize {
    counters_at(family) + 16
}

/// Whether such a packet exists in the family.
pub(super) fn concerns(family: Family, packet: &Packet) -> bool {
    match (packet, family) {
        (Packet::To { net, .. }, _) => matches!(
            (net, family),
            (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6)
        ),
        (Packet::Link(_), Family::V4) | (Packet::Of(ICMPV6), Family::V4) => false,
        (Packet::Of(number), Family::V6) => *number != super::super::rules::ICMP,
        _ => true,
    }
}

/// The entries of a table, one after the other.
#[derive(Debug)]
pub(super) struct Entries {
    family: Family,
    bytes: Vec<u8>,
    count: u32,
}

impl Entries {
    pub(super) const fn new(family: Family) -> Self {
        Self {
            family,
            bytes: Vec::new(),
            count: 0,
        }
    }

    /// Adds a rule; where it begins. `verdict` is one, or where to go on.
    pub(super) fn rule(&mut self, packet: &Packet, verdict: i32) -> u32 {
        let target = extension(STANDARD, 0, &verdict.to_ne_bytes());
        self.push(packet, &target)
    }

    /// Begins a chain of that name.
    pub(super) fn head(&mut self, chain: &str) {
        let mut name = chain.as_bytes().to_vec();
        name.truncate(CHAIN_NAME - 1);
        name.resize(CHAIN_NAME, 0);
        self.push(&Packet::Any, &extension(ERROR, 0, &name));
    }

    /// What every table ends with.
    pub(super) fn end(&mut self) {
        self.head(ERROR);
    }

    /// How many there are, and they.
    pub(super) fn finish(self) -> (u32, Vec<u8>) {
        (self.count, self.bytes)
    }

    fn push(&mut self, packet: &Packet, target: &[u8]) -> u32 {
        let begins = self.bytes.len();
        let matches = matches(packet);
        let target_at = entry_bytes(self.family) + matches.len();
        let mut entry = head(self.family, packet);
        entry.extend([0; 4]);
        entry.extend(half(target_at).to_ne_bytes());
        entry.extend(half(target_at + target.len()).to_ne_bytes());
        entry.resize(entry_bytes(self.family), 0);
        self.bytes.extend(entry);
        self.bytes.extend(matches);
        self.bytes.extend(target);
        self.count += 1;
        u32::try_from(begins).unwrap_or(u32::MAX)
    }
}

/// Lengths here are some hundreds.
fn half(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// What a packet's own header must be: `struct ipt_ip`, `struct ip6t_ip6`.
fn head(family: Family, packet: &Packet) -> Vec<u8> {
    const PROTOCOL_IS_SAID: u8 = 1;
    let bytes = address_bytes(family);
    let (address, mask) = match packet {
        Packet::To {
            net: IpNet::V4(net), ..
        } => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        Packet::To {
            net: IpNet::V6(net), ..
        } => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        _ => (vec![0; bytes], vec![0; bytes]),
    };
    // Compared with the NUL, so that no longer name begins with it.
    let (interface, compared): (&[u8], &[u8]) = match packet {
        Packet::Loopback => (b"lo\0", &[0xff; 3]),
        _ => (&[], &[]),
    };
    let any = vec![0; bytes];
    let mut out = [any.as_slice(), &address, &any, &mask].concat();
    for name in [&[], interface, &[], compared] {
        let ends = out.len() + INTERFACE_NAME;
        out.extend(name);
        out.resize(ends, 0);
    }
    let protocol = match packet {
        Packet::Reset => TCP,
        Packet::Link(_) => ICMPV6,
        Packet::To { protocol, .. } => protocol.unwrap_or_default(),
        Packet::Of(number) => *number,
        Packet::Answer | Packet::Loopback | Packet::Any => 0,
    };
    out.extend(u16::from(protocol).to_ne_bytes());
    if family == Family::V6 {
        // The traffic class, and which fields count.
        out.extend([0, if protocol == 0 { 0 } else { PROTOCOL_IS_SAID }]);
    }
    out.resize(packet_bytes(family), 0);
    out
}

/// What of a packet its header does not tell.
fn matches(packet: &Packet) -> Vec<u8> {
    const ALL: (u16, u16) = (0, u16::MAX);
    match *packet {
        Packet::Answer => extension("conntrack", 3, &answer()),
        Packet::Reset => extension("tcp", 0, &tcp(ALL, 0x04)),
        // The type, and its first and last code.
        Packet::Link(kind) => extension("icmp6", 0, &[kind, 0, u8::MAX, 0]),
        Packet::To {
            protocol: Some(TCP),
            ports: Some(ports),
            ..
        } => extension("tcp", 0, &tcp(ports, 0)),
        Packet::To {
            ports: Some(ports), ..
        } => extension("udp", 0, &udp(ports)),
        Packet::To { ports: None, .. } | Packet::Loopback | Packet::Of(_) | Packet::Any => Vec::new(),
    }
}

/// `struct xt_conntrack_mtinfo3` that looks at the state alone (`XT_CONNTRACK_STATE`): established or related
/// (`XT_CONNTRACK_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`).
fn answer() -> Vec<u8> {
    const STATE: u16 = 1;
    const ESTABLISHED_OR_RELATED: u16 = (1 << 1) | (1 << 2);
    // Four addresses with masks; two times of expiry; a protocol and four ports.
    let mut out = vec![0; 8 * 16 + 2 * 4 + 5 * 2];
    // What is looked at, what is negated, states, statuses.
    for number in [STATE, 0, ESTABLISHED_OR_RELATED, 0] {
        out.extend(number.to_ne_bytes());
    }
    // Four upper ends of ranges of ports.
    out.extend([0; 8]);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// `struct xt_tcp`: ports of the source and of the destination, an option, flags that are looked at, those of them that
/// are set, what is negated.
fn tcp((first, last): (u16, u16), set: u8) -> Vec<u8> {
    let mut out = ports(first, last);
    out.extend([0, set, set, 0]);
    out
}

/// `struct xt_udp`: ports of the source and of the destination, what is negated.
fn udp((first, last): (u16, u16)) -> Vec<u8> {
    let mut out = ports(first, last);
    out.extend([0, 0]);
    out
}

/// Any port of the source, these of the destination.
fn ports(first: u16, last: u16) -> Vec<u8> {
    [0, u16::MAX, first, last]
        .iter()
        .flat_map(|port| port.to_ne_bytes())
        .collect()
}

/// `struct xt_entry_match`, `struct xt_entry_target`, and the data.
fn extension(name: &str, revision: u8, data: &[u8]) -> Vec<u8> {
    let length = (EXTENSION + data.len()).next_multiple_of(ALIGN);
    let mut out = half(length).to_ne_bytes().to_vec();
    out.extend(name.as_bytes());
    out.resize(EXTENSION - 1, 0);
    out.push(revision);
    out.extend(data);
    out.resize(length, 0);
    out
}

/// One entry of a table that was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// Where it begins.
    pub(super) offset: u32,
    family: Family,
    bytes: &'a [u8],
}

/// The entries of a table; stops at what is cut or lies about its length.
pub(super) fn entries(family: Family, bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut begins = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(begins..)?;
        let length = usize::from(half_at(rest, offsets_at(family) + 2)?);
        let entry = Entry {
            offset: u32::try_from(begins).ok()?,
            family,
            bytes: rest.get(..length).filter(|_| length >= entry_bytes(family))?,
        };
        begins += length;
        Some(entry)
    })
}

impl Entry<'_> {
    /// The chain that begins here.
    pub(super) fn chain(&self) -> Option<String> {
        let target = self.target()?;
        if text(target.get(2..EXTENSION - 1)?) != ERROR {
            return None;
        }
        Some(text(target.get(EXTENSION..EXTENSION + CHAIN_NAME)?))
    }

    /// What becomes of a packet that comes so far.
    pub(super) fn verdict(&self) -> Option<i32> {
        let target = self.target()?;
        if text(target.get(2..EXTENSION - 1)?) != STANDARD {
            return None;
        }
        let verdict = target.get(EXTENSION..EXTENSION + 4)?;
        Some(i32::from_ne_bytes(verdict.try_into().ok()?))
    }

    /// How many packets it has matched.
    pub(super) fn packets(&self) -> u64 {
        let at = counters_at(self.family);
        let packets = self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        packets.map_or(0, u64::from_ne_bytes)
    }

    fn target(&self) -> Option<&[u8]> {
        let at = half_at(self.bytes, offsets_at(self.family))?;
        self.bytes.get(usize::from(at)..)
    }
}

fn half_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Up to its NUL.
fn text(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}
