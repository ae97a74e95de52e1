//! What any bundle may ask of a host, whoever signed it.
//!
//! Whatever could reach beyond its container is forbidden unless the policy names it. Specifications are taken apart
//! field by field, so that a field which is added later cannot be forgotten here: it does not compile before somebody
//! has decided about it.
//!
//! A policy that the operators have signed ([`decnet_wire::policy`]) widens the built-in one where it names something, and
//! narrows it where the built-in one has no bounds.

use std::collections::BTreeSet;
use std::fmt;

use decnet_wire::bundle::NetworkDriver;
use decnet_wire::ids::StackName;
use decnet_wire::policy::{Policy as Document, Rules, SysctlPattern};
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::step::{
    Blkio, BuildSpec, ContainerSpec, Endpoint, Ipam, Limits, Link, MountKind, Namespace, Namespaces,
    NetworkMode, NetworkSpec, Pool, VolumeSpec,
};

mod signed;
#[cfg(test)]
mod tests;

/// The bounds of a bundle. Everything that is not named is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub network_drivers: BTreeSet<NetworkDriver>,
    /// Capabilities that may be added, without their `CAP_` prefix.
    pub cap_add: BTreeSet<String>,
    /// Every container drops all capabilities.
    pub require_cap_drop_all: bool,
    /// Every container has `no-new-privileges`.
    pub require_no_new_privileges: bool,
    pub sysctls: BTreeSet<SysctlPattern>,
    /// Log drivers that keep their lines on the host.
    pub log_drivers: BTreeSet<String>,
    /// Attributes that are forbidden unless they stand here, in Compose's words: `privileged`, `ports`, `devices`, …
    /// Three are finer than an attribute: `bind_mounts` and `volumes` tell the mounts of `volumes` apart,
    /// `network_mode: host` and the like name a value.
    #[serde(default)]
    pub attributes: BTreeSet<String>,
    /// What the operators have signed; none for the built-in policy.
    #[serde(default)]
    pub rules: Option<Rules>,
}

/// Which rule of a policy forbids something: the path of a key in the operators' policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// Whatever a policy says.
    #[serde(rename = "always")]
    Always,
    /// It holds where the operators have signed nothing about it.
    #[serde(rename = "built-in")]
    BuiltIn,
    #[serde(rename = "images.digests")]
    ImageDigests,
    #[serde(rename = "images.repositories")]
    ImageRepositories,
    #[serde(rename = "images.builds")]
    ImageBuilds,
    #[serde(rename = "images.archives")]
    ImageArchives,
    #[serde(rename = "capabilities")]
    Capabilities,
    #[serde(rename = "sysctls")]
    Sysctls,
    #[serde(rename = "mounts")]
    Mounts,
    #[serde(rename = "devices")]
    Devices,
    #[serde(rename = "security_options")]
    SecurityOptions,
    #[serde(rename = "networks.drivers")]
    NetworkDrivers,
    #[serde(rename = "networks.parents")]
    NetworkParents,
    #[serde(rename = "networks.ranges")]
    NetworkRanges,
    #[serde(rename = "resources.memory")]
    Memory,
    #[serde(rename = "resources.cpus")]
    Cpus,
    #[serde(rename = "resources.pids")]
    Pids,
    #[serde(rename = "resources.containers")]
    Containers,
    #[serde(rename = "resources.deckies")]
    Deckies,
    #[serde(rename = "egress")]
    Egress,
}

impl Rule {
    /// The path of its key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::BuiltIn => "built-in",
            Self::ImageDigests => "images.digests",
            Self::ImageRepositories => "images.repositories",
            Self::ImageBuilds => "images.builds",
            Self::ImageArchives => "images.archives",
            Self::Capabilities => "capabilities",
            Self::Sysctls => "sysctls",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::SecurityOptions => "security_options",
            Self::NetworkDrivers => "networks.drivers",
            Self::NetworkParents => "networks.parents",
            Self::NetworkRanges => "networks.ranges",
            Self::Memory => "resources.memory",
            Self::Cpus => "resources.cpus",
            Self::Pids => "resources.pids",
            Self::Containers => "resources.containers",
            Self::Deckies => "resources.deckies",
            Self::Egress => "egress",
        }
    }
}

/// Where the engine listens and keeps its state: mounting it is as good as being root on the host, so that no policy
/// allows it.
const ENGINE_PATHS: [&str; 7] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd",
    "/var/run/containerd",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/etc/docker",
];

