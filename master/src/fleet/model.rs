//! The fleet as the store keeps it (JSON). Every field parses into a type that cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use decnet_plan::compose::Destination;
use decnet_wire::bundle::NetworkMode;
use decnet_wire::ids::{DeckyName, HostId, HostName, InterfaceName, MacAddress, ServiceSlug, Timestamp};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::names::{ArchetypeSlug, DistroSlug, Hostname, NameError, OsFamilySlug};
pub use self::numbers::{DeckyCount, DeploymentLimit, Interval, Minutes, Port, Protocol, Seed};

mod names;
mod numbers;

/// The container that owns a decky's network namespace, in every Compose document. No service may have its name.
pub const BASE: &str = "base";

/// Everything the operator wants to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// The LAN of every host that has none of its own; none until the first deploy that needs one.
    #[serde(default)]
    pub lan: Option<Lan>,
    /// How often deckies that do not say otherwise change their services.
    #[serde(default)]
    pub mutate_interval: Minutes,
    /// Most deckies in the fleet.
    #[serde(default)]
    pub deployment_limit: DeploymentLimit,
    #[serde(default)]
    pub deckies: BTreeMap<DeckyName, Decky>,
    /// The services that `[custom-NAME]` sections brought.
    #[serde(default)]
    pub custom_services: BTreeMap<ServiceSlug, CustomService>,
}

impl Fleet {
    /// The deckies of one host, by name.
    pub fn deckies_on(&self, host: HostId) -> impl Iterator<Item = &Decky> {
        self.deckies.values().filter(move |decky| decky.host == host)
    }

    /// The hosts that run at least one decky.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<HostId> {
        self.deckies.values().map(|decky| decky.host).collect()
    }
}

/// A network segment that deckies have addresses on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lan {
    /// Without host bits.
    pub subnet: Ipv4Net,
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// The host interface on this LAN.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
}

/// One decoy machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decky {
    pub name: DeckyName,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub hostname: Hostname,
    pub distro: DistroSlug,
    #[serde(default)]
    pub archetype: Option<ArchetypeSlug>,
    pub os_family: OsFamilySlug,
    /// Never twice the same, never two that listen on one port.
    pub services: Vec<ServiceSlug>,
    /// What the operator set, by service. May hold services that the decky does not show at the moment.
    #[serde(default)]
    pub service_config: BTreeMap<ServiceSlug, Persona>,
    /// What the decky may call; it may always answer.
    #[serde(default)]
    pub egress: BTreeSet<Destination>,
    #[serde(default)]
    pub interval: Interval,
    /// When the services last changed; the build counts as a change.
    pub last_mutated: Timestamp,
    pub seed: Seed,
    pub host: HostId,
}

/// A service's settings, checked against the catalogue. `Debug` shows the keys only: values may be secret.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Persona(pub BTreeMap<String, Value>);

impl fmt::Debug for Persona {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A service that the operator brings as an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomService {
    /// The image reference as written; deployed only when pinned as `repository@sha256:…`.
    pub image: String,
    /// The command, word by word; empty means the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// A host that deckies may be placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSlot {
    pub id: HostId,
    pub name: HostName,
    /// None: the fleet's LAN.
    pub lan: Option<Lan>,
    /// The host's NIC takes one MAC only: use ipvlan instead of macvlan.
    pub ipvlan: bool,
    /// One of the driver's; none: its usual one.
    pub mode: Option<NetworkMode>,
    /// The interface for deckies; none: the LAN's.
    pub interface: Option<InterfaceName>,
    /// The host's own addresses, which no decky may have.
    pub addresses: Vec<Ipv4Addr>,
}
