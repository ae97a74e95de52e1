//! One entry of `services`.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::MacAddress;

use super::build::Build;
use super::deploy::{self, Deploy};
use super::egress::{self, Egress};
use super::mounts::{self, FileReference, ServiceMount, SharedVolumes};
use super::network::{NetworkMode, parse_attachment};
use super::read::{Mapping, Node, Problems};
use super::{resources, units};
use crate::step::{Device, DeviceRequest, Healthcheck, Limits, Port, RestartPolicy};

mod lists;
pub(super) use lists::extra_hosts;
mod ports;
mod process;

/// A service as its document has it; absent attributes are None or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    pub image: Option<String>,
    pub build: Option<Build>,
    pub platform: Option<String>,
    pub pull_policy: PullPolicy,
    pub container_name: Option<String>,
    pub scale: Option<u32>,
    pub deploy: Deploy,

    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub stop_signal: Option<String>,
    /// Milliseconds.
    pub stop_grace_period: Option<u64>,
    pub healthcheck: Option<Healthcheck>,
    pub restart: RestartPolicy,
    pub init: Option<bool>,
    pub runtime: Option<String>,
    pub depends_on: BTreeMap<String, Dependency>,

    /// None means the project's default network.
    pub network: Option<NetworkMode>,
    pub mac: Option<MacAddress>,
    /// As `25/tcp`.
    pub expose: BTreeSet<String>,
    pub ports: Vec<Port>,
    /// Service and alias.
    pub links: Vec<(String, String)>,
    /// Container and alias.
    pub external_links: Vec<(String, String)>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    /// As `name:address`, sorted.
    pub extra_hosts: Vec<String>,

    pub privileged: bool,
    /// Without the `CAP_` prefix, in upper case.
    pub cap_add: BTreeSet<String>,
    /// Without the `CAP_` prefix, in upper case.
    pub cap_drop: BTreeSet<String>,
    pub security_opt: BTreeSet<String>,
    pub pid: Share,
    pub ipc: Share,
    pub uts: Option<String>,
    pub userns_mode: Option<String>,
    pub cgroup: Option<String>,
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub device_requests: Vec<DeviceRequest>,

    pub read_only: bool,
    pub mounts: Vec<ServiceMount>,
    pub volumes_from: Vec<SharedVolumes>,
    pub configs: Vec<FileReference>,
    pub secrets: Vec<FileReference>,
    /// Mount point to mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub storage_opt: BTreeMap<String, String>,

    /// Bytes.
    pub mem_limit: Option<u64>,
    pub pids_limit: Option<i64>,
    /// Billionths of a core.
    pub nano_cpus: Option<i64>,
    pub limits: Limits,

    pub log_driver: Option<String>,
    pub log_options: BTreeMap<String, String>,
    /// What it may call; none without an `x-decnet` extension.
    pub egress: Option<Egress>,
}

/// What a service waits for before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    pub condition: Condition,
    /// It is restarted when the other is made anew.
    pub restart: bool,
    /// Without it, the other may be missing or fail.
    pub required: bool,
}

/// What a dependency must have reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Started,
    /// Its health check says healthy.
    Healthy,
    /// It has ended with exit code 0.
    Completed,
}

/// When an image is asked of its registry, or built (Compose Specification, "pull_policy").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the engine has none of that name.
    #[default]
    Missing,
    Always,
    Never,
    /// Build it, even when the engine has one of that name.
    Build,
}

/// Whose namespace a service is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Share {
    #[default]
    Default,
    Private,
    Shareable,
    None,
    Host,
    Service(String),
    /// Of a container that is not of the project.
    Container(String),
}

