//! The keys of `[general]`, decky and `[custom-NAME]` sections.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;

use decnet_plan::compose::{Destination, Egress};
use decnet_wire::ids::ServiceSlug;
use ipnet::Ipv4Net;

use super::error::{Faults, IniClass, IniError, shown};
use super::known::Known;
use super::lines::{Entry, Section, spelling};
use super::{At, General};
use crate::fleet::model::{ArchetypeSlug, CustomService, Minutes, OsFamilySlug, Port};

/// Most deckies of one section.
pub(super) const MAX_AMOUNT: usize = 100;
/// The keys of a decky section, and of `[DEFAULT]`.
const DECKY_KEYS: [&str; 7] = [
    "ip",
    "services",
    "archetype",
    "nmap_os",
    "egress",
    "mutate_interval",
    "amount",
];

/// An entry and the section that it is written in, which for an inherited one is `[DEFAULT]`.
pub(super) struct Place<'a> {
    pub(super) section: &'a str,
    pub(super) entry: &'a Entry,
}

impl Place<'_> {
    fn fault(&self, class: IniClass, message: impl Into<String>) -> IniError {
        IniError::new(class, message)
            .line(self.entry.line)
            .section(self.section)
            .key(&self.entry.key)
    }

    fn at<T>(&self, value: T) -> At<T> {
        let (section, key) = (self.section.to_owned(), self.entry.key.clone());
        At {
            value,
            line: self.entry.line,
            section,
            key,
        }
    }
}

/// The keys of a decky section before its amount is applied.
#[derive(Debug, Default)]
pub(super) struct DeckyKeys {
    pub(super) ip: Option<At<Ipv4Addr>>,
    pub(super) services: Option<At<Vec<ServiceSlug>>>,
    pub(super) archetype: Option<At<ArchetypeSlug>>,
    pub(super) os_family: Option<OsFamilySlug>,
    pub(super) egress: BTreeSet<Destination>,
    pub(super) interval: Option<Minutes>,
    /// None when it is wrong.
    pub(super) amount: Option<usize>,
}

pub(super) fn general(section: &Section, faults: &mut Faults) -> General {
    let mut general = General::default();
    for entry in &section.entries {
        let place = Place {
            section: &section.name,
            entry,
        };
        match entry.key.as_str() {
            "net" => match entry.value.parse::<Ipv4Net>() {
                Ok(net) if (8..=30).contains(&net.prefix_len()) && is_unicast(net.network()) => {
                    general.net = Some(place.at(net.trunc()));
                }
                Ok(_) => faults.push(place.fault(
                    IniClass::Address,
                    "must be a unicast network of /8 to /30, so that it has room for deckies",
                )),
                Err(_) => faults.push(malformed(&place, "an IPv4 network such as 192.168.1.0/24")),
            },
            "gw" => match entry.value.parse() {
                Ok(address) => general.gw = Some(place.at(address)),
                Err(_) => faults.push(malformed(&place, "an IPv4 address such as 192.168.1.1")),
            },
            "interface" => match parsed(&place, IniClass::Network) {
                Ok(interface) => general.interface = Some(place.at(interface)),
                Err(error) => faults.push(error),
            },
            _ => {
                let mut message =
                    "is not a key of [general], which has net, gw and interface; remove it".to_owned();
                if DECKY_KEYS.contains(&spelling(&entry.key).as_str()) {
                    message.push_str(", or move it to [DEFAULT] for all deckies");
                }
                faults.push(place.fault(IniClass::UnknownKey, message));
            }
        }
    }
    if let (Some(net), Some(gw)) = (&general.net, &general.gw)
        && !is_host(&net.value, gw.value)
    {
        let message = format!(
            "{} is not a host address of {}; correct net or gw",
            gw.value, net.value
        );
        faults.push(IniError::new(IniClass::Address, message).at(gw));
    }
    general
}

/// Whether `address` can belong to a machine on `net`: inside, and neither its network nor broadcast address.
pub(in crate::fleet) fn is_host(net: &Ipv4Net, address: Ipv4Addr) -> bool {
    net.contains(&address) && address != net.network() && address != net.broadcast()
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.is_multicast()
        || address.is_loopback()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240)
}

