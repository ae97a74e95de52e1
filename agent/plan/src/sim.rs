//! An engine in memory, as strict as a real one where a plan could go wrong: it refuses a second object of a name, a
//! network or address that is in use, a container without its image, network or owner, two processes on one port.
//! For tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{Digest, HostId, MacAddress, StackName};
use decnet_wire::observed::{
    Attachment, ContainerState, ForeignNetwork, Interface, KernelFeature, Observed, ObservedContainer,
    ObservedImage, ObservedNetwork,
};

use crate::labels;
use crate::step::{ContainerSpec, NetworkMode, NetworkSpec, Step};

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
    pub lacks: Vec<KernelFeature>,
    /// Machines on the LAN that are not ours.
    pub strangers: BTreeMap<Ipv4Addr, MacAddress>,
    /// Whether a container that joins a namespace which is open is refused.
    pub strict_about_egress: bool,
    /// Containers whose process ends at once, with this exit code.
    pub broken: BTreeMap<String, i64>,
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
            })
            .collect();
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let ours = self
            .containers
            .values()
            .filter(|container| container.label(labels::HOST) == Some(&host));
        Observed {
            images: self.images.clone(),
            networks,
            containers: ours
                .filter_map(|container| self.observe_container(container))
                .collect(),
            interfaces: self.interfaces.clone(),
            foreign_networks: self.foreign_networks.clone(),
            lacks: self.lacks.clone(),
        }
    }

    fn observe_container(&self, container: &Container) -> Option<ObservedContainer> {
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
                    mac: endpoint.mac,
                })
                .collect(),
            _ => Vec::new(),
        };
        Some(ObservedContainer {
            id: container.id.clone(),
            name: container.spec.name.clone(),
            stack: text(labels::STACK).parse::<StackName>().ok()?,
            service: text(labels::SERVICE),
            hash: text(labels::HASH),
            image: container.spec.image.first().cloned().unwrap_or_default(),
            state: container.state.clone(),
            restarts: container.restarts,
            joined: container
                .joined
                .as_ref()
                .filter(|(id, run)| !stale(id, *run))
                .map(|(id, _)| id.clone()),
            warnings: Vec::new(),
            lock: container
                .lock
                .as_ref()
                .filter(|(run, _)| *run == container.run && container.active())
                .map(|(_, rules)| rules.clone()),
            expose: container.spec.expose.clone(),
            attachments,
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
            Step::PullImage { reference, .. } => {
                let id = self.id();
                self.images.push(ObservedImage {
                    id,
                    references: vec![reference.clone()],
                });
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
            Step::LockNamespace { name, rules, .. } => {
                let container = self
                    .containers
                    .get_mut(name)
                    .filter(|container| container.active() && container.joined.is_none())
                    .ok_or_else(|| format!("{name} has no namespace to close"))?;
                container.lock = Some((container.run, rules.clone()));
                Ok(())
            }
            Step::CreateContainer { container, .. } => self.create(container),
            Step::StartContainer { name, .. } => self.start(name),
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
            Step::BuildImage { .. }
            | Step::CreateVolume { .. }
            | Step::RemoveVolume { .. }
            | Step::WaitHealthy { .. }
            | Step::WaitCompleted { .. }
            | Step::RemoveImage { .. }
            | Step::RenameContainer { .. } => Err("not simulated".to_owned()),
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

    fn create(&mut self, spec: &ContainerSpec) -> Result<(), String> {
        let name = &spec.name;
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
        let known = |name: &String| {
            self.images
                .iter()
                .any(|i| i.id == *name || i.references.contains(name))
        };
        if !spec.image.iter().any(known) {
            return Err(format!("container {name}: no image {:?}", spec.image));
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
        let code = self.broken.get(name).copied();
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
        let container = self.containers.get_mut(name).ok_or("vanished")?;
        container.joined = joined;
        container.run += 1;
        container.restarts = 0;
        match code {
            None => {
                container.state = ContainerState::Running;
                Ok(())
            }
            Some(code) => {
                container.state = ContainerState::Exited { code };
                Err(format!("container {name} exited with code {code}"))
            }
        }
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