impl Service {
    pub(super) fn parse(node: Node<'_>, problems: &mut Problems) -> Self {
        let mut service = Self::default();
        let Some(mut map) = node.mapping(problems) else {
            return service;
        };
        let p = problems;
        for key in ["extends", "env_file", "label_file"] {
            map.resolved_by_loader(key, p);
        }
        service.egress = map.take("x-decnet").and_then(|node| egress::parse(node, p));
        // Whoever resolves profiles leaves out the services that are not wanted.
        map.take("profiles");
        service.parse_image(&mut map, p);
        service.parse_process(&mut map, p);
        service.parse_network(&mut map, p);
        service.parse_isolation(&mut map, p);
        service.parse_files(&mut map, p);
        service.parse_resources(&mut map, p);
        map.finish(p);
        service
    }

    fn parse_image(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        self.image = map.text("image", p);
        self.build = map.take("build").and_then(|node| Build::parse(node, p));
        if self.image.as_deref().unwrap_or_default().is_empty() && self.build.is_none() {
            p.add(map.path(), "needs an image");
        }
        self.platform = map.text("platform", p);
        self.pull_policy = map.parsed("pull_policy", p, pull_policy).unwrap_or_default();
        self.container_name = map.parsed("container_name", p, container_name);
        self.scale = map.number("scale", p);
        if let Some(node) = map.take("deploy") {
            self.deploy = Deploy::parse(node, p);
        }
    }

    fn parse_process(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        self.command = map
            .take("command")
            .and_then(|node| process::command_line(node, p));
        self.entrypoint = map
            .take("entrypoint")
            .and_then(|node| process::command_line(node, p));
        self.environment = map
            .take("environment")
            .and_then(|node| node.pairs(p))
            .unwrap_or_default();
        self.labels = map.filled("labels", p);
        self.annotations = map.filled("annotations", p);
        self.hostname = map.parsed("hostname", p, process::hostname);
        self.domainname = map.text("domainname", p);
        self.user = map.scalar("user", p);
        self.group_add = map.texts("group_add", p);
        self.working_dir = map.parsed("working_dir", p, process::absolute);
        // `up` shows nobody's output.
        map.flag("attach", p);
        self.tty = map.flag("tty", p).unwrap_or_default();
        self.stdin_open = map.flag("stdin_open", p).unwrap_or_default();
        self.stop_signal = map.parsed("stop_signal", p, process::stop_signal);
        self.stop_grace_period = map.parsed("stop_grace_period", p, units::duration_ms);
        self.healthcheck = map
            .take("healthcheck")
            .and_then(|node| process::healthcheck(node, p));
        self.restart = map.parsed("restart", p, process::restart).unwrap_or_default();
        self.init = map.flag("init", p);
        self.runtime = map.text("runtime", p);
        self.depends_on = map
            .take("depends_on")
            .and_then(|node| process::depends_on(node, p))
            .unwrap_or_default();
        if let Some(node) = map.take("logging")
            && let Some(mut logging) = node.mapping(p)
        {
            self.log_driver = logging.text("driver", p);
            self.log_options = logging.required("options", p);
            logging.finish(p);
        }
    }

    fn parse_network(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        let (mode, networks) = (map.take("network_mode"), map.take("networks"));
        self.network = parse_attachment(mode, networks, p);
        self.mac = map.parsed("mac_address", p, super::network::mac);
        self.expose = map
            .take("expose")
            .and_then(|node| ports::expose(node, p))
            .unwrap_or_default();
        self.ports = map
            .take("ports")
            .and_then(|node| ports::ports(node, p))
            .unwrap_or_default();
        self.links = lists::links(map.texts("links", p));
        self.external_links = lists::links(map.texts("external_links", p));
        self.dns = map.text_or_texts("dns", p);
        self.dns_search = map.text_or_texts("dns_search", p);
        self.dns_opt = map.texts("dns_opt", p);
        self.extra_hosts = map
            .take("extra_hosts")
            .and_then(|node| extra_hosts(node, p))
            .unwrap_or_default();
    }

