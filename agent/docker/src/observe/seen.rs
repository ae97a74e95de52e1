//! One container, made of what the engine says of it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Instant;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
    EndpointSettings, HostConfig, RestartPolicyNameEnum,
};
use decnet_plan::labels;
use decnet_wire::ids::StackName;
use decnet_wire::observed::{Attachment, ContainerState, ObservedContainer, Tuning};

use super::namespace::{self, Run};
use super::process::Process;

/// What is remembered of one container.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// None for an object that is not of our making. `joined` is left open; [`to_containers`] closes it.
    container: Option<ObservedContainer>,
    /// The id of the container whose network namespace it was made to share.
    owner: Option<String>,
    /// While it runs, or is paused.
    run: Option<Run>,
    /// The file of its network namespace, while it runs or is paused, and the namespace is its own with something in it.
    namespace: Option<PathBuf>,
    /// When it was inspected.
    at: Instant,
}

/// The containers that run in a network namespace of their own with something in it: their ids, and the namespaces' files.
pub(super) fn owners(all: &HashMap<String, Seen>) -> Vec<(String, PathBuf)> {
    all.iter()
        .filter_map(|(id, seen)| Some((id.clone(), seen.namespace.clone()?)))
        .collect()
}

/// The containers as they are told, sorted by name.
pub(super) fn to_containers(all: &HashMap<String, Seen>) -> Vec<ObservedContainer> {
    let mut containers: Vec<_> = all
        .values()
        .filter_map(|seen| {
            let mut container = seen.container.clone()?;
            let owner = seen.owner.as_ref();
            let joined = owner.filter(|owner| match all.get(*owner) {
                Some(owner) => namespace::is_current(seen.run.as_ref(), owner.run.as_ref()),
                None => true,
            });
            container.joined = joined.cloned();
            Some(container)
        })
        .collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    containers
}

impl Seen {
    pub(super) fn name(&self) -> Option<&str> {
        self.container.as_ref().map(|container| container.name.as_str())
    }

    pub(super) fn stack(&self) -> Option<&StackName> {
        self.container.as_ref().map(|container| &container.stack)
    }

    pub(super) fn closed_with(&mut self, rules: Option<String>) {
        if let Some(container) = &mut self.container {
            container.lock = rules;
        }
    }

    pub(super) fn of(container: &ContainerInspectResponse) -> Self {
        let state = container.state.as_ref();
        let runs = state.is_some_and(|state| state.running == Some(true));
        let pid = state.and_then(|state| state.pid).filter(|pid| runs && *pid > 0);
        let started = state.and_then(|state| state.started_at.as_deref());
        let run = runs.then(|| Run {
            process: pid.and_then(Process::find),
            started: namespace::comparable(started.unwrap_or_default()),
        });
        let mode = container.host_config.as_ref();
        let mode = mode.and_then(|config| config.network_mode.as_deref());
        let settings = container.network_settings.as_ref();
        let known = of_labels(
            container.id.clone(),
            name_of(container),
            container
                .config
                .as_ref()
                .and_then(|config| config.labels.as_ref()),
        );
        Self {
            container: known.map(|known| ObservedContainer {
                image: container.image.clone().unwrap_or_default(),
                state: to_state(container),
                restarts: restarts(container),
                refers: refers(container),
                attachments: attachments(settings.and_then(|settings| settings.networks.as_ref())),
                tuning: container.host_config.as_ref().map(tuning),
                ..known
            }),
            owner: owner(mode),
            run,
            namespace: sandbox(container).filter(|_| is_apart(mode)),
            at: Instant::now(),
        }
    }