/// Options of the engine's own drivers that a bundle's networks need; others could change the host.
const DRIVER_OPTIONS: [&str; 4] = ["parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"];

/// The sysctls that a network namespace has for itself.
const NETWORK_SYSCTLS: [&str; 2] = ["net.ipv4.*", "net.ipv6.*"];

const NO_NEW_PRIVILEGES: &str = "no-new-privileges:true";
const UNMASKED: &str = "systempaths=unconfined";

impl Policy {
    /// The policy of a host whose operator has signed none.
    #[must_use]
    pub fn built_in() -> Self {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Self {
            network_drivers: BTreeSet::from([
                NetworkDriver::Macvlan,
                NetworkDriver::Ipvlan,
                NetworkDriver::Bridge,
            ]),
            cap_add: BTreeSet::new(),
            require_cap_drop_all: true,
            require_no_new_privileges: true,
            sysctls: NETWORK_SYSCTLS
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            log_drivers: texts(&["json-file", "local", "none"]),
            attributes: texts(&["build"]),
            rules: None,
        }
    }

    /// What the operators have signed, over the built-in policy.
    #[must_use]
    pub fn signed(rules: Rules) -> Self {
        let built_in = Self::built_in();
        let mut attributes = built_in.attributes;
        if !signed::allows_builds(&rules.images) {
            attributes.remove("build");
        }
        Self {
            network_drivers: rules.networks.drivers.clone().unwrap_or(built_in.network_drivers),
            cap_add: rules.capabilities.iter().map(ToString::to_string).collect(),
            sysctls: rules.sysctls.clone().unwrap_or(built_in.sysctls),
            attributes,
            rules: Some(rules),
            ..built_in
        }
    }
}

impl From<&Document> for Policy {
    fn from(document: &Document) -> Self {
        Self::signed(document.rules.clone())
    }
}

/// One thing that a bundle asks for and the policy forbids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Violation {
    /// None when it concerns a network or a volume, which stacks share.
    pub stack: Option<StackName>,
    /// The service, or the network or volume; empty when it is about the host as a whole.
    pub service: String,
    pub attribute: String,
    /// What the policy says, and what was asked for.
    pub reason: String,
    /// The rule that forbids it.
    pub rule: Rule,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Network,
    Volume,
    Service,
    Host,
}

impl Violation {
    pub(crate) fn concerns_network(&self) -> bool {
        self.kind == Kind::Network
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stack) = &self.stack {
            write!(f, "stack {stack}: ")?;
        }
        let kind = match self.kind {
            Kind::Network => "networks",
            Kind::Volume => "volumes",
            Kind::Service => "services",
            Kind::Host => "host",
        };
        write!(f, "{kind}.")?;
        if !self.service.is_empty() {
            write!(f, "{}.", self.service)?;
        }
        write!(f, "{}: {}", self.attribute, self.reason)?;
        match self.rule {
            Rule::Always | Rule::BuiltIn => Ok(()),
            rule => write!(f, " (rule {})", rule.as_str()),
        }
    }
}

/// Everything that the policy forbids: networks first, then volumes, then in order of stacks and services.
#[must_use]
pub fn check(desired: &Desired, policy: &Policy) -> Vec<Violation> {
    let mut all = Vec::new();
    let mut add = |kind, stack: Option<&StackName>, service: &str, check: Check<'_>| {
        all.extend(
            check
                .found
                .into_iter()
                .map(|(attribute, rule, reason)| Violation {
                    stack: stack.cloned(),
                    service: service.to_owned(),
                    attribute,
                    reason,
                    rule,
                    kind,
                }),
        );
    };
    for (name, network) in desired.networks() {
        add(Kind::Network, None, name, policy.network(network));
    }
    for (name, volume) in desired.volumes() {
        add(Kind::Volume, None, name, policy.volume(volume));
    }
    for (stack, service, spec) in desired.containers() {
        add(Kind::Service, Some(stack), service, policy.container(spec));
    }
    for (stack, service, build) in desired.builds() {
        add(Kind::Service, Some(stack), service, policy.build(build));
    }
    if let Some(rules) = &policy.rules {
        let mut check = policy.check();
        signed::host(rules, desired, &mut check);
        add(Kind::Host, None, "", check);
        for (name, network) in desired.networks() {
            let mut check = policy.check();
            signed::network(rules, network, desired.host_address(name), &mut check);
            add(Kind::Network, None, name, check);
        }
        for (stack, wanted) in desired.stacks() {
            for service in wanted.services() {
                let mut check = policy.check();
                signed::service(rules, service, desired, &mut check);
                add(Kind::Service, Some(stack), &service.service, check);
            }
        }
    }
    all
}

