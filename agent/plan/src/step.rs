//! Steps are data. The executor takes them as they are and decides nothing.
//!
//! The specifications say what the engine is to have, in the engine's terms: everything that a Compose document can
//! ask for, with names resolved and defaults decided. A field at its default is not written, neither to JSON nor into
//! the hash label, so that a field which a later version adds changes nothing where it is not used.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `container` | a container |
//! | `mount` | what is mounted or copied into a container |
//! | `resources` | limits and devices of a container |
//! | `network` | networks, how a container is attached to them, volumes |
//! | `build` | an image to build |

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use decnet_wire::bundle::{NetworkDriver, NetworkMode as LinkMode};
use decnet_wire::ids::{Digest, InterfaceName, MacAddress, StackName};
use serde::{Deserialize, Serialize};

mod build;
mod container;
mod mount;
mod network;
mod resources;

pub use build::{BuildContext, BuildSpec, Dockerfile};
pub use container::{
    ContainerSpec, Healthcheck, Link, Namespace, Namespaces, Port, RestartPolicy, VolumesFrom,
};
pub use mount::{FileContent, FileSpec, Mount, MountKind};
pub use network::{Endpoint, Ipam, NetworkMode, NetworkSpec, Pool, VolumeSpec};
pub use resources::{Blkio, Device, DeviceRequest, Limits, Throttle, Ulimit, WeightDevice};

use crate::changes::FieldChange;
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
    /// Why a container that is there is made anew, renamed or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// Why something that is there does not stay as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// A few words: `it is to be another one`.
    pub reason: String,
    /// What is to be different, as far as it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
}

impl PlannedStep {
    /// A step that waits for no other and is for no stack.
    #[must_use]
    pub fn alone(step: Step) -> Self {
        Self {
            step,
            stack: None,
            after: Vec::new(),
            why: None,
        }
    }
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
    /// Pull by digest (`repository@sha256:…`) or by tag (`repository:tag`).
    PullImage {
        reference: String,
        /// `os/architecture[/variant]`; none for the engine's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
        /// Ask the registry even when the engine has an image of that name.
        #[serde(default, skip_serializing_if = "is_default")]
        always: bool,
        /// A failure is no failure when the engine has an image of that name, or something else will make one.
        #[serde(default, skip_serializing_if = "is_default")]
        optional: bool,
    },
    /// Build an image and name it by all of its tags.
    BuildImage {
        build: Box<BuildSpec>,
    },
    /// Remove an image that nothing needs any more: its names, and with the last of them the image. One that a
    /// container has stays.
    RemoveImage {
        id: String,
        names: Vec<String>,
    },
    CreateNetwork {
        network: NetworkSpec,
    },
    RemoveNetwork {
        name: String,
        id: String,
    },
    /// Ask the LAN whether somebody has the address already (RFC 5227, section 2.1.1; RFC 4862, section 5.4).
    ProbeAddress {
        /// The container that is to have it.
        name: String,
        /// The network that it is for, by its name on the engine.
        network: String,
        /// The interface to ask on.
        parent: InterfaceName,
        address: IpAddr,
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
    CreateVolume {
        volume: VolumeSpec,
    },
    /// Only ever asked for by name of a volume that carries our labels.
    RemoveVolume {
        name: String,
    },
    /// Create, without starting. Files ([`ContainerSpec::files`]) are copied in afterwards.
    CreateContainer {
        container: Box<ContainerSpec>,
        /// The name to create it under, while another container has its own; [`Step::RenameContainer`] follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        staged: Option<String>,
        /// The id of the container that it replaces and whose anonymous volumes it takes over: those of the image's
        /// `VOLUME`s and of mounts without a source, at the same target.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inherit: Option<String>,
    },
    /// Close the network namespace of a running container: from inside, only answers and what is allowed leave it.
    LockNamespace {
        /// The container that owns it.
        name: String,
        egress: Egress,
        /// The name of the rules, which the namespace then bears.
        rules: String,
    },
    /// Start, then wait until the process has run for `settle_ms` without ending or being restarted. 0 does not look.
    StartContainer {
        /// The name that it has at this moment, which is the staged one for a replacement.
        name: String,
        settle_ms: u64,
        /// Ids of the containers that ran before, in the order in which to start them again when this one does not
        /// come up; it is stopped before that. The step fails all the same.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fallback: Vec<String>,
    },
    /// Wait until the health check says healthy; it fails when that says unhealthy, when the container ends, or when
    /// there is no health check.
    WaitHealthy {
        name: String,
        /// Seconds; none waits as long as the check goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u32>,
        /// What it waits for does not have to succeed: the wait ends either way, and never fails.
        #[serde(default, skip_serializing_if = "is_default")]
        optional: bool,
    },
    /// Wait until the process has ended with exit code 0; any other code is a failure.
    WaitCompleted {
        name: String,
        /// Seconds; none waits as long as it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u32>,
        /// What it waits for does not have to succeed: the wait ends either way, and never fails.
        #[serde(default, skip_serializing_if = "is_default")]
        optional: bool,
    },
    UnpauseContainer {
        name: String,
        id: String,
    },
    /// Stop: the container's stop signal, then SIGKILL after `timeout_s`.
    StopContainer {
        name: String,
        id: String,
        timeout_s: u32,
    },
    /// With its anonymous volumes, unless another container uses them.
    RemoveContainer {
        name: String,
        id: String,
    },
    RenameContainer {
        /// The name that it has: a staged one, or what somebody has renamed it to.
        from: String,
        /// Its id; none for one that an earlier step of the plan creates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        to: String,
    },
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

/// For fields that are left out where they say nothing.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