fn malformed(place: &Place<'_>, expected: &str) -> IniError {
    let value = shown(&place.entry.value);
    let mut message = format!("`{value}` is not {expected}");
    if place.entry.value.contains(['#', ';']) {
        message.push_str("; comments need a line of their own");
    }
    place.fault(IniClass::Address, message)
}

fn parsed<T: FromStr<Err: Display>>(place: &Place<'_>, class: IniClass) -> Result<T, IniError> {
    place
        .entry
        .value
        .parse()
        .map_err(|error: T::Err| place.fault(class, error.to_string()))
}

/// Reports keys that no decky section has.
pub(super) fn unknown_decky_keys(section: &Section, faults: &mut Faults) {
    for entry in &section.entries {
        if !DECKY_KEYS.contains(&spelling(&entry.key).as_str()) {
            let place = Place {
                section: &section.name,
                entry,
            };
            let message = "is not a key of a decky, which has ip, services, archetype, nmap_os, egress, mutate_interval and amount; \
                           remove it, or move a service's setting to [name.service]";
            faults.push(place.fault(IniClass::UnknownKey, message));
        }
    }
}

/// Reads a decky section, with what it inherits.
pub(super) fn decky(
    section: &Section,
    default: Option<&Section>,
    known: &Known<'_>,
    faults: &mut Faults,
) -> DeckyKeys {
    let find = |key: &str| {
        let within = |section| entry_of(section, key);
        within(section).or_else(|| default.and_then(within))
    };
    // An empty value counts as absent, so that a section can take back what it inherits.
    let filled = |key: &str| find(key).filter(|place| !place.entry.value.is_empty());
    let mut keys = DeckyKeys {
        amount: Some(1),
        ..DeckyKeys::default()
    };
    if let Some(place) = filled("ip") {
        match place.entry.value.parse() {
            Ok(address) => keys.ip = Some(place.at(address)),
            Err(_) => faults.push(malformed(&place, "an IPv4 address such as 192.168.1.20")),
        }
    }
    if let Some(place) = filled("archetype") {
        let slug = named(
            &place,
            IniClass::Archetype,
            known.archetype(&place.entry.value),
            faults,
        );
        keys.archetype = slug.map(|slug| place.at(slug));
    }
    match filled("services") {
        Some(place) => keys.services = service_list(&place, known, faults),
        None => {
            if let Some(at) = &keys.archetype {
                archetype_services(at, known, faults);
            }
        }
    }
    if let Some(place) = filled("nmap_os") {
        keys.os_family = named(
            &place,
            IniClass::OsFamily,
            known.os_family(&place.entry.value),
            faults,
        );
    }
    if let Some(place) = filled("egress") {
        keys.egress = destinations(&place, faults);
    }
    if let Some(place) = filled("mutate_interval") {
        match interval(&place) {
            Ok(minutes) => keys.interval = Some(minutes),
            Err(error) => faults.push(error),
        }
    }
    if let Some(place) = find("amount") {
        match amount(&place) {
            Ok(amount) => keys.amount = Some(amount),
            Err(error) => {
                faults.push(error);
                keys.amount = None;
            }
        }
    }
    if let (Some(ip), Some(2..)) = (&keys.ip, keys.amount) {
        let message = "one address cannot go to several deckies; remove ip, or set amount = 1";
        faults.push(IniError::new(IniClass::IpAmount, message).at(ip));
    }
    keys
}

fn entry_of<'a>(section: &'a Section, key: &str) -> Option<Place<'a>> {
    let entry = section.entries.iter().find(|entry| spelling(&entry.key) == key)?;
    Some(Place {
        section: &section.name,
        entry,
    })
}

fn named<T>(place: &Place<'_>, class: IniClass, read: Result<T, String>, faults: &mut Faults) -> Option<T> {
    read.map_err(|message| faults.push(place.fault(class, message)))
        .ok()
}

fn archetype_services(at: &At<ArchetypeSlug>, known: &Known<'_>, faults: &mut Faults) {
    for message in known.lacking(&at.value) {
        faults.push(IniError::new(IniClass::Service, message).at(at));
    }
}