/// Collects what one object asks for and may not have.
#[derive(Debug)]
struct Check<'a> {
    policy: &'a Policy,
    found: Vec<(String, Rule, String)>,
}

impl Check<'_> {
    /// The built-in policy's own lines have no key of the operators'.
    fn fail(&mut self, attribute: &str, rule: Rule, reason: impl Into<String>) {
        let rule = match rule {
            Rule::Always => rule,
            _ if self.policy.rules.is_none() => Rule::BuiltIn,
            _ => rule,
        };
        self.found.push((attribute.to_owned(), rule, reason.into()));
    }

    /// An attribute that has to stand in the policy to be used at all.
    fn gate(&mut self, used: bool, attribute: &str) {
        self.gate_as(used, attribute, attribute);
    }

    fn gate_as(&mut self, used: bool, attribute: &str, permission: &str) {
        self.gate_by(used, attribute, permission, Rule::BuiltIn);
    }

    fn gate_by(&mut self, used: bool, attribute: &str, permission: &str, rule: Rule) {
        if used && !self.policy.attributes.contains(permission) {
            let reason = if attribute == permission {
                "the policy does not allow it".to_owned()
            } else {
                format!("the policy does not allow {permission}")
            };
            self.fail(attribute, rule, reason);
        }
    }
}

