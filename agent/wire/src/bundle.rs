//! One host's whole desired state. Signed in a DSSE envelope of type [`PAYLOAD_TYPE`]; never a delta.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ids::{
    DeckyName, Digest, FleetId, HostId, InterfaceName, NetworkName, OperationId, ParseError, StackName,
    Timestamp,
};
use crate::order::Order;
use crate::trace::Traceparent;

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
    /// About the host itself. Agents of the first versions know no such field and refuse a bundle that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// A network that stacks of this bundle join as `external`. Its mode is one of its driver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NetworkFields")]
pub struct Network {
    /// The name on the engine.
    pub name: NetworkName,
    pub driver: NetworkDriver,
    /// The host interface that a macvlan or ipvlan network sits on; none for a bridge. `eth0.30` is VLAN 30 of
    /// `eth0` (IEEE 802.1Q), which the engine makes where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<InterfaceName>,
    pub subnet: Ipv4Net,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Where its deckies have IPv6 as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// Of `subnet6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// An address of this network for the host itself, by which it reaches its deckies; without one it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Ipv4Addr>,
    /// None: the driver's usual one, [`NetworkMode::usual`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
}

/// A [`Network`] as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFields {
    name: NetworkName,
    driver: NetworkDriver,
    #[serde(default)]
    parent: Option<InterfaceName>,
    subnet: Ipv4Net,
    #[serde(default)]
    gateway: Option<Ipv4Addr>,
    #[serde(default)]
    subnet6: Option<Ipv6Net>,
    #[serde(default)]
    gateway6: Option<Ipv6Addr>,
    #[serde(default)]
    host_address: Option<Ipv4Addr>,
    #[serde(default)]
    mode: Option<NetworkMode>,
}

/// A mode of another driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is no mode of {}", .mode.as_str(), .driver.as_str())]
pub struct WrongMode {
    pub mode: NetworkMode,
    pub driver: NetworkDriver,
}

impl TryFrom<NetworkFields> for Network {
    type Error = WrongMode;
    fn try_from(fields: NetworkFields) -> Result<Self, WrongMode> {
        let NetworkFields {
            name,
            driver,
            parent,
            subnet,
            gateway,
            subnet6,
            gateway6,
            host_address,
            mode,
        } = fields;
        if let Some(mode) = mode.filter(|mode| mode.driver() != driver) {
            return Err(WrongMode { mode, driver });
        }
        Ok(Self {
            name,
            driver,
            parent,
            subnet,
            gateway,
            subnet6,
            gateway6,
            host_address,
            mode,
        })
    }
}

impl Network {
    /// The mode as the engine takes it: the key and the value of the driver's option. None for a bridge.
    #[must_use]
    pub fn mode_option(&self) -> Option<(&'static str, &'static str)> {
        let mode = self.mode.or_else(|| NetworkMode::usual(self.driver))?;
        let key = match mode.driver() {
            NetworkDriver::Macvlan => "macvlan_mode",
            NetworkDriver::Ipvlan => "ipvlan_mode",
            NetworkDriver::Bridge => return None,
        };
        Some((key, mode.as_str()))
    }
}

/// The engine's network drivers that a bundle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    /// Every decky has a MAC of its own.
    Macvlan,
    /// Every decky shares the parent's MAC.
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

/// How a macvlan or ipvlan network passes frames on (ip-link(8), "MACVLAN and MACVTAP Type Support" and "IPVLAN and
/// IPVTAP Type Support").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// macvlan: the deckies of a host reach each other directly.
    Bridge,
    /// macvlan: they do not reach each other at all.
    Private,
    /// macvlan: what they send each other goes through the switch, which has to send it back (IEEE 802.1Qbg).
    Vepa,
    /// macvlan: one decky has the whole interface.
    Passthru,
    /// ipvlan: like a switch, with broadcasts.
    L2,
    /// ipvlan: like a router, without broadcasts; the LAN needs a route to the subnet.
    L3,
    /// ipvlan: like l3, and the host's own firewall sees the traffic.
    L3s,
}

impl NetworkMode {
    /// The mode that a driver has where nothing is said; none for a bridge.
    #[must_use]
    pub const fn usual(driver: NetworkDriver) -> Option<Self> {
        match driver {
            NetworkDriver::Macvlan => Some(Self::Bridge),
            NetworkDriver::Ipvlan => Some(Self::L2),
            NetworkDriver::Bridge => None,
        }
    }

    /// Whose mode it is.
    #[must_use]
    pub const fn driver(self) -> NetworkDriver {
        match self {
            Self::Bridge | Self::Private | Self::Vepa | Self::Passthru => NetworkDriver::Macvlan,
            Self::L2 | Self::L3 | Self::L3s => NetworkDriver::Ipvlan,
        }
    }

    /// The name in the driver's options.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }
}

impl std::str::FromStr for NetworkMode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let all = [
            Self::Bridge,
            Self::Private,
            Self::Vepa,
            Self::Passthru,
            Self::L2,
            Self::L3,
            Self::L3s,
        ];
        all.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            ParseError::new(
                "network mode",
                text,
                "bridge, private, vepa, passthru (macvlan), l2, l3 or l3s (ipvlan)",
            )
        })
    }
}

/// One Compose document. Every decky compiles to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The Compose project name.
    pub name: StackName,
    pub decky: DeckyName,
    /// No services at all means: remove what is left of the stack.
    pub compose: ComposeDocument,
    /// The newest operation on the decky; none when nothing is asked but to keep it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// A Compose document, as the text of a JSON value. Parsed it takes some ten times the memory, and a host keeps
/// hundreds of them. Two are equal when they are so to the letter.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Box<RawValue>")]
pub struct ComposeDocument(Arc<RawValue>);

impl ComposeDocument {
    /// # Errors
    /// It is nested deeper than JSON is read here.
    pub fn parse(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl From<&ComposeDocument> for ComposeDocument {
    fn from(document: &ComposeDocument) -> Self {
        document.clone()
    }
}

impl From<Box<RawValue>> for ComposeDocument {
    fn from(text: Box<RawValue>) -> Self {
        Self(text.into())
    }
}

impl Serialize for ComposeDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl From<&Value> for ComposeDocument {
    fn from(value: &Value) -> Self {
        // Every value can be written: its keys are texts.
        let text = serde_json::value::to_raw_value(value);
        text.unwrap_or_else(|_| RawValue::NULL.to_owned()).into()
    }
}

impl From<Value> for ComposeDocument {
    fn from(value: Value) -> Self {
        (&value).into()
    }
}

impl PartialEq for ComposeDocument {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ComposeDocument {}

/// One thing that the operator asked of one decky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    pub id: OperationId,
    pub kind: OperationKind,
    /// The master's span of it, while the master traces. Agents of the first versions know no such field and refuse a
    /// bundle that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
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
    /// A tar archive, plain or compressed with gzip, bzip2 or xz, that holds what an image is built from. Compose
    /// documents of this bundle name it as `build.context: blob:sha256:…`.
    BuildContext {},
}

/// How the context of a `build` begins that is a blob of the bundle; its digest follows.
pub const CONTEXT_PREFIX: &str = "blob:";
