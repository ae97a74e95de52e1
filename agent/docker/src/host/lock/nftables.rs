//! The rules in nftables: one table, `inet decnet`.
//!
//! Two chains hook what leaves (`output`, `forward`); a third is empty, and its name says which rules these are. All of
//! it is put in place by one transaction of the kernel: there is no moment between the old rules and the new ones.

mod encode;

use decnet_plan::compose::Egress;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::rules::{COUNTERS, DROPPED_OTHER, Fate, ICMPV6, Packet, TCP, output};
use super::{EgressCounters, MARK};
use crate::host::netlink::Netlink;
use encode::{Batch, Chain, Hook, Rule};

const TABLE: &str = "decnet";

pub(super) fn close(egress: &Egress, rules: &str) -> Result<(), Errno> {
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
    for (packet, fate) in output(egress) {
        batch.rule(Hook::Output.name(), &rule(&packet, fate));
    }
    let forwarded = rule(&Packet::Any, Fate::Drop(DROPPED_OTHER));
    batch.rule(Hook::Forward.name(), &forwarded);
    let (request, last) = batch.finish();
    Netlink::open(SockProtocol::NetlinkNetFilter)?
        .exchange(&request, last)
        .map(drop)
}

pub(super) fn rules() -> Result<Option<String>, Errno> {
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

pub(super) fn counters() -> Result<Option<EgressCounters>, Errno> {
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

fn rule(packet: &Packet, fate: Fate) -> Rule {
    let rule = Rule::new();
    let rule = match *packet {
        Packet::Answer => rule.established(),
        Packet::Reset => rule.protocol(TCP).tcp_reset(),
        Packet::Loopback => rule.loopback(),
        Packet::Link(kind) => rule.protocol(ICMPV6).icmp_type(kind),
        Packet::To { net, protocol, ports } => {
            let rule = rule.to(&net);
            let rule = match protocol {
                Some(number) => rule.protocol(number),
                None => rule,
            };
            match ports {
                Some((first, last)) => rule.ports(first, last),
                None => rule,
            }
        }
        Packet::Of(number) => rule.protocol(number),
        Packet::Any => rule,
    };
    match fate {
        Fate::Go => rule.accept(),
        Fate::Allow(counter) => rule.count(counter).accept(),
        Fate::Drop(counter) => rule.count(counter).drop(),
    }
}

#[cfg(test)]
mod tests;
