//! An engine in memory, as strict as a real one where a plan could go wrong: it refuses a second object of a name, a
//! network or address that is in use, a container without its image, network, volume or owner, two processes on one
//! port.
//! For tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use decnet_wire::ids::{Digest, HostId, MacAddress, StackName};
use decnet_wire::observed::{
    Attachment, ContainerState, Feature, ForeignNetwork, Interface, Observed, ObservedContainer,
    ObservedImage, ObservedNetwork, ObservedVolume,
};

use ipnet::Ipv4Net;

use crate::labels;
use crate::planner::tuning;
use crate::step::{ContainerSpec, MountKind, Namespace, NetworkMode, NetworkSpec, Step, VolumeSpec};

/// The engine. Its objects are open to tests, which disturb them as they like.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    pub images: Vec<ObservedImage>,
    /// By id.
    pub networks: BTreeMap<String, Network>,
    /// By name.
    pub containers: BTreeMap<String, Container>,
    pub interfaces: Vec<Interface>,
    pub foreign_networks: Vec<ForeignNetwork>,
    pub lacks: Vec<Feature>,
    /// Containers of others on a network, by its name.
    pub guests: BTreeMap<String, Vec<String>>,
    /// Machines on the LAN that are not ours.
    pub strangers: BTreeMap<IpAddr, MacAddress>,
    /// Whether a container that joins a namespace which is open is refused.
    pub strict_about_egress: bool,
    /// Containers whose process ends at once, with this exit code; by the name that they are to have.
    pub broken: BTreeMap<String, i64>,
    /// Containers whose process ends at once because it is done.
    pub one_shot: BTreeSet<String>,
    /// Containers whose health check says unhealthy.
    pub unhealthy: BTreeSet<String>,
    /// By name.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// What registries have under a name, where it is another image than the engine's: taken by the next pull.
    pub published: BTreeSet<String>,
    next_id: u64,
}

#[derive(Debug, Clone)]
pub struct Network {
    pub spec: NetworkSpec,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub spec: ContainerSpec,
    pub state: ContainerState,
    pub restarts: u32,
    /// The id of the container whose namespace it shares, and the run of it that it has joined.
    pub joined: Option<(String, u64)>,
    /// Counts this container's starts.
    pub run: u64,
    /// The run whose namespace was closed last, and with what rules.
    pub lock: Option<(u64, String)>,
    /// The id of its image.
    pub image: String,
    /// The ids of the containers whose other namespaces or volumes it shares.
    pub refers: Vec<String>,
    /// Ids of the networks that it was created with, by name.
    pub networks: BTreeMap<String, String>,
}

impl Container {
    fn active(&self) -> bool {
        matches!(
            self.state,
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting { .. }
        )
    }

    fn label(&self, name: &str) -> Option<&String> {
        self.spec.labels.get(name)
    }
}

impl Engine {
    /// What an agent of the host would see.
    #[must_use]
    pub fn observe(&self, host: HostId) -> Observed {
        let host = host.to_string();
        let mut networks: Vec<_> = self
            .networks
            .iter()
            .filter(|(_, network)| network.spec.labels.get(labels::HOST) == Some(&host))
            .map(|(id, network)| ObservedNetwork {
                id: id.clone(),
                name: network.spec.name.clone(),
                hash: network.spec.labels.get(labels::HASH).cloned().unwrap_or_default(),
                guests: self.guests.get(&network.spec.name).cloned().unwrap_or_default(),
            })
            .collect();
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let ours = self
            .containers
            .iter()
            .filter(|(_, container)| container.label(labels::HOST) == Some(&host));
        let volumes = self.volumes.iter().map(|(name, volume)| {
            let ours = volume.labels.get(labels::HOST) == Some(&host);
            ObservedVolume {
                name: name.clone(),
                hash: volume.labels.get(labels::HASH).filter(|_| ours).cloned(),
            }
        });
        Observed {
            images: self.images.clone(),
            networks,
            containers: ours
                .filter_map(|(name, container)| self.observe_container(name, container))
                .collect(),
            volumes: volumes.collect(),
            interfaces: self.interfaces.clone(),
            foreign_networks: self.foreign_networks.clone(),
            lacks: self.lacks.clone(),
        }
    }