    /// A container that runs, out of the list alone; None where the list does not tell enough.
    pub(super) fn of_running(container: &ContainerSummary) -> Option<Self> {
        if container.state != Some(ContainerSummaryStateEnum::RUNNING) {
            return None;
        }
        // The list does not tell whose PID or IPC namespace or volumes it shares. What it was made from does.
        let spec = container.labels.as_ref()?.get(labels::SPEC)?;
        if ["\"namespaces\"", "\"volumes_from\""]
            .iter()
            .any(|word| spec.contains(word))
        {
            return None;
        }
        let process = namespace::first_process(container.id.as_deref()?)?;
        let run = Run {
            process: Some(process),
            started: String::new(),
        };
        // The list does not name the engine's own file.
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", process.pid));
        let mode = container.host_config.as_ref();
        let mode = mode.and_then(|config| config.network_mode.as_deref());
        let networks = container.network_settings.as_ref();
        let known = of_labels(
            container.id.clone(),
            listed_name(container),
            container.labels.as_ref(),
        );
        Some(Self {
            container: known.map(|known| ObservedContainer {
                image: container.image_id.clone().unwrap_or_default(),
                state: ContainerState::Running,
                attachments: attachments(networks.and_then(|settings| settings.networks.as_ref())),
                ..known
            }),
            owner: owner(mode),
            run: Some(run),
            namespace: is_apart(mode).then_some(namespace),
            at: Instant::now(),
        })
    }

    /// When it was inspected.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether the list, and the kernel, say that nothing has changed since it was seen: it runs, in the process that
    /// it ran in, under the same name, attached in the same way.
    pub(super) fn is_still(&self, listed: &ContainerSummary) -> bool {
        let Some(process) = self.run.as_ref().and_then(|run| run.process) else {
            return false;
        };
        let Some(container) = &self.container else {
            return false;
        };
        let runs = match listed.state {
            Some(ContainerSummaryStateEnum::RUNNING) => container.state == ContainerState::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => container.state == ContainerState::Paused,
            _ => false,
        };
        let networks = listed.network_settings.as_ref();
        runs && container.name == listed_name(listed)
            && container.attachments == attachments(networks.and_then(|settings| settings.networks.as_ref()))
            && process.lives()
    }
}

/// What the labels say; None, with a word in the log, for an object that is not of our making.
fn of_labels(
    id: Option<String>,
    name: &str,
    labels: Option<&HashMap<String, String>>,
) -> Option<ObservedContainer> {
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    let Some(stack) = label(labels::STACK).and_then(|stack| stack.parse().ok()) else {
        tracing::warn!(
            container = name,
            "carries this host's label and no valid stack label: left alone"
        );
        return None;
    };
    let expose = label(labels::EXPOSE).unwrap_or_default();
    Some(ObservedContainer {
        id: id?,
        name: name.to_owned(),
        stack,
        service: label(labels::SERVICE).unwrap_or_default().to_owned(),
        hash: label(labels::HASH).unwrap_or_default().to_owned(),
        image: String::new(),
        state: ContainerState::Created,
        restarts: 0,
        joined: None,
        refers: Vec::new(),
        spec: label(labels::SPEC).map(str::to_owned),
        lock: None,
        warnings: Vec::new(),
        tuning: None,
        expose: expose
            .split(',')
            .filter(|port| !port.is_empty())
            .map(str::to_owned)
            .collect(),
        attachments: Vec::new(),
    })
}

/// The engine's file for the network namespace of a container that runs; none of one that shares another's.
pub(crate) fn sandbox(container: &ContainerInspectResponse) -> Option<PathBuf> {
    let runs = container.state.as_ref()?.running == Some(true);
    let key = container.network_settings.as_ref()?.sandbox_key.as_deref();
    key.filter(|key| runs && !key.is_empty()).map(PathBuf::from)
}

fn is_apart(mode: Option<&str>) -> bool {
    mode.is_some_and(|mode| !mode.starts_with("container:") && !matches!(mode, "host" | "none"))
}