    fn parse_isolation(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        self.privileged = map.flag("privileged", p).unwrap_or_default();
        self.cap_add = lists::capabilities(map.texts("cap_add", p));
        self.cap_drop = lists::capabilities(map.texts("cap_drop", p));
        self.security_opt = map
            .texts("security_opt", p)
            .into_iter()
            .map(lists::security_option)
            .collect();
        self.pid = map.parsed("pid", p, pid).unwrap_or_default();
        self.ipc = map.parsed("ipc", p, ipc).unwrap_or_default();
        self.uts = map.parsed("uts", p, |text| one_of(text, &["host"]));
        self.userns_mode = map.text("userns_mode", p);
        self.cgroup = map.parsed("cgroup", p, |text| one_of(text, &["host", "private"]));
        self.sysctls = map.required("sysctls", p);
        if let Some(node) = map.take("devices") {
            resources::devices(node, &mut self.devices, &mut self.device_requests, p);
        }
        self.device_cgroup_rules = map.texts("device_cgroup_rules", p);
        if let Some(node) = map.take("gpus") {
            self.device_requests.extend(deploy::gpus(node, p));
        }
    }

    fn parse_files(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        self.read_only = map.flag("read_only", p).unwrap_or_default();
        self.mounts = map
            .take("volumes")
            .and_then(|node| mounts::service_mounts(node, p))
            .unwrap_or_default();
        self.volumes_from = map
            .take("volumes_from")
            .and_then(|node| mounts::volumes_from(node, p))
            .unwrap_or_default();
        self.configs = map
            .take("configs")
            .and_then(|node| mounts::file_references(node, p))
            .unwrap_or_default();
        self.secrets = map
            .take("secrets")
            .and_then(|node| mounts::file_references(node, p))
            .unwrap_or_default();
        self.tmpfs = map
            .take("tmpfs")
            .and_then(|node| mounts::tmpfs(node, p))
            .unwrap_or_default();
        self.shm_size = map.parsed("shm_size", p, units::bytes);
        self.storage_opt = map.required("storage_opt", p);
    }

    fn parse_resources(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        self.mem_limit = map.parsed("mem_limit", p, units::bytes);
        self.pids_limit = map.parsed("pids_limit", p, pids);
        self.nano_cpus = map.parsed("cpus", p, units::nano_cpus);
        self.limits = resources::limits(map, p);
    }
}

fn one_of(text: &str, words: &[&str]) -> Result<String, String> {
    if words.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be {}", words.join(" or ")))
    }
}

fn pull_policy(text: &str) -> Result<PullPolicy, &'static str> {
    match text {
        "missing" | "if_not_present" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        "build" => Ok(PullPolicy::Build),
        // When an image was last asked for is kept nowhere.
        _ => Err(
            "must be always, never, missing, if_not_present or build; daily, weekly and every_… are not supported",
        ),
    }
}

/// The pattern of the schema's `container_name`, as the engine has it.
fn container_name(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if text.len() >= 2 && starts && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be two or more of a-z, A-Z, 0-9, '_', '.' and '-', starting with a letter or a digit")
    }
}

/// -1 and 0 both mean that there is no limit.
fn pids(text: &str) -> Result<i64, &'static str> {
    text.parse::<i64>()
        .ok()
        .filter(|n| *n >= -1)
        .ok_or("must be a number, or -1 for no limit")
}

fn pid(text: &str) -> Result<Share, &'static str> {
    match share(text) {
        Some(share) => Ok(share),
        None if text == "host" => Ok(Share::Host),
        None => Err("must be host, service:NAME or container:NAME"),
    }
}

fn ipc(text: &str) -> Result<Share, &'static str> {
    match (share(text), text) {
        (Some(share), _) => Ok(share),
        (None, "host") => Ok(Share::Host),
        (None, "private") => Ok(Share::Private),
        (None, "shareable") => Ok(Share::Shareable),
        (None, "none") => Ok(Share::None),
        _ => Err("must be private, shareable, none, host, service:NAME or container:NAME"),
    }
}

fn share(text: &str) -> Option<Share> {
    match text.split_once(':') {
        Some(("service", name)) if !name.is_empty() => Some(Share::Service(name.to_owned())),
        Some(("container", name)) if !name.is_empty() => Some(Share::Container(name.to_owned())),
        _ => None,
    }
}
