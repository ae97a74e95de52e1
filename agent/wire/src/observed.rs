//! What an agent sees on its engine: its own objects, the images, the host's interfaces. No clock readings, so
//! two observations of the same state are equal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::bundle::NetworkDriver;
use crate::ids::{InterfaceName, MacAddress, StackName};

/// Everything the planner looks at besides the desired state. Lists are sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Image ids (`sha256:…`) and the references (`repo:tag`, `repo@sha256:…`) that name them.
    pub images: Vec<ObservedImage>,
    /// Networks that carry this host's label.
    pub networks: Vec<ObservedNetwork>,
    /// Containers that carry this host's label.
    pub containers: Vec<ObservedContainer>,
    /// Named volumes, whoever has made them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<ObservedVolume>,
    /// The host's network interfaces.
    pub interfaces: Vec<Interface>,
    /// Networks of others that sit on an interface of this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_networks: Vec<ForeignNetwork>,
    /// What this host's kernel and its engine were seen to lack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Feature>,
}

/// A macvlan or ipvlan network without this host's label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignNetwork {
    pub name: String,
    pub driver: NetworkDriver,
    /// The interface that it sits on.
    pub parent: InterfaceName,
}

/// What a kernel may be built without, and an engine be too old for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Links of kind macvlan.
    Macvlan,
    /// Links of kind ipvlan.
    Ipvlan,
    /// Links of kind vlan (IEEE 802.1Q), which the engine makes for a parent such as `eth0.30`.
    Vlan,
    /// What closes a namespace against calls outwards: neither nftables with connection tracking nor, in its place,
    /// x_tables.
    Nftables,
    /// Mode l3s of ipvlan networks: engines since Docker 23.0.
    IpvlanL3s,
}

impl Feature {
    /// The usual name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Nftables => "nftables",
            Self::IpvlanL3s => "ipvlan mode l3s",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedImage {
    pub id: String,
    pub references: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedNetwork {
    pub id: String,
    pub name: String,
    /// The `io.decnet.hash` label.
    pub hash: String,
    /// The names of running containers on it that do not carry this host's label, sorted. The engine lets no network go
    /// that one of them is attached to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedVolume {
    pub name: String,
    /// The `io.decnet.hash` label; none for a volume without this host's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedContainer {
    pub id: String,
    /// Without the engine's leading slash.
    pub name: String,
    /// The `io.decnet.stack` label.
    pub stack: StackName,
    /// The `io.decnet.service` label.
    pub service: String,
    /// The `io.decnet.hash` label.
    pub hash: String,
    /// The id of the image that it runs.
    pub image: String,
    pub state: ContainerState,
    /// Restarts by the engine since the container was last started by hand.
    pub restarts: u32,
    /// The id of the container whose network namespace it shares. None for a container with a namespace of its
    /// own, and for one that is left in the namespace of an earlier run of the container that it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<String>,
    /// The name of the rules that its own network namespace is closed with; none while it is open, and for a
    /// container without a namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// What is suspicious about it although it runs: one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The ids of the containers whose PID or IPC namespace or volumes it shares, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refers: Vec<String>,
    /// The `io.decnet.spec` label: the specification that it was made from. Of projects that stand alone only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// The ports that it listens on, as `25/tcp`, sorted: the `io.decnet.expose` label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Its networks, by name on the engine.
    pub attachments: Vec<Attachment>,
    /// None where the engine was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
}

/// What people may change of a container that is there (`docker update`). Units are the Engine API's; 0, or an empty
/// text, is what is not set, or what the engine has left out because its kernel cannot do it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    #[serde(skip_serializing_if = "is_default")]
    pub memory: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub memory_reservation: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swap: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub nano_cpus: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_shares: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_period: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_quota: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset: String,
    #[serde(skip_serializing_if = "is_default")]
    pub pids: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub blkio_weight: i64,
    /// The restart policy's name; empty for `no`.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: String,
    /// Of the restart policy `on-failure`.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: i64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The engine's container states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase", deny_unknown_fields)]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    /// It ended, and the engine starts it again.
    Restarting {
        code: i64,
    },
    Removing,
    Exited {
        code: i64,
    },
    Dead,
}

impl ContainerState {
    /// Whether the container's process runs and is not held.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub network: String,
    /// The id of the network that it was attached to; none before its first start. A network that was made anew
    /// under the same name has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
}

impl Attachment {
    /// Whether it has this address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.address == Some(address),
            IpAddr::V6(address) => self.address6 == Some(address),
        }
    }
}

/// One of the host's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub name: InterfaceName,
    pub up: bool,
    /// Addresses with their prefix length.
    pub addresses: Vec<Ipv4Net>,
    /// The same, without those that every interface gives itself (RFC 4291, section 2.5.6: `fe80::/10`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses6: Vec<Ipv6Net>,
    /// What kind of link it is, in the kernel's word, such as `vlan` or `macvlan`; none for a plain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The interface of this host that it sits on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<InterfaceName>,
    /// Whether it is a station of a wireless LAN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wireless: bool,
    /// What the agent has written on a link that it made for the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
}

impl Interface {
    /// Whether one of its addresses is this one.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.addresses.iter().any(|net| net.addr() == address),
            IpAddr::V6(address) => self.addresses6.iter().any(|net| net.addr() == address),
        }
    }

    /// A plain interface that is up and has no address.
    #[must_use]
    pub fn new(name: InterfaceName) -> Self {
        Self {
            name,
            up: true,
            addresses: Vec::new(),
            addresses6: Vec::new(),
            kind: None,
            parent: None,
            wireless: false,
            alias: None,
        }
    }
}
