//! One host's whole desired state. Signed in a DSSE envelope of type [`PAYLOAD_TYPE`]; never a delta.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::ids::{
    DeckyName, Digest, FleetId, HostId, InterfaceName, NetworkName, OperationId, StackName, Timestamp,
};

/// The DSSE payload type of a bundle.
pub const PAYLOAD_TYPE: &str = "application/vnd.decnet.bundle+json";
/// The version of this document.
pub const SCHEMA: u32 = 1;

/// What one host is to run, from one moment to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The audience: the fleet.
    pub fleet: FleetId,
    /// The audience: the host.
    pub host: HostId,
    /// The audience: SHA-256 of the host key's SubjectPublicKeyInfo.
    pub host_key: Digest,
    /// Raised by a new trust root only; generations count within it.
    pub epoch: u64,
    /// Strictly increasing for this host within the epoch.
    pub generation: u64,
    /// SHA-256 of the payload of the bundle published before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    pub issued_at: Timestamp,
    /// After this moment the bundle is not accepted any more. What was accepted keeps running.
    pub expires_at: Timestamp,
    pub networks: Vec<Network>,
    pub stacks: Vec<Stack>,
    pub blobs: Vec<Blob>,
}

/// A network that stacks of this bundle join as `external`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The name on the engine.
    pub name: NetworkName,
    pub driver: NetworkDriver,
    /// The host interface that a macvlan or ipvlan network sits on; none for a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<InterfaceName>,
    pub subnet: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// An address of this network for the host itself, by which it reaches its deckies; without one it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Ipv4Addr>,
}

/// The engine's network drivers that a bundle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    /// `macvlan` in bridge mode: every decky has a MAC of its own.
    Macvlan,
    /// `ipvlan` in l2 mode: every decky shares the parent's MAC.
    Ipvlan,
    /// A Linux bridge on the host.
    Bridge,
}

impl NetworkDriver {
    /// The driver's name in the Engine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Bridge => "bridge",
        }
    }
}

/// One Compose document. Every decky compiles to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The Compose project name.
    pub name: StackName,
    pub decky: DeckyName,
    /// The Compose document, as JSON. No services at all means: remove what is left of the stack.
    pub compose: serde_json::Value,
    /// The newest operation on the decky; none when nothing is asked but to keep it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// One thing that the operator asked of one decky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    pub id: OperationId,
    pub kind: OperationKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    Deploy,
    Mutate,
    Teardown,
}

impl OperationKind {
    /// The name in rows, tables and topics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Mutate => "mutate",
            Self::Teardown => "teardown",
        }
    }
}

/// Content that the agent fetches from the master by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// SHA-256 of the blob's bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub kind: BlobKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BlobKind {
    /// An image archive for the engine's `load`.
    ImageArchive {
        /// How Compose documents of this bundle name the image.
        reference: String,
        /// The ids under which an engine may know the image: the config digest on a classic store, the
        /// manifest digest on a containerd store. An image under any other id is not this image.
        image_ids: Vec<Digest>,
    },
}
