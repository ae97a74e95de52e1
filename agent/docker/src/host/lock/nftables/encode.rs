//! nf_tables messages (linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h): what these rules need of them.
//!
//! Numbers in attributes are big-endian; values that packets are compared with are as they stand in the packet, and
//! values of the kernel's own, such as a connection's state, as the machine has them.

use ipnet::IpNet;

use crate::host::netlink::{ACK, APPEND, CREATE, DUMP, HEADER, REQUEST};

/// `NFNL_SUBSYS_NFTABLES`, `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFT_MSG_…`.
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const GET_CHAIN: u16 = (SUBSYSTEM << 8) | 4;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const NEW_OBJECT: u16 = (SUBSYSTEM << 8) | 18;
const GET_OBJECT: u16 = (SUBSYSTEM << 8) | 19;

/// `NFPROTO_UNSPEC`, `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const ANY: u8 = 0;
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// `NLA_F_NESTED`; the two upper bits of an attribute's type are flags.
const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;
/// `struct nfgenmsg`: family, version, resource.
const GENERIC: usize = 4;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const OBJECT_TABLE: u16 = 1;
pub(super) const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// `NFTA_COUNTER_PACKETS`.
const COUNTER_PACKETS: u16 = 2;

/// `NFT_REG_1`: sixteen bytes, room for an IPv6 address.
const REGISTER: u32 = 1;

/// `NFT_CMP_EQ`, `NFT_CMP_NEQ`, `NFT_CMP_LTE`, `NFT_CMP_GTE`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

/// Where a chain hooks in (`NF_INET_FORWARD`, `NF_INET_LOCAL_OUT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Forward,
    Output,
}

impl Hook {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Forward => 2,
            Self::Output => 3,
        }
    }
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: String,
    /// None for a chain that nothing passes.
    pub(super) hook: Option<Hook>,
}

/// One transaction. Its messages are numbered from one.
#[derive(Debug)]
pub(super) struct Batch {
    table: &'static str,
    bytes: Vec<u8>,
    number: u32,
}

impl Batch {
    pub(super) fn new(table: &'static str) -> Self {
        let mut batch = Self {
            table,
            bytes: Vec::new(),
            number: 0,
        };
        batch.push(BATCH_BEGIN, 0, ANY, SUBSYSTEM, &[]);
        batch
    }

    /// The request, and the number of the message whose acknowledgement ends it.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        // Everything before has only errors to tell; the table is acknowledged once more when all of it holds.
        let table = text(1, self.table);
        self.push(NEW_TABLE, CREATE | ACK, INET, 0, &table);
        let last = self.number;
        self.push(BATCH_END, 0, ANY, SUBSYSTEM, &[]);
        (self.bytes, last)
    }

    pub(super) fn table(&mut self) {
        let name = text(1, self.table);
        self.push(NEW_TABLE, CREATE, INET, 0, &name);
    }

    pub(super) fn remove_table(&mut self) {
        let name = text(1, self.table);
        self.push(DELETE_TABLE, 0, INET, 0, &name);
    }

    pub(super) fn counter(&mut self, name: &str) {
        let mut body = text(OBJECT_TABLE, self.table);
        body.extend(text(OBJECT_NAME, name));
        body.extend(number(OBJECT_TYPE, COUNTER));
        body.extend(nested(OBJECT_DATA, &[]));
        self.push(NEW_OBJECT, CREATE, INET, 0, &body);
    }

    pub(super) fn chain(&mut self, chain: &Chain) {
        let mut body = text(CHAIN_TABLE, self.table);
        body.extend(text(CHAIN_NAME, &chain.name));
        if let Some(hook) = chain.hook {
            // Its number and the priority of filters, zero.
            let place = [number(1, hook.number()), number(2, 0)].concat();
            body.extend(nested(4, &place));
            // What no rule decides is dropped (`NF_DROP`).
            body.extend(number(5, 0));
            body.extend(text(7, "filter"));
        }
        self.push(NEW_CHAIN, CREATE, INET, 0, &body);
    }

    pub(super) fn rule(&mut self, chain: &str, rule: &Rule) {
        let mut body = text(1, self.table);
        body.extend(text(2, chain));
        let expressions: Vec<u8> = rule
            .0
            .iter()
            .flat_map(|expression| nested(1, expression))
            .collect();
        body.extend(nested(4, &expressions));
        self.push(NEW_RULE, CREATE | APPEND, INET, 0, &body);
    }

    fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.number += 1;
        message(
            &mut self.bytes,
            kind,
            REQUEST | flags,
            self.number,
            family,
            resource,
            body,
        );
    }
}

/// Asks for all chains of the namespace.
pub(super) fn list_chains() -> (Vec<u8>, u32) {
    list(GET_CHAIN)
}

/// Asks for all counters and other named objects of the namespace.
pub(super) fn list_objects() -> (Vec<u8>, u32) {
    list(GET_OBJECT)
}

