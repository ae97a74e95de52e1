//! What an agent sees on its engine: its own objects, the images, the host's interfaces. No clock readings, so
//! two observations of the same state are equal.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

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
    /// The host's network interfaces.
    pub interfaces: Vec<Interface>,
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
    /// The ports that it listens on, as `25/tcp`, sorted: the `io.decnet.expose` label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Its networks, by name on the engine.
    pub attachments: Vec<Attachment>,
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
    pub mac: Option<MacAddress>,
}

/// One of the host's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub name: InterfaceName,
    pub up: bool,
    /// Addresses with their prefix length.
    pub addresses: Vec<Ipv4Net>,
}
