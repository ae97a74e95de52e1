//! Steps are data. The executor takes them as they are and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::bundle::{NetworkDriver, NetworkMode as LinkMode};
use decnet_wire::ids::{Digest, InterfaceName, MacAddress, NetworkName, StackName};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::compose::Egress;

/// What to do, in an order that holds: a step comes after every step that it waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub steps: Vec<PlannedStep>,
    /// What cannot be done now, and why; stacks named here get no steps.
    pub blocked: Vec<Blocked>,
}

impl Plan {
    /// Nothing to do and nothing in the way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    pub step: Step,
    /// The stack that it is for; none for images and networks, which stacks share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackName>,
    /// Indices into [`Plan::steps`] of the steps that must have succeeded first. All smaller than this one's.
    pub after: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// None when it concerns an object that stacks share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackName>,
    /// One line: what, on what, why.
    pub reason: String,
}

/// One call, or one short fixed sequence of calls, to the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Load an image archive that the agent has, or fetches, as a blob.
    LoadImage {
        blob: Digest,
        size: u64,
        reference: String,
        image_ids: Vec<Digest>,
    },
    /// Pull by digest: `repository@sha256:…`.
    PullImage {
        reference: String,
    },
    CreateNetwork {
        network: NetworkSpec,
    },
    RemoveNetwork {
        name: String,
        id: String,
    },
    /// Ask the LAN whether somebody has the address already (RFC 5227, section 2.1.1).
    ProbeAddress {
        /// The container that is to have it.
        name: String,
        /// The network that it is for, by its name on the engine.
        network: String,
        /// The interface to ask on.
        parent: InterfaceName,
        address: Ipv4Addr,
    },
    /// Make a link for the host itself, in place of one of that name that is not as it is to be.
    CreateHostLink {
        link: HostLink,
    },
    /// Remove a link that was made for the host itself.
    RemoveHostLink {
        name: InterfaceName,
        /// What is written on it: another one of that name is not touched.
        alias: String,
    },
    CreateContainer {
        container: Box<ContainerSpec>,
    },
    /// Close the network namespace of a running container: from inside, only answers and what is allowed leave it.
    LockNamespace {
        /// The container that owns it.
        name: String,
        egress: Egress,
        /// The name of the rules, which the namespace then bears.
        rules: String,
    },
    /// Start, then wait until the process has run for `settle_ms` without ending or being restarted, or until its
    /// health check, where it has one, says healthy.
    StartContainer {
        name: String,
        settle_ms: u64,
    },
    UnpauseContainer {
        name: String,
        id: String,
    },
    /// Stop: SIGTERM (or the image's stop signal), then SIGKILL after `timeout_s`.
    StopContainer {
        name: String,
        id: String,
        timeout_s: u32,
    },
    RemoveContainer {
        name: String,
        id: String,
    },
}

/// A network as the engine is to have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub name: NetworkName,
    pub driver: NetworkDriver,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<InterfaceName>,
    pub subnet: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// All labels, [`crate::labels::HASH`] among them.
    pub labels: BTreeMap<String, String>,
}

/// A link by which the host itself reaches its deckies: the kernel keeps macvlan and ipvlan links apart from what
/// they sit on, but not from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLink {
    pub name: InterfaceName,
    /// The network that it is for, by its name on the engine.
    pub network: String,
    pub driver: NetworkDriver,
    /// As the network has it: of ipvlan, all links on a parent have one mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<LinkMode>,
    pub parent: InterfaceName,
    /// For macvlan; the same whenever it is made anew, so that deckies need not ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    pub address: Ipv4Addr,
    /// Who is reached by it.
    pub routes: BTreeSet<Ipv4Addr>,
    /// What is written on it: whose it is, and a name for all of the above.
    pub alias: String,
}

/// A container as the engine is to have it: Compose's words, resolved to one meaning each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSpec {
    pub name: String,
    /// Names of one and the same image, sorted: the ids (`sha256:…`) under which an engine may know it, of which it
    /// has one, or a single `repository@sha256:…`.
    pub image: Vec<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// None takes a variable of the image away.
    pub environment: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub hostname: Option<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout_s: Option<u32>,
    pub network: NetworkMode,
    pub restart: RestartPolicy,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub read_only: bool,
    pub init: Option<bool>,
    /// Mount point to mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes.
    pub memory: Option<u64>,
    pub pids: Option<i64>,
    /// Billionths of a core.
    pub nano_cpus: Option<i64>,
    /// Ports that the container listens on, as `25/tcp`, sorted. Kept in [`crate::labels::EXPOSE`] as well, because
    /// the engine takes none for a container that joins another's network namespace.
    pub expose: Vec<String>,
    pub log_driver: Option<String>,
    pub log_options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkMode {
    /// No interface but loopback.
    #[default]
    None,
    /// Shares the network namespace of the container of that name.
    Container { name: String },
    /// Joins networks; the first is the one that the engine attaches at creation.
    Networks { endpoints: Vec<Endpoint> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The network's name on the engine.
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        retries: u32,
    },
}
