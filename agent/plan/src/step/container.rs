//! A container as the engine is to have it.

use std::collections::BTreeMap;

use decnet_wire::ids::MacAddress;
use serde::{Deserialize, Serialize};

use super::{Device, DeviceRequest, Endpoint, FileSpec, Limits, Mount, NetworkMode, is_default};

/// Compose's words, resolved to one meaning each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Names of one and the same image, sorted: the ids (`sha256:…`) under which an engine may know it, of which it
    /// has one, or a single `repository@sha256:…` or `repository:tag`.
    #[serde(skip_serializing_if = "is_default")]
    pub image: Vec<String>,
    /// `os/architecture[/variant]`.
    #[serde(skip_serializing_if = "is_default")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub command: Option<Vec<String>>,
    /// Some but empty takes the image's away.
    #[serde(skip_serializing_if = "is_default")]
    pub entrypoint: Option<Vec<String>>,
    /// None takes a variable of the image away.
    #[serde(skip_serializing_if = "is_default")]
    pub environment: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub domainname: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub group_add: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub tty: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub stdin_open: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_timeout_s: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub init: Option<bool>,
    /// The OCI runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: Option<String>,

    #[serde(skip_serializing_if = "is_default")]
    pub network: NetworkMode,
    /// For a container that is on no network of its own choice; otherwise the endpoints have it.
    #[serde(skip_serializing_if = "is_default")]
    pub mac: Option<MacAddress>,
    /// Ports that the container listens on, as `25/tcp`, sorted. Kept in [`crate::labels::EXPOSE`] as well, because
    /// the engine takes none for a container that joins another's network namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub expose: Vec<String>,
    /// Ports of the host that lead to ports of the container.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "is_default")]
    pub links: Vec<Link>,
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub dns_search: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub dns_opt: Vec<String>,
    /// As `name:address`, sorted.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,

    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Without the `CAP_` prefix, sorted.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// Without the `CAP_` prefix, sorted.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// Sorted. A seccomp profile is `seccomp=` and `unconfined`, its JSON, or the path of a file of this machine.
    #[serde(skip_serializing_if = "is_default")]
    pub security_opt: Vec<String>,
    /// The paths that the engine masks or makes read-only by default are neither (`systempaths=unconfined`).
    #[serde(skip_serializing_if = "is_default")]
    pub unmasked: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub namespaces: Namespaces,
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub devices: Vec<Device>,
    #[serde(skip_serializing_if = "is_default")]
    pub device_cgroup_rules: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub device_requests: Vec<DeviceRequest>,

    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "is_default")]
    pub volumes_from: Vec<VolumesFrom>,
    #[serde(skip_serializing_if = "is_default")]
    pub files: Vec<FileSpec>,
    /// Mount point to mount options.
    #[serde(skip_serializing_if = "is_default")]
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_size: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub storage_opt: BTreeMap<String, String>,

    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Option<u64>,
    /// -1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub pids: Option<i64>,
    /// Billionths of a core.
    #[serde(skip_serializing_if = "is_default")]
    pub nano_cpus: Option<i64>,
    /// The rest of the limits.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,

    #[serde(skip_serializing_if = "is_default")]
    pub log_driver: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub log_options: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// How it is attached to networks of its own; nothing where it joins another's, the host's or none.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        match &self.network {
            NetworkMode::Networks { endpoints } => endpoints,
            NetworkMode::None
            | NetworkMode::Host
            | NetworkMode::Bridge
            | NetworkMode::Container { .. }
            | NetworkMode::Foreign { .. } => &[],
        }
    }
}

/// None of a field leaves it to the image, then to the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    #[serde(skip_serializing_if = "is_default")]
    pub test: Option<Vec<String>>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub interval_ms: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_ms: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub start_period_ms: Option<u64>,
    /// Milliseconds. From API 1.44 on.
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Option<u32>,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Port {
    #[serde(skip_serializing_if = "is_default")]
    pub target: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    #[serde(skip_serializing_if = "is_default")]
    pub host_ip: Option<String>,
    /// `8080`, or `8080-8090` for any one of these; none for any port that is free.
    #[serde(skip_serializing_if = "is_default")]
    pub published: Option<String>,
}

/// Another container under a name of one's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The container's name.
    pub container: String,
    pub alias: String,
    /// The container is none of ours.
    #[serde(default, skip_serializing_if = "is_default")]
    pub foreign: bool,
}

/// The volumes of another container, at the same mount points.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumesFrom {
    /// The container's name.
    pub container: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The container is none of ours.
    #[serde(default, skip_serializing_if = "is_default")]
    pub foreign: bool,
}

/// Namespaces besides that of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespaces {
    #[serde(skip_serializing_if = "is_default")]
    pub pid: Namespace,
    #[serde(skip_serializing_if = "is_default")]
    pub ipc: Namespace,
    /// `host`, or none for one of its own.
    #[serde(skip_serializing_if = "is_default")]
    pub uts: Option<String>,
    /// `host`, or none for the engine's default.
    #[serde(skip_serializing_if = "is_default")]
    pub user: Option<String>,
    /// `host` or `private`; none for the engine's default.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup: Option<String>,
}

/// Whose namespace a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Namespace {
    /// What the engine gives by default.
    #[default]
    Default,
    Private,
    /// Its own, and others may join it (IPC only).
    Shareable,
    /// Its own without a `/dev/shm` (IPC only).
    None,
    Host,
    /// That of our container of that name.
    Container {
        name: String,
    },
    /// That of a container that is none of ours, by name or id.
    Foreign {
        name: String,
    },
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
