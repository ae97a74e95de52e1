//! The rules in x_tables, for kernels whose nftables lacks the family `inet`: the table `filter` of IPv4 and that of IPv6.
//!
//! Both tables are replaced whole, each at one moment, IPv6 first. A rule that counts jumps to a chain with the
//! counter's name, whose only rule decides: so that two rules share a counter, and it is found by its name. One more
//! chain is empty, and its name says which rules these are.
//!
//! A kernel without IPv6 (`ipv6.disable=1`) has nothing to close there. One that has IPv6 and not its filter table is
//! refused: half a lock would be none.

mod encode;

use decnet_plan::compose::Egress;
use decnet_xtables::{Contents, Family, Filter};
use nix::errno::Errno;

use super::rules::{COUNTERS, DROPPED_OTHER, Fate, Packet, output};
use super::{EgressCounters, MARK};
use encode::{ACCEPT, DROP, Entries, FORWARD, INPUT, OUTPUT, RETURN};

/// Where each chain that counts has its first rule.
type Places = [u32; COUNTERS.len()];

pub(super) fn close(egress: &Egress, rules: &str) -> Result<(), Errno> {
    // Both are asked for before either is changed.
    let mut filters = Vec::new();
    for family in [Family::V6, Family::V4] {
        if let Some(filter) = open(family)? {
            filter.read()?;
            filters.push((family, filter));
        }
    }
    for (family, filter) in filters {
        filter.replace(&contents(family, egress, rules))?;
    }
    Ok(())
}

/// Whether the namespace of the calling thread has a filter table: asking for one that is not there would make it, and
/// load what it is made of.
pub(super) fn are_there() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

pub(super) fn rules() -> Result<Option<String>, Errno> {
    let mut marks = Vec::new();
    for family in [Family::V4, Family::V6] {
        if let Some(filter) = open(family)? {
            marks.push(mark(family, &filter.read()?));
        }
    }
    let first = marks.first().cloned().flatten();
    // One family with other rules, or open, is all of it open.
    Ok(first.filter(|first| marks.iter().all(|mark| mark.as_ref() == Some(first))))
}

pub(super) fn counters() -> Result<Option<EgressCounters>, Errno> {
    let mut counters: Option<EgressCounters> = None;
    for family in [Family::V4, Family::V6] {
        let Some(filter) = open(family)? else { continue };
        let contents = filter.read()?;
        if mark(family, &contents).is_none() {
            continue;
        }
        let sum = counters.get_or_insert_default();
        let mut chain = None;
        for entry in encode::entries(family, &contents.entries) {
            match entry.chain() {
                Some(name) => chain = Some(name),
                // Of each chain the first rule; what follows is its policy, which nothing reaches.
                None => {
                    if let Some(counter) = chain.take().and_then(|name| sum.of(&name)) {
                        *counter += entry.packets();
                    }
                }
            }
        }
    }
    Ok(counters)
}

/// None where the kernel has no such family, so that nothing of it leaves.
fn open(family: Family) -> Result<Option<Filter>, Errno> {
    match Filter::open(family) {
        Ok(filter) => Ok(Some(filter)),
        Err(Errno::EAFNOSUPPORT) if family == Family::V6 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of the rules, unless somebody has let what no rule decides go.
fn mark(family: Family, contents: &Contents) -> Option<String> {
    let drops = |hook: usize| {
        let policy = contents.policies.get(hook).copied();
        encode::entries(family, &contents.entries)
            .any(|entry| Some(entry.offset) == policy && entry.verdict() == Some(DROP))
    };
    if !drops(OUTPUT) || !drops(FORWARD) {
        return None;
    }
    encode::entries(family, &contents.entries)
        .find_map(|entry| Some(entry.chain()?.strip_prefix(MARK)?.to_owned()))
}

fn contents(family: Family, egress: &Egress, rules: &str) -> Contents {
    // Jumps lead to later entries. What they say does not change how long these are, so that the first round, with
    // places that are made up, finds the right ones.
    let (_, places) = lay_out(family, egress, rules, &Places::default());
    lay_out(family, egress, rules, &places).0
}

fn lay_out(family: Family, egress: &Egress, rules: &str, places: &Places) -> (Contents, Places) {
    let jump = |counter: &str| {
        let place = COUNTERS
            .iter()
            .zip(places)
            .find_map(|(name, place)| (*name == counter).then_some(*place));
        // An offset of a table's entry: thousands.
        i32::try_from(place.unwrap_or_default()).unwrap_or(DROP)
    };
    let target = |fate: Fate| match fate {
        Fate::Go => ACCEPT,
        Fate::Allow(counter) | Fate::Drop(counter) => jump(counter),
    };
    let mut table = Contents::default();
    let mut entries = Entries::new(family);

    // Who is asked is not our business; whether an answer leaves is.
    let input = entries.rule(&Packet::Any, ACCEPT);
    (table.hooks[INPUT], table.policies[INPUT]) = (input, input);
    table.hooks[FORWARD] = entries.rule(&Packet::Any, target(Fate::Drop(DROPPED_OTHER)));
    table.policies[FORWARD] = entries.rule(&Packet::Any, DROP);
    let mut first = None;
    for (packet, fate) in output(egress) {
        if encode::concerns(family, &packet) {
            first.get_or_insert(entries.rule(&packet, target(fate)));
        }
    }
    table.policies[OUTPUT] = entries.rule(&Packet::Any, DROP);
    table.hooks[OUTPUT] = first.unwrap_or(table.policies[OUTPUT]);

    entries.head(&format!("{MARK}{rules}"));
    entries.rule(&Packet::Any, RETURN);
    let mut found = Places::default();
    for (name, place) in COUNTERS.iter().zip(&mut found) {
        entries.head(name);
        let allows = output(egress)
            .iter()
            .any(|(_, fate)| matches!(fate, Fate::Allow(counter) if counter == name));
        *place = entries.rule(&Packet::Any, if allows { ACCEPT } else { DROP });
        entries.rule(&Packet::Any, RETURN);
    }
    entries.end();
    (table.count, table.entries) = entries.finish();
    (table, found)
}

#[cfg(test)]
mod tests;