fn service_list(place: &Place<'_>, known: &Known<'_>, faults: &mut Faults) -> Option<At<Vec<ServiceSlug>>> {
    match known.services(place.entry.value.split(',')) {
        Ok(list) => Some(place.at(list)),
        Err(messages) => {
            for message in messages {
                faults.push(place.fault(IniClass::Service, message));
            }
            None
        }
    }
}

/// What a decky may call, in the words of the Compose extension.
fn destinations(place: &Place<'_>, faults: &mut Faults) -> BTreeSet<Destination> {
    let mut all = BTreeSet::new();
    for item in place.entry.value.split(',').map(str::trim) {
        match item.parse() {
            Ok(destination) => drop(all.insert(destination)),
            Err(rule) => {
                let message = format!("`{}` {rule}", shown(item));
                faults.push(place.fault(IniClass::Egress, message));
            }
        }
    }
    if all.len() > Egress::MOST {
        let message = format!(
            "names more than {} destinations; name networks instead",
            Egress::MOST
        );
        faults.push(place.fault(IniClass::Egress, message));
    }
    all
}

/// The digits of a whole number without sign; None when it is none.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn is_negative(text: &str) -> bool {
    text.strip_prefix('-')
        .is_some_and(|digits| whole(digits).is_some())
}

fn interval(place: &Place<'_>) -> Result<Minutes, IniError> {
    let text = place.entry.value.as_str();
    if whole(text).is_none() && !is_negative(text) {
        let message = format!(
            "`{}` is not a whole number; give minutes without a unit, such as 60",
            shown(text)
        );
        return Err(place.fault(IniClass::IntervalType, message));
    }
    let minutes = whole(text).and_then(|minutes| u32::try_from(minutes).ok());
    minutes
        .and_then(|minutes| Minutes::try_from(minutes).ok())
        .ok_or_else(|| {
            place.fault(
                IniClass::IntervalRange,
                format!("must be 1 to {} minutes", Minutes::MAX),
            )
        })
}

fn amount(place: &Place<'_>) -> Result<usize, IniError> {
    match whole(&place.entry.value) {
        None | Some(0) => {
            let message = format!("must be a whole number, 1 to {MAX_AMOUNT}; remove the line for one decky");
            Err(place.fault(IniClass::Amount, message))
        }
        Some(amount) => usize::try_from(amount)
            .ok()
            .filter(|amount| *amount <= MAX_AMOUNT)
            .ok_or_else(|| {
                let message = format!("must be at most {MAX_AMOUNT}; use several sections for more");
                place.fault(IniClass::AmountLimit, message)
            }),
    }
}

/// Reads `[custom-NAME]`. The slug was taken from the name before.
pub(super) fn custom(section: &Section, faults: &mut Faults) -> CustomService {
    let mut service = CustomService {
        image: String::new(),
        command: Vec::new(),
        ports: Vec::new(),
    };
    for entry in &section.entries {
        let place = Place {
            section: &section.name,
            entry,
        };
        match entry.key.as_str() {
            "binary" => {
                let part = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
                if !entry.value.bytes().all(part) || entry.value.len() > 512 {
                    let message = "is not an image reference such as registry.example/relay@sha256:…";
                    faults.push(place.fault(IniClass::Custom, message));
                }
                service.image.clone_from(&entry.value);
            }
            "exec" => service.command = entry.value.split_whitespace().map(str::to_owned).collect(),
            "ports" if entry.value.is_empty() => {}
            "ports" => {
                for item in entry.value.split(',').map(str::trim) {
                    match item.parse::<Port>() {
                        Ok(port) if service.ports.contains(&port) => {
                            faults.push(
                                place.fault(IniClass::Custom, format!("{port} is listed twice; remove one")),
                            );
                        }
                        Ok(port) => service.ports.push(port),
                        Err(error) => {
                            faults.push(place.fault(IniClass::Custom, format!("`{}`: {error}", shown(item))));
                        }
                    }
                }
            }
            _ => {
                let message = "is not a key of a custom service, which has binary, exec and ports; remove it";
                faults.push(place.fault(IniClass::UnknownKey, message));
            }
        }
    }
    if service.image.is_empty() {
        faults.push(section.fault(
            IniClass::Custom,
            "has no image; add `binary = repository@sha256:…`",
        ));
    }
    service
}