/// The ids of the containers whose namespaces or volumes it shares. The engine keeps ids, whatever the container was
/// created with.
fn refers(container: &ContainerInspectResponse) -> Vec<String> {
    let Some(config) = container.host_config.as_ref() else {
        return Vec::new();
    };
    let modes = [config.pid_mode.as_deref(), config.ipc_mode.as_deref()];
    let shared = modes
        .into_iter()
        .flatten()
        .filter_map(|mode| mode.strip_prefix("container:"));
    let volumes = config.volumes_from.iter().flatten();
    let volumes = volumes.map(|from| from.split(':').next().unwrap_or_default());
    let mut all: Vec<String> = shared.chain(volumes).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

fn tuning(config: &HostConfig) -> Tuning {
    let restart = config.restart_policy.as_ref();
    let name = restart.and_then(|policy| policy.name);
    Tuning {
        memory: config.memory.unwrap_or_default(),
        memory_reservation: config.memory_reservation.unwrap_or_default(),
        memory_swap: config.memory_swap.unwrap_or_default(),
        nano_cpus: config.nano_cpus.unwrap_or_default(),
        cpu_shares: config.cpu_shares.unwrap_or_default(),
        cpu_period: config.cpu_period.unwrap_or_default(),
        cpu_quota: config.cpu_quota.unwrap_or_default(),
        cpuset: config.cpuset_cpus.clone().unwrap_or_default(),
        pids: config.pids_limit.unwrap_or_default(),
        blkio_weight: config.blkio_weight.map_or(0, i64::from),
        restart: match name {
            None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO) => String::new(),
            Some(name) => name.to_string(),
        },
        retries: restart
            .and_then(|policy| policy.maximum_retry_count)
            .unwrap_or_default(),
    }
}

fn owner(mode: Option<&str>) -> Option<String> {
    mode?.strip_prefix("container:").map(str::to_owned)
}

fn attachments(networks: Option<&HashMap<String, EndpointSettings>>) -> Vec<Attachment> {
    let mut attachments: Vec<_> = networks
        .into_iter()
        .flatten()
        .filter(|(network, _)| *network != "none")
        .map(|(network, endpoint)| to_attachment(network, endpoint))
        .collect();
    attachments.sort_by(|a, b| a.network.cmp(&b.network));
    attachments
}

/// The container's name without the engine's leading slash.
pub(crate) fn name_of(container: &ContainerInspectResponse) -> &str {
    container
        .name
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches('/')
}

/// The list has the names that links give as well, as `/other/alias`.
fn listed_name(container: &ContainerSummary) -> &str {
    let names = container.names.iter().flatten();
    let mut own = names
        .map(|name| name.trim_start_matches('/'))
        .filter(|name| !name.contains('/'));
    own.next().unwrap_or_default()
}

pub(crate) fn label<'a>(container: &'a ContainerInspectResponse, name: &str) -> Option<&'a str> {
    container
        .config
        .as_ref()?
        .labels
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

pub(crate) fn restarts(container: &ContainerInspectResponse) -> u32 {
    container
        .restart_count
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or_default()
}

pub(crate) fn to_state(container: &ContainerInspectResponse) -> ContainerState {
    use ContainerStateStatusEnum as Status;
    let state = container.state.as_ref();
    let code = state.and_then(|state| state.exit_code).unwrap_or_default();
    match state.and_then(|state| state.status) {
        Some(Status::CREATED | Status::EMPTY) | None => ContainerState::Created,
        // One that is being stopped still runs; the next look sees it exited.
        Some(Status::RUNNING | Status::STOPPING) => ContainerState::Running,
        Some(Status::PAUSED) => ContainerState::Paused,
        Some(Status::RESTARTING) => ContainerState::Restarting { code },
        Some(Status::REMOVING) => ContainerState::Removing,
        Some(Status::EXITED) => ContainerState::Exited { code },
        Some(Status::DEAD) => ContainerState::Dead,
    }
}

/// The engine tells the address in use while the container runs, and the one asked for always.
fn to_attachment(network: &str, endpoint: &EndpointSettings) -> Attachment {
    let asked = endpoint.ipam_config.as_ref();
    let asked4 = asked.and_then(|config| config.ipv4_address.as_ref());
    let asked6 = asked.and_then(|config| config.ipv6_address.as_ref());
    let address = [endpoint.ip_address.as_ref(), asked4]
        .into_iter()
        .flatten()
        .find_map(|address| address.parse::<Ipv4Addr>().ok());
    let address6 = [endpoint.global_ipv6_address.as_ref(), asked6]
        .into_iter()
        .flatten()
        .find_map(|address| address.parse::<Ipv6Addr>().ok());
    let network_id = endpoint.network_id.clone().filter(|id| !id.is_empty());
    let mac = endpoint.mac_address.as_deref().and_then(|mac| mac.parse().ok());
    Attachment {
        network: network.to_owned(),
        network_id,
        address,
        address6,
        mac,
    }
}