fn list(kind: u16) -> (Vec<u8>, u32) {
    let mut request = Vec::new();
    message(&mut request, kind, REQUEST | DUMP, 1, INET, 0, &[]);
    (request, 1)
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, body: &[u8]) {
    let length = u32::try_from(HEADER + GENERIC + body.len()).unwrap_or(u32::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// What a packet must be, and what becomes of it: a list of expressions, each encoded.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule(Vec<Vec<u8>>);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Of a connection that the other side has opened, or an error about one (`NF_CT_STATE_BIT` of
    /// `IP_CT_ESTABLISHED` and `IP_CT_RELATED`).
    pub(super) fn established(self) -> Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = (1 << 1) | (1 << 2);
        let load = [number(1, REGISTER), number(2, STATE)].concat();
        self.with("ct", &load)
            .masked(&ESTABLISHED_OR_RELATED.to_ne_bytes())
            .compare(UNEQUAL, &[0; 4])
    }

    /// Leaves by the loopback interface, which has the index 1 in every namespace (`LOOPBACK_IFINDEX`).
    pub(super) fn loopback(self) -> Self {
        const OUT: u32 = 5;
        self.meta(OUT).compare(EQUAL, &1_u32.to_ne_bytes())
    }

    pub(super) fn protocol(self, number: u8) -> Self {
        const PROTOCOL: u32 = 16;
        self.meta(PROTOCOL).compare(EQUAL, &[number])
    }

    /// The reset flag is set (RFC 9293, section 3.1).
    pub(super) fn tcp_reset(self) -> Self {
        const RESET: u8 = 0x04;
        self.transport(13, 1).masked(&[RESET]).compare(UNEQUAL, &[0])
    }

    pub(super) fn icmp_type(self, kind: u8) -> Self {
        self.transport(0, 1).compare(EQUAL, &[kind])
    }

    /// Goes to a port of this range (TCP and UDP have it at the same place).
    pub(super) fn ports(self, first: u16, last: u16) -> Self {
        let rule = self.transport(2, 2);
        if first == last {
            rule.compare(EQUAL, &first.to_be_bytes())
        } else {
            rule.compare(AT_LEAST, &first.to_be_bytes())
                .compare(AT_MOST, &last.to_be_bytes())
        }
    }

    /// Goes to an address of this network (RFC 791, section 3.1; RFC 8200, section 3).
    pub(super) fn to(self, net: &IpNet) -> Self {
        const FAMILY: u32 = 15;
        const NETWORK: u32 = 1;
        let (family, offset, address, mask) = match net {
            IpNet::V4(net) => (
                IPV4,
                16,
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
            IpNet::V6(net) => (
                IPV6,
                24,
                net.network().octets().to_vec(),
                net.netmask().octets().to_vec(),
            ),
        };
        self.meta(FAMILY)
            .compare(EQUAL, &[family])
            .payload(NETWORK, offset, address.len())
            .masked(&mask)
            .compare(EQUAL, &address)
    }

    pub(super) fn count(self, counter: &str) -> Self {
        let body = [number(1, COUNTER), text(2, counter)].concat();
        self.with("objref", &body)
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(1)
    }

    pub(super) fn drop(self) -> Self {
        self.verdict(0)
    }

    fn verdict(self, code: u32) -> Self {
        // Into the verdict's own register, zero.
        let verdict = nested(2, &number(1, code));
        let body = [number(1, 0), nested(2, &verdict)].concat();
        self.with("immediate", &body)
    }

    fn meta(self, key: u32) -> Self {
        let body = [number(1, REGISTER), number(2, key)].concat();
        self.with("meta", &body)
    }

    fn transport(self, offset: u32, length: usize) -> Self {
        const TRANSPORT: u32 = 2;
        self.payload(TRANSPORT, offset, length)
    }

    fn payload(self, base: u32, offset: u32, length: usize) -> Self {
        let body = [
            number(1, REGISTER),
            number(2, base),
            number(3, offset),
            number(4, u32::try_from(length).unwrap_or(u32::MAX)),
        ]
        .concat();
        self.with("payload", &body)
    }

    fn masked(self, mask: &[u8]) -> Self {
        let body = [
            number(1, REGISTER),
            number(2, REGISTER),
            number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX)),
            nested(4, &attribute(1, mask)),
            nested(5, &attribute(1, &vec![0; mask.len()])),
        ]
        .concat();
        self.with("bitwise", &body)
    }

    fn compare(self, how: u32, with: &[u8]) -> Self {
        let body = [
            number(1, REGISTER),
            number(2, how),
            nested(3, &attribute(1, with)),
        ]
        .concat();
        self.with("cmp", &body)
    }

    fn with(mut self, name: &str, data: &[u8]) -> Self {
        self.0.push([text(1, name), nested(2, data)].concat());
        self
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// With its NUL.
pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// The attributes of a message or of a nested attribute; stops at what is cut or lies about its length.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The table and the name that a message is about.
pub(super) fn named(body: &[u8], table: u16, name: u16) -> Option<(String, String)> {
    let find = |wanted: u16| {
        let (_, value) = attributes(body.get(GENERIC..)?).find(|(kind, _)| *kind == wanted)?;
        let text = value.strip_suffix(&[0]).unwrap_or(value);
        Some(String::from_utf8_lossy(text).into_owned())
    };
    Some((find(table)?, find(name)?))
}

/// How many packets a counter has counted; None for another kind of object.
pub(super) fn packets(body: &[u8]) -> Option<u64> {
    let find = |bytes, wanted: u16| {
        attributes(bytes)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let attributes = body.get(GENERIC..)?;
    if find(attributes, OBJECT_TYPE)? != COUNTER.to_be_bytes() {
        return None;
    }
    let packets = find(find(attributes, OBJECT_DATA)?, COUNTER_PACKETS)?;
    Some(u64::from_be_bytes(packets.try_into().ok()?))
}
