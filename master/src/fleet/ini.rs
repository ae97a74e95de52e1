//! The one parser of fleet INI files: text in, a typed document or every fault out.
//!
//! | module | what it does |
//! | --- | --- |
//! | `lines` | text to sections of keys and values, with line numbers |
//! | `document` | sections to a [`Document`]: kinds, inheritance, amounts |
//! | `known` | what a text may name |
//! | `section` | the keys of `[general]`, decky and custom sections |
//! | `error` | [`IniError`] and its classes |

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_plan::compose::Destination;
use decnet_wire::ids::{DeckyName, InterfaceName, ServiceSlug};
use ipnet::Ipv4Net;

pub use self::error::{IniClass, IniError, MAX_ERRORS, status};
use super::catalogue::Catalogue;
use super::model::{ArchetypeSlug, CustomService, DistroSlug, Minutes, OsFamilySlug, Persona};

pub(in crate::fleet) use self::error::{Faults, shown};
pub(in crate::fleet) use self::known::Known;
pub(in crate::fleet) use self::section::is_host;

mod document;
mod error;
mod known;
mod lines;
mod section;

/// Most characters of a fleet INI.
pub const MAX_CHARACTERS: usize = 512 * 1024;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    /// From 1; 0 for what was not read from a text.
    pub line: usize,
    pub section: String,
    /// As written, such as `nmap-os`.
    pub key: String,
}

/// A fleet INI that follows every rule which can be checked without knowing the fleet; or what was generated in
/// the place of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    pub general: General,
    /// In file order, amounts expanded. May be empty.
    pub deckies: Vec<DeckySpec>,
    pub custom_services: BTreeMap<ServiceSlug, At<CustomService>>,
    pub warnings: Vec<Warning>,
    /// None for a text.
    pub generated: Option<Generated>,
}

/// What a generated document says of all its deckies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// The deckies get the free addresses from here on, and not those that they had.
    pub ip_start: Option<Ipv4Addr>,
    /// The deckies', and the fleet's when they are the whole fleet.
    pub mutate_interval: Minutes,
}

/// `[general]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct General {
    /// Without host bits.
    pub net: Option<At<Ipv4Net>>,
    pub gw: Option<At<Ipv4Addr>>,
    pub interface: Option<At<InterfaceName>>,
}

/// One decky as the file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeckySpec {
    pub name: DeckyName,
    /// The section that it comes from, and its line.
    pub section: String,
    /// From 1; 0 for a generated decky.
    pub line: usize,
    pub ip: Option<At<Ipv4Addr>>,
    /// Not empty, no repeats, no two on one port.
    pub services: Option<At<Vec<ServiceSlug>>>,
    pub archetype: Option<At<ArchetypeSlug>>,
    pub os_family: Option<OsFamilySlug>,
    pub interval: Option<Minutes>,
    /// What the decky may call.
    pub egress: BTreeSet<Destination>,
    /// None: by turns.
    pub distro: Option<DistroSlug>,
    pub personas: BTreeMap<ServiceSlug, At<Persona>>,
}

/// Something that was left out and that the operator may have meant otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    pub line: usize,
    pub section: String,
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: [{}] {}", self.line, self.section, self.message)
    }
}

/// Reads a fleet INI for a fleet without custom services of its own.
///
/// # Errors
///
/// As [`parse_with`].
pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Document, Vec<IniError>> {
    parse_with(text, catalogue, &BTreeMap::new())
}

/// Reads a fleet INI. `known` are the custom services that the fleet already has; the text may use them.
///
/// # Errors
///
/// Every fault found, in line order; at most [`MAX_ERRORS`], then one entry that counts the rest.
pub fn parse_with(
    text: &str,
    catalogue: &Catalogue,
    known: &BTreeMap<ServiceSlug, CustomService>,
) -> Result<Document, Vec<IniError>> {
    document::parse(text, catalogue, known)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod generated;
