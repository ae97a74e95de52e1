//! The objects an agent shows: system, interfaces, addresses, SNMP and host resources groups
//! (RFC 1213, RFC 2863, RFC 2790).

use std::collections::BTreeMap;

use rasn::types::{Integer, ObjectIdentifier, OctetString};
use rasn_smi::v1::{Counter, Gauge, IpAddress, TimeTicks};
use rasn_smi::v2::SimpleSyntax;
use rasn_snmp::v2::ObjectSyntax;

use super::machine::{Interface, Machine};

/// An object identifier as its numbers, in the order of a walk.
pub(super) type Oid = Vec<u32>;

const MIB_2: &[u32] = &[1, 3, 6, 1, 2, 1];
/// Interface numbers begin at 1; the Ethernet interface is the second.
const ETHERNET: u32 = 2;

/// All objects as they are now.
pub(super) fn objects(machine: &Machine) -> BTreeMap<Oid, ObjectSyntax> {
    let mut objects = BTreeMap::new();
    let mut add = |tail: &[u32], value: ObjectSyntax| {
        objects.insert([MIB_2, tail].concat(), value);
    };
    let seconds = machine.uptime().as_secs();
    let hundredths = ticks(machine.uptime().as_millis() / 10);

    add(&[1, 1, 0], text(&machine.description));
    add(&[1, 2, 0], identifier(machine.object_id).into());
    add(&[1, 3, 0], hundredths.clone());
    add(&[1, 4, 0], text(&machine.contact));
    add(&[1, 5, 0], text(&machine.name));
    add(&[1, 6, 0], text(&machine.location));
    add(&[1, 7, 0], integer(machine.services));

    add(
        &[2, 1, 0],
        integer(u32::try_from(machine.interfaces.len()).unwrap_or(0)),
    );
    for (index, interface) in (1..).zip(&machine.interfaces) {
        for (column, value) in columns(index, interface, seconds) {
            add(&[2, 2, 1, column, index], value);
        }
    }

    add(&[4, 1, 0], integer(2));
    add(&[4, 2, 0], integer(machine.ttl));
    if let Some(own) = machine.address {
        let [a, b, c, d] = own.address.octets().map(u32::from);
        let address = |octets: [u8; 4]| ObjectSyntax::from(IpAddress(octets.into()));
        add(&[4, 20, 1, 1, a, b, c, d], address(own.address.octets()));
        add(&[4, 20, 1, 2, a, b, c, d], integer(ETHERNET));
        add(&[4, 20, 1, 3, a, b, c, d], address(own.mask.octets()));
        add(&[4, 20, 1, 4, a, b, c, d], integer(1));
    }

    // snmpInPkts, snmpOutPkts, snmpInBadVersions, snmpInBadCommunityNames.
    add(&[11, 1, 0], counter(machine.requests).into());
    add(&[11, 2, 0], counter(machine.requests.saturating_sub(1)).into());
    add(&[11, 3, 0], counter(0).into());
    add(&[11, 4, 0], counter(0).into());

    add(&[25, 1, 1, 0], hundredths);
    add(&[25, 1, 5, 0], ObjectSyntax::from(Gauge(0)));
    add(&[25, 1, 6, 0], ObjectSyntax::from(Gauge(machine.processes)));
    add(&[25, 2, 2, 0], integer(machine.memory_kib));
    objects
}

/// A row of the interface table (RFC 2863, `ifEntry`).
fn columns(index: u32, interface: &Interface, seconds: u64) -> Vec<(u32, ObjectSyntax)> {
    // Counters of 32 bits wrap, here as on any busy interface.
    let wrapped = |number: u64| counter((number & u64::from(u32::MAX)) as u32);
    let [received, sent] = interface.rates.map(|rate| rate.saturating_mul(seconds));
    let mac = interface.mac.map_or_else(Vec::new, |mac| mac.to_vec());
    vec![
        (1, integer(index)),
        (2, text(&interface.name)),
        (3, integer(interface.kind)),
        (4, integer(interface.mtu)),
        (5, ObjectSyntax::from(Gauge(interface.speed))),
        (6, ObjectSyntax::from(OctetString::from(mac))),
        (7, integer(1)),
        (8, integer(1)),
        (9, ticks(0)),
        (10, wrapped(received).into()),
        (11, wrapped(received / 310).into()),
        (13, counter(0).into()),
        (14, counter(0).into()),
        (16, wrapped(sent).into()),
        (17, wrapped(sent / 290).into()),
        (19, counter(0).into()),
        (20, counter(0).into()),
    ]
}

/// Whether an object lies beside the one asked for: the same but for the instance.
pub(super) fn has_instances(objects: &BTreeMap<Oid, ObjectSyntax>, asked: &Oid) -> bool {
    let Some((_, object)) = asked.split_last() else {
        return false;
    };
    object.len() > MIB_2.len() + 1
        && objects
            .range(object.to_vec()..)
            .next()
            .is_some_and(|(oid, _)| oid.starts_with(object))
}

pub(super) fn numbers(oid: &ObjectIdentifier) -> Oid {
    AsRef::<[u32]>::as_ref(oid).to_vec()
}

/// The identifier for numbers that came from a parsed identifier or from this program.
pub(super) fn identifier(numbers: &[u32]) -> ObjectIdentifier {
    ObjectIdentifier::new_unchecked(numbers.to_vec().into())
}

pub(super) fn counter(number: u32) -> Counter {
    Counter(number)
}

/// A value as text, for the log.
pub(super) fn shown(value: &ObjectSyntax) -> String {
    match value {
        ObjectSyntax::Simple(SimpleSyntax::String(text)) => String::from_utf8_lossy(text).into_owned(),
        ObjectSyntax::Simple(SimpleSyntax::Integer(number)) => number.to_string(),
        ObjectSyntax::Simple(SimpleSyntax::ObjectId(oid)) => oid.to_string(),
        ObjectSyntax::ApplicationWide(value) => format!("{value:?}"),
    }
}

fn text(text: &str) -> ObjectSyntax {
    ObjectSyntax::from(OctetString::from(text.as_bytes().to_vec()))
}

fn integer(number: u32) -> ObjectSyntax {
    ObjectSyntax::from(Integer::from(number))
}

fn ticks(hundredths: u128) -> ObjectSyntax {
    // TimeTicks wrap after 497 days (RFC 2578 §7.1.8).
    ObjectSyntax::from(TimeTicks((hundredths & u128::from(u32::MAX)) as u32))
}
