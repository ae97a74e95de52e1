//! Networks, how a container is attached to them, and volumes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use decnet_wire::bundle::{NetworkDriver, NetworkMode as LinkMode};
use decnet_wire::ids::MacAddress;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::is_default;

/// A network as the engine is to have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// As the engine calls it: `bridge`, `macvlan`, …
    #[serde(skip_serializing_if = "is_default")]
    pub driver: String,
    /// The driver's options, such as `parent` and `macvlan_mode`.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub ipam: Ipam,
    #[serde(skip_serializing_if = "is_default")]
    pub internal: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub attachable: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub enable_ipv6: bool,
    /// None for the engine's default, which is yes. From API 1.48 on.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_ipv4: Option<bool>,
    /// All labels, [`crate::labels::HASH`] among them.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// The host interface that a macvlan or ipvlan network sits on.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.driver_opts.get("parent").map(String::as_str)
    }

    /// The driver, where it is one that bundles may ask for.
    #[must_use]
    pub fn known_driver(&self) -> Option<NetworkDriver> {
        [
            NetworkDriver::Macvlan,
            NetworkDriver::Ipvlan,
            NetworkDriver::Bridge,
        ]
        .into_iter()
        .find(|driver| driver.as_str() == self.driver)
    }

    /// How a macvlan or ipvlan network passes frames on: what its options say, or the driver's usual mode.
    #[must_use]
    pub fn link_mode(&self) -> Option<LinkMode> {
        let driver = self.known_driver()?;
        let key = match driver {
            NetworkDriver::Macvlan => "macvlan_mode",
            NetworkDriver::Ipvlan => "ipvlan_mode",
            NetworkDriver::Bridge => return None,
        };
        let said = self.driver_opts.get(key).and_then(|mode| mode.parse().ok());
        said.filter(|mode: &LinkMode| mode.driver() == driver)
            .or_else(|| LinkMode::usual(driver))
    }

    /// Whether the LAN reaches the subnet by a route and not by asking for its addresses.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        matches!(self.link_mode(), Some(LinkMode::L3 | LinkMode::L3s))
    }

    /// The subnets that are asked for; the engine chooses where there are none.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.ipam.pools.iter().filter_map(|pool| pool.subnet)
    }
}

/// Where a network's addresses come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ipam {
    /// None for the engine's own.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub pools: Vec<Pool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    #[serde(skip_serializing_if = "is_default")]
    pub subnet: Option<IpNet>,
    /// The part of the subnet that the engine gives addresses from.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_range: Option<IpNet>,
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: Option<IpAddr>,
    /// Addresses that the engine leaves alone, by a name of the author's choice.
    #[serde(skip_serializing_if = "is_default")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// A named volume as the engine is to have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// None for `local`.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    /// All labels, [`crate::labels::HASH`] among them.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkMode {
    /// No interface but loopback.
    #[default]
    None,
    /// The host's own network.
    Host,
    /// The engine's default bridge, `docker0`.
    Bridge,
    /// Shares the network namespace of our container of that name.
    Container { name: String },
    /// Shares the network namespace of a container that is none of ours, by name or id.
    Foreign { name: String },
    /// Joins networks; the first is the one that the engine attaches at creation.
    Networks { endpoints: Vec<Endpoint> },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// The network's name on the engine.
    pub network: String,
    #[serde(skip_serializing_if = "is_default")]
    pub address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "is_default")]
    pub address6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "is_default")]
    pub link_local: Vec<IpAddr>,
    #[serde(skip_serializing_if = "is_default")]
    pub mac: Option<MacAddress>,
    /// Sorted.
    pub aliases: Vec<String>,
    /// From API 1.44 on.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    /// Which network's gateway is the default route; the highest wins. From API 1.48 on.
    #[serde(skip_serializing_if = "is_default")]
    pub gw_priority: i64,
    /// The interface's name in the container. From API 1.49 on.
    #[serde(skip_serializing_if = "is_default")]
    pub interface_name: Option<String>,
}

impl Endpoint {
    /// The addresses that it is to have on the LAN.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let four = self.address.map(IpAddr::V4);
        four.into_iter().chain(self.address6.map(IpAddr::V6))
    }
}