impl Policy {
    fn check(&self) -> Check<'_> {
        Check {
            policy: self,
            found: Vec::new(),
        }
    }

    fn network(&self, network: &NetworkSpec) -> Check<'_> {
        let NetworkSpec {
            name: _,
            driver,
            driver_opts,
            ipam:
                Ipam {
                    driver: ipam_driver,
                    options,
                    pools,
                },
            internal: _,
            attachable: _,
            enable_ipv6: _,
            enable_ipv4: _,
            labels: _,
        } = network;
        let mut check = self.check();
        if !self.network_drivers.iter().any(|known| known.as_str() == driver) {
            check.fail(
                "driver",
                Rule::NetworkDrivers,
                format!("the policy does not allow {driver}"),
            );
        }
        for option in driver_opts.keys() {
            if !DRIVER_OPTIONS.contains(&option.as_str()) {
                check.gate(true, &format!("driver_opts.{option}"));
            }
        }
        if let Some(driver) = ipam_driver.as_deref().filter(|driver| *driver != "default") {
            check.gate_as(true, "ipam.driver", &format!("ipam.driver {driver}"));
        }
        check.gate(!options.is_empty(), "ipam.options");
        for pool in pools {
            let Pool {
                subnet: _,
                ip_range: _,
                gateway: _,
                aux_addresses: _,
            } = pool;
        }
        check
    }

    fn volume(&self, volume: &VolumeSpec) -> Check<'_> {
        let VolumeSpec {
            name: _,
            driver,
            driver_opts,
            labels: _,
        } = volume;
        let mut check = self.check();
        check.gate_as(true, "name", "volumes");
        let driver = driver.as_deref().filter(|driver| *driver != "local");
        check.gate_as(driver.is_some(), "driver", "volumes.driver");
        // The local driver mounts anything of the host, if its options say so.
        check.gate_as(!driver_opts.is_empty(), "driver_opts", "volumes.driver_opts");
        check
    }

    /// What a Dockerfile runs, it runs as root of a container of the engine's own making.
    fn build(&self, build: &BuildSpec) -> Check<'_> {
        let BuildSpec {
            tags: _,
            context: _,
            dockerfile: _,
            args: _,
            target: _,
            labels: _,
            cache_from: _,
            cache_to: _,
            platform: _,
            network,
            extra_hosts: _,
            shm_size: _,
            ulimits: _,
            no_cache: _,
            pull: _,
            additional_contexts: _,
        } = build;
        let mut check = self.check();
        check.gate_by(true, "build", "build", Rule::ImageBuilds);
        check.gate(network.as_deref() != Some("none"), "build.network");
        check
    }

    fn container(&self, spec: &ContainerSpec) -> Check<'_> {
        let ContainerSpec {
            // What runs in the container, as whom, and what it says of itself.
            name: _,
            image: _,
            platform: _,
            command: _,
            entrypoint: _,
            environment: _,
            labels: _,
            hostname: _,
            domainname: _,
            user: _,
            group_add: _,
            working_dir: _,
            tty: _,
            stdin_open: _,
            stop_signal: _,
            stop_timeout_s: _,
            healthcheck: _,
            restart: _,
            init: _,
            mac: _,
            expose: _,
            dns: _,
            dns_search: _,
            dns_opt: _,
            extra_hosts: _,
            read_only: _,
            files: _,
            tmpfs: _,
            shm_size: _,
            memory: _,
            pids: _,
            nano_cpus: _,
            log_options: _,
            // What reaches beyond it.
            annotations,
            runtime,
            network,
            ports,
            links,
            privileged,
            cap_add,
            cap_drop,
            security_opt,
            unmasked,
            namespaces,
            sysctls,
            devices,
            device_cgroup_rules,
            device_requests,
            mounts: _,
            volumes_from,
            storage_opt,
            limits,
            log_driver,
        } = spec;
        let mut check = self.check();
        check.gate(!annotations.is_empty(), "annotations");
        check.gate(runtime.is_some(), "runtime");
        self.attachment(network, &mut check);
        check.gate(!ports.is_empty(), "ports");
        let foreign = links.iter().any(
            |Link {
                 foreign,
                 container: _,
                 alias: _,
             }| *foreign,
        );
        check.gate(foreign, "external_links");
        if *privileged && self.rules.is_some() {
            check.fail("privileged", Rule::Always, "no policy allows it");
        } else {
            check.gate(*privileged, "privileged");
        }
        for name in cap_add.iter().filter(|name| !self.cap_add.contains(*name)) {
            check.fail(
                "cap_add",
                Rule::Capabilities,
                format!("the policy does not allow {name}"),
            );
        }
        if self.require_cap_drop_all && !cap_drop.iter().any(|name| name == "ALL") {
            check.fail("cap_drop", Rule::BuiltIn, "the policy requires ALL");
        }
        let unmasked = unmasked.then_some(UNMASKED);
        let options = security_opt.iter().map(String::as_str).chain(unmasked);
        for option in options.filter(|option| *option != NO_NEW_PRIVILEGES) {
            if !signed::allows_option(self.rules.as_ref(), option) {
                check.fail(
                    "security_opt",
                    Rule::SecurityOptions,
                    format!("the policy does not allow {option}"),
                );
            }
        }
        if self.require_no_new_privileges && !security_opt.iter().any(|option| option == NO_NEW_PRIVILEGES) {
            check.fail(
                "security_opt",
                Rule::BuiltIn,
                format!("the policy requires {NO_NEW_PRIVILEGES}"),
            );
        }
        self.namespaces(namespaces, &mut check);
        let allowed = |name: &str| self.sysctls.iter().any(|pattern| pattern.matches(name));
        for name in sysctls.keys().filter(|name| !allowed(name)) {
            check.fail(
                "sysctls",
                Rule::Sysctls,
                format!("the policy does not allow {name}"),
            );
        }
        let foreign = devices
            .iter()
            .any(|device| !signed::allows_device(self.rules.as_ref(), device));
        check.gate_by(foreign, "devices", "devices", Rule::Devices);
        check.gate(!device_cgroup_rules.is_empty(), "device_cgroup_rules");
        check.gate(!device_requests.is_empty(), "gpus");
        self.mounts(spec, &mut check);
        check.gate(!volumes_from.is_empty(), "volumes_from");
        check.gate(!storage_opt.is_empty(), "storage_opt");
        self.limits(limits, &mut check);
        if let Some(driver) = log_driver
            .as_ref()
            .filter(|driver| !self.log_drivers.contains(*driver))
        {
            check.fail(
                "logging",
                Rule::BuiltIn,
                format!("the policy does not allow the driver {driver}"),
            );
        }
        check
    }

    fn attachment(&self, network: &NetworkMode, check: &mut Check<'_>) {
        let endpoints = match network {
            NetworkMode::None | NetworkMode::Container { name: _ } => return,
            NetworkMode::Host => {
                return check.gate_as(true, "network_mode", "network_mode: host");
            }
            NetworkMode::Bridge => {
                return check.gate_as(true, "network_mode", "network_mode: bridge");
            }
            NetworkMode::Foreign { name: _ } => {
                return check.gate_as(true, "network_mode", "network_mode: container");
            }
            NetworkMode::Networks { endpoints } => endpoints,
        };
        for endpoint in endpoints {
            let Endpoint {
                network: _,
                address: _,
                address6: _,
                link_local: _,
                mac: _,
                aliases: _,
                driver_opts,
                gw_priority: _,
                interface_name: _,
            } = endpoint;
            check.gate_as(!driver_opts.is_empty(), "networks", "networks.driver_opts");
        }
    }

    fn namespaces(&self, namespaces: &Namespaces, check: &mut Check<'_>) {
        let Namespaces {
            pid,
            ipc,
            uts,
            user,
            cgroup,
        } = namespaces;
        for (attribute, namespace) in [("pid", pid), ("ipc", ipc)] {
            match namespace {
                Namespace::Default
                | Namespace::Private
                | Namespace::Shareable
                | Namespace::None
                | Namespace::Container { name: _ } => {}
                Namespace::Host => check.gate_as(true, attribute, &format!("{attribute}: host")),
                Namespace::Foreign { name: _ } => {
                    check.gate_as(true, attribute, &format!("{attribute}: container"));
                }
            }
        }
        check.gate(uts.is_some(), "uts");
        check.gate(user.is_some(), "userns_mode");
        check.gate(cgroup.as_deref().is_some_and(|mode| mode != "private"), "cgroup");
    }

    fn mounts(&self, spec: &ContainerSpec, check: &mut Check<'_>) {
        for mount in &spec.mounts {
            match &mount.kind {
                MountKind::Tmpfs { size: _, mode: _ } => {}
                MountKind::Volume {
                    name: _,
                    nocopy: _,
                    subpath: _,
                    labels: _,
                    selinux: _,
                } => check.gate_as(true, "volumes", "volumes"),
                MountKind::Image { image: _, subpath: _ } => {
                    check.gate_as(true, "volumes", "volumes of type image");
                }
                MountKind::Bind {
                    source,
                    create_host_path: _,
                    propagation,
                    selinux,
                    recursive,
                } => {
                    // Whatever else a mount can be changes more than the container's own view of the path.
                    let plain = propagation
                        .as_deref()
                        .is_none_or(|mode| matches!(mode, "private" | "rprivate"))
                        && selinux.is_none()
                        && recursive.as_deref() != Some("writable");
                    let listed = plain && signed::allows_mount(self.rules.as_ref(), source, mount.read_only);
                    if self.rules.is_none() || self.attributes.contains("bind_mounts") {
                        check.gate_as(!listed, "volumes", "bind_mounts");
                    } else if !listed {
                        check.fail(
                            "volumes",
                            Rule::Mounts,
                            format!("the policy does not allow {}", signed::mount_text(mount, source)),
                        );
                    }
                    if source.split('/').any(|part| part == "..") {
                        check.fail(
                            "volumes",
                            Rule::Always,
                            format!("no policy allows {source}: write it without '..'"),
                        );
                    }
                    if let Some(path) = ENGINE_PATHS.iter().find(|path| overlap(source, path)) {
                        check.fail(
                            "volumes",
                            Rule::Always,
                            format!("no policy allows {source}, for {path} is the engine's"),
                        );
                    }
                }
            }
        }
    }

    fn limits(&self, limits: &Limits, check: &mut Check<'_>) {
        let Limits {
            // Less than what the engine gives, or a share of it.
            memory_swap,
            memory_reservation: _,
            memory_swappiness: _,
            cpu_shares: _,
            cpu_period: _,
            cpu_quota: _,
            cpuset: _,
            cpu_count: _,
            cpu_percent: _,
            // More than that, or something of the host's.
            oom_kill_disable,
            oom_score_adj,
            cpu_rt_period,
            cpu_rt_runtime,
            ulimits,
            blkio,
            cgroup_parent,
        } = limits;
        check.gate(memory_swap.is_some_and(|bytes| bytes < 0), "memswap_limit");
        check.gate(*oom_kill_disable, "oom_kill_disable");
        check.gate(*oom_score_adj < 0, "oom_score_adj");
        check.gate(cpu_rt_period.is_some(), "cpu_rt_period");
        check.gate(cpu_rt_runtime.is_some(), "cpu_rt_runtime");
        check.gate(!ulimits.is_empty(), "ulimits");
        check.gate(*blkio != Blkio::default(), "blkio_config");
        check.gate(cgroup_parent.is_some(), "cgroup_parent");
    }
}

/// Whether one path is the other, or lies within it.
fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (std::path::Path::new(a), std::path::Path::new(b));
    a.starts_with(b) || b.starts_with(a)
}