    fn observe_container(&self, name: &str, container: &Container) -> Option<ObservedContainer> {
        let text = |name: &str| container.label(name).cloned().unwrap_or_default();
        let stale = |owner: &String, run: u64| {
            let current = self
                .by_id(owner)
                .is_some_and(|owner| owner.run == run && owner.active());
            container.active() && !current
        };
        let attachments = match &container.spec.network {
            NetworkMode::Networks { endpoints } => endpoints
                .iter()
                .map(|endpoint| Attachment {
                    network: endpoint.network.clone(),
                    network_id: container.networks.get(&endpoint.network).cloned(),
                    address: endpoint.address,
                    address6: endpoint.address6,
                    mac: endpoint.mac,
                })
                .collect(),
            _ => Vec::new(),
        };
        Some(ObservedContainer {
            id: container.id.clone(),
            name: name.to_owned(),
            stack: text(labels::STACK).parse::<StackName>().ok()?,
            service: text(labels::SERVICE),
            hash: text(labels::HASH),
            image: container.image.clone(),
            state: container.state.clone(),
            restarts: container.restarts,
            joined: container
                .joined
                .as_ref()
                .filter(|(id, run)| !stale(id, *run))
                .map(|(id, _)| id.clone()),
            refers: container.refers.clone(),
            spec: container.label(labels::SPEC).cloned(),
            warnings: Vec::new(),
            lock: container
                .lock
                .as_ref()
                .filter(|(run, _)| *run == container.run && container.active())
                .map(|(_, rules)| rules.clone()),
            expose: container.spec.expose.clone(),
            attachments,
            tuning: Some(tuning::of_spec(&container.spec)),
        })
    }

    fn by_id(&self, id: &str) -> Option<&Container> {
        self.containers.values().find(|container| container.id == id)
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("id{:04}", self.next_id)
    }

    /// Applies one step.
    ///
    /// # Errors
    /// What a real engine would refuse, in a few words.
    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::LoadImage {
                reference, image_ids, ..
            } => {
                let id = image_ids
                    .first()
                    .map(Digest::to_string)
                    .ok_or("an archive without ids")?;
                self.images.push(ObservedImage {
                    id,
                    references: vec![reference.clone()],
                });
                Ok(())
            }
            Step::PullImage {
                reference, always, ..
            } => {
                let newer = self.published.remove(&tagged(reference));
                if newer || (!always && self.image(reference).is_none()) {
                    self.name_image(std::slice::from_ref(reference));
                }
                Ok(())
            }
            Step::BuildImage { build } => {
                self.name_image(&build.tags);
                Ok(())
            }
            Step::CreateVolume { volume } => {
                let there = self.volumes.entry(volume.name.clone());
                there.or_insert_with(|| volume.clone());
                Ok(())
            }
            Step::RemoveVolume { name } => {
                self.volumes.remove(name);
                Ok(())
            }
            Step::CreateNetwork { network } => self.create_network(network),
            Step::RemoveNetwork { id, .. } => {
                if self
                    .containers
                    .values()
                    .any(|other| other.active() && other.networks.values().any(|n| n == id))
                {
                    return Err(format!("network {id} has active endpoints"));
                }
                let name = self.networks.get(id).map(|network| &network.spec.name);
                if name.is_some_and(|name| self.guests.contains_key(name)) {
                    return Err(format!("network {id} has active endpoints of somebody else"));
                }
                self.networks.remove(id);
                Ok(())
            }
            Step::ProbeAddress { parent, address, .. } => {
                let there = |interface: &Interface| interface.name == *parent;
                let made = |network: &Network| network.spec.parent() == Some(parent.as_str());
                if !self.interfaces.iter().any(there) && !self.networks.values().any(made) {
                    return Err(format!("no interface {parent}"));
                }
                match self.strangers.get(address) {
                    Some(mac) => Err(format!("{address} is in use by {mac}")),
                    None => Ok(()),
                }
            }
            Step::CreateHostLink { link } => {
                self.interfaces.retain(|interface| interface.name != link.name);
                self.interfaces.push(Interface {
                    addresses: vec![Ipv4Net::from(link.address)],
                    kind: Some(link.driver.as_str().to_owned()),
                    parent: Some(link.parent.clone()),
                    alias: Some(link.alias.clone()),
                    ..Interface::new(link.name.clone())
                });
                Ok(())
            }
            Step::RemoveHostLink { name, alias } => {
                let ours = |interface: &Interface| {
                    interface.name == *name && interface.alias.as_ref() == Some(alias)
                };
                self.interfaces.retain(|interface| !ours(interface));
                Ok(())
            }
            Step::LockNamespace { name, rules, .. } => {
                let container = self
                    .containers
                    .get_mut(name)
                    .filter(|container| container.active() && container.joined.is_none())
                    .ok_or_else(|| format!("{name} has no namespace to close"))?;
                container.lock = Some((container.run, rules.clone()));
                Ok(())
            }
            Step::CreateContainer {
                container, staged, ..
            } => self.create(container, staged.as_ref().unwrap_or(&container.name)),
            Step::StartContainer { name, fallback, .. } => {
                let result = self.start(name);
                let fallback = fallback.iter().filter(|_| result.is_err());
                for id in fallback {
                    let old = self.containers.iter().find(|(_, old)| old.id == *id);
                    if let Some(old) = old.map(|(name, _)| name.clone()) {
                        let _ = self.start(&old);
                    }
                }
                result
            }
            Step::WaitHealthy { name, optional, .. } => {
                let container = self.containers.get(name);
                let healthy = container.is_some_and(|container| {
                    container.active() && !self.unhealthy.contains(&container.spec.name)
                });
                if healthy || *optional {
                    Ok(())
                } else {
                    Err(format!("container {name} is not healthy"))
                }
            }
            Step::WaitCompleted { name, optional, .. } => {
                let state = self.containers.get(name).map(|container| &container.state);
                if state == Some(&ContainerState::Exited { code: 0 }) || *optional {
                    Ok(())
                } else {
                    Err(format!("container {name} has not completed: {state:?}"))
                }
            }
            Step::RenameContainer { from, id, to } => {
                let found = |container: &&Container| id.as_ref().is_none_or(|id| *id == container.id);
                let container = self.containers.get(from).filter(found).cloned();
                let container = container.ok_or_else(|| format!("no container {from}"))?;
                if self.containers.contains_key(to) {
                    return Err(format!("container {to} exists"));
                }
                self.containers.remove(from);
                self.containers.insert(to.clone(), container);
                Ok(())
            }
            Step::UnpauseContainer { id, .. } => {
                let container = self.get_mut(id).ok_or_else(|| format!("no container {id}"))?;
                if container.state == ContainerState::Paused {
                    container.state = ContainerState::Running;
                }
                Ok(())
            }
            Step::StopContainer { id, .. } => {
                if let Some(container) = self.get_mut(id)
                    && container.active()
                {
                    container.state = ContainerState::Exited { code: 143 };
                }
                Ok(())
            }
            Step::RemoveContainer { id, .. } => {
                if self.by_id(id).is_some_and(Container::active) {
                    return Err(format!("container {id} is running"));
                }
                self.containers.retain(|_, container| container.id != *id);
                Ok(())
            }
            Step::RemoveImage { id, names } => {
                for image in self.images.iter_mut().filter(|image| image.id == *id) {
                    image.references.retain(|reference| !names.contains(reference));
                }
                let used = self.containers.values().any(|container| container.image == *id);
                self.images
                    .retain(|image| image.id != *id || used || !image.references.is_empty());
                Ok(())
            }
        }
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.values_mut().find(|container| container.id == id)
    }

    fn create_network(&mut self, spec: &NetworkSpec) -> Result<(), String> {
        for other in self.networks.values() {
            let overlap = other
                .spec
                .subnets()
                .any(|a| spec.subnets().any(|b| a.contains(&b) || b.contains(&a)));
            if other.spec.name == spec.name {
                return if other.spec == *spec {
                    Ok(())
                } else {
                    Err(format!("network {} exists", spec.name))
                };
            }
            if overlap || (spec.parent().is_some() && spec.parent() == other.spec.parent()) {
                return Err(format!("network {} overlaps {}", spec.name, other.spec.name));
            }
        }
        let id = self.id();
        self.networks.insert(id, Network { spec: spec.clone() });
        Ok(())
    }

    /// A new image under these names, which no other has from now on.
    fn name_image(&mut self, names: &[String]) {
        let names: Vec<String> = names.iter().map(|name| tagged(name)).collect();
        for image in &mut self.images {
            image.references.retain(|other| !names.contains(other));
        }
        let id = format!("sha256:{}", self.id());
        let references = names;
        self.images.push(ObservedImage { id, references });
    }

    fn image(&self, name: &String) -> Option<&ObservedImage> {
        let reference = tagged(name);
        self.images.iter().find(|image| {
            image.id == *name || image.references.contains(name) || image.references.contains(&reference)
        })
    }

    fn create(&mut self, spec: &ContainerSpec, name: &String) -> Result<(), String> {
        if let Some(other) = self.containers.get(name) {
            let same = [labels::HOST, labels::HASH]
                .iter()
                .all(|key| other.label(key) == spec.labels.get(*key));
            return if same {
                Ok(())
            } else {
                Err(format!("container {name} exists"))
            };
        }
        let image = spec.image.iter().find_map(|name| self.image(name));
        let Some(image) = image.map(|image| image.id.clone()) else {
            return Err(format!("container {name}: no image {:?}", spec.image));
        };
        let volumes = spec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => name.as_ref(),
            _ => None,
        });
        for volume in volumes {
            if !self.volumes.contains_key(volume) {
                return Err(format!("container {name}: no volume {volume}"));
            }
        }
        let shared = [&spec.namespaces.pid, &spec.namespaces.ipc].into_iter();
        let shared = shared.filter_map(|namespace| match namespace {
            Namespace::Container { name } => Some(name),
            _ => None,
        });
        let mut refers = Vec::new();
        for owner in shared.chain(spec.volumes_from.iter().map(|shared| &shared.container)) {
            let owner = self.containers.get(owner);
            refers.push(
                owner
                    .ok_or_else(|| format!("{name}: an owner is missing"))?
                    .id
                    .clone(),
            );
        }
        let mut networks = BTreeMap::new();
        let mut joined = None;
        match &spec.network {
            NetworkMode::None | NetworkMode::Host | NetworkMode::Bridge | NetworkMode::Foreign { .. } => {}
            NetworkMode::Container { name: owner } => {
                let owner = self
                    .containers
                    .get(owner)
                    .ok_or_else(|| format!("{name}: no owner {owner}"))?;
                joined = Some((owner.id.clone(), 0));
            }
            NetworkMode::Networks { endpoints } => {
                for endpoint in endpoints {
                    let found = self
                        .networks
                        .iter()
                        .find(|(_, n)| n.spec.name == endpoint.network);
                    let (id, _) = found.ok_or_else(|| format!("{name}: no network {}", endpoint.network))?;
                    networks.insert(endpoint.network.clone(), id.clone());
                }
            }
        }
        let container = Container {
            id: self.id(),
            spec: spec.clone(),
            state: ContainerState::Created,
            restarts: 0,
            joined,
            run: 0,
            lock: None,
            image,
            refers,
            networks,
        };
        self.containers.insert(name.clone(), container);
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        let container = self
            .containers
            .get(name)
            .ok_or_else(|| format!("no container {name}"))?
            .clone();
        let code = self.broken.get(&container.spec.name).copied();
        if container.state == ContainerState::Running && code.is_none() {
            return Ok(());
        }
        let mut joined = container.joined.clone();
        if let Some((owner, run)) = &mut joined {
            let owner = self
                .by_id(owner)
                .filter(|owner| owner.state == ContainerState::Running);
            let owner = owner.ok_or_else(|| format!("{name}: its owner does not run"))?;
            let open = owner.lock.as_ref().is_none_or(|(run, _)| *run != owner.run);
            if open && self.strict_about_egress && !owner.networks.is_empty() {
                return Err(format!("{name}: the namespace of {} is open", owner.spec.name));
            }
            *run = owner.run;
        }
        for (network, id) in &container.networks {
            if !self.networks.contains_key(id) {
                return Err(format!("{name}: network {network} ({id}) is gone"));
            }
        }
        for other in self
            .containers
            .values()
            .filter(|other| other.active() && other.id != container.id)
        {
            let shared = used_addresses(&container)
                .intersection(&used_addresses(other))
                .next()
                .cloned();
            if let Some(address) = shared {
                return Err(format!("{name}: {address} is in use by {}", other.spec.name));
            }
            let ports = |container: &Container| -> BTreeSet<(Option<String>, String)> {
                let ports = container
                    .spec
                    .ports
                    .iter()
                    .filter(|port| port.published.is_some());
                ports
                    .map(|port| (port.published.clone(), port.protocol.clone()))
                    .collect()
            };
            if !ports(&container).is_disjoint(&ports(other)) {
                return Err(format!(
                    "{name}: a port of the host is in use by {}",
                    other.spec.name
                ));
            }
            let together = joined.is_some() && joined == other.joined;
            if together
                && container
                    .spec
                    .expose
                    .iter()
                    .any(|port| other.spec.expose.contains(port))
            {
                return Err(format!("{name}: port in use by {}", other.spec.name));
            }
        }
        let done = self.one_shot.contains(&container.spec.name);
        let container = self.containers.get_mut(name).ok_or("vanished")?;
        container.joined = joined;
        container.run += 1;
        container.restarts = 0;
        match code {
            None => {
                container.state = if done {
                    ContainerState::Exited { code: 0 }
                } else {
                    ContainerState::Running
                };
                Ok(())
            }
            Some(code) => {
                container.state = ContainerState::Exited { code };
                Err(format!("container {name} exited with code {code}"))
            }
        }
    }
}

/// A name with its tag: `latest` where there is none. For the plain names of tests.
fn tagged(name: &str) -> String {
    if name.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

/// Addresses and MACs by network id.
fn used_addresses(container: &Container) -> BTreeSet<String> {
    let NetworkMode::Networks { endpoints } = &container.spec.network else {
        return BTreeSet::new();
    };
    let mut used = BTreeSet::new();
    for endpoint in endpoints {
        let id = container
            .networks
            .get(&endpoint.network)
            .cloned()
            .unwrap_or_default();
        used.extend(endpoint.address.map(|address| format!("{id}/{address}")));
        used.extend(endpoint.mac.map(|mac| format!("{id}/{mac}")));
    }
    used
}
