//! Steps out of a survey, and what each waits for.
//!
//! Why there is always an order: images and probes wait for nothing; early stops and removals wait for images;
//! networks wait for early stops and removals; creations wait for all of these; stops of what is replaced wait for
//! all of the stack's creations, so that a creation that fails costs nothing that runs; starts wait for creations and
//! stops; late stops, removals and renames wait for starts, and nothing waits for them.
//!
//! A container that is replaced keeps its name until its replacement runs: that one is created as `NAME.next`.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::{InterfaceName, StackName};
use decnet_wire::observed::{ContainerState, ObservedContainer};

use super::STOP_TIMEOUT_S;
use super::graph::{Graph, Node};
use super::survey::{Cause, Fate, Survey, is_active, is_attached, staged_name};
use crate::changes::changes;
use crate::desired::DesiredService;
use crate::step::{ContainerSpec, Namespace, NetworkMode, Step, Why};

mod clash;
mod fetch;
mod starts;

use clash::clashes;
use fetch::fetch;
pub(super) use fetch::refresh;

pub(super) fn steps(survey: &Survey<'_>) -> Graph {
    let mut assembly = Assembly::new(survey);
    assembly.images();
    assembly.probes();
    assembly.cut_off();
    assembly.attached_orphans();
    assembly.networks();
    assembly.volumes();
    assembly.renames();
    assembly.creations();
    assembly.stops();
    assembly.starts();
    assembly.waits();
    assembly.replaced();
    assembly.orphans();
    assembly.graph
}

type Place<'a> = (&'a StackName, &'a str);

#[derive(Debug)]
struct Assembly<'s, 'a> {
    survey: &'s Survey<'a>,
    graph: Graph,
    images: BTreeMap<Vec<String>, Node>,
    /// What a stack's stops wait for: its images, and that nobody else has its new addresses.
    before_stops: BTreeMap<&'a StackName, BTreeSet<Node>>,
    probes: BTreeMap<Place<'a>, Vec<Node>>,
    /// Probes on an interface that the engine makes together with the network of that name.
    late_probes: Vec<(&'a str, Node)>,
    /// By container id.
    stops: BTreeMap<&'a str, Node>,
    /// By container id.
    removals: BTreeMap<&'a str, Node>,
    networks: BTreeMap<&'a str, Node>,
    volumes: BTreeMap<&'a str, Node>,
    renames: BTreeMap<Place<'a>, Node>,
    /// What uses the name that a container has until its replacement is finished.
    before_renames: BTreeMap<Place<'a>, Vec<Node>>,
    creations: BTreeMap<Place<'a>, Node>,
    /// Starts and unpauses.
    starts: BTreeMap<Place<'a>, Node>,
}

impl<'s, 'a> Assembly<'s, 'a> {
    fn new(survey: &'s Survey<'a>) -> Self {
        Self {
            survey,
            graph: Graph::default(),
            images: BTreeMap::new(),
            before_stops: BTreeMap::new(),
            probes: BTreeMap::new(),
            late_probes: Vec::new(),
            stops: BTreeMap::new(),
            removals: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            renames: BTreeMap::new(),
            before_renames: BTreeMap::new(),
            creations: BTreeMap::new(),
            starts: BTreeMap::new(),
        }
    }

    /// Desired services of stacks that are not blocked.
    fn services(&self) -> impl Iterator<Item = (Place<'a>, &'a DesiredService, Fate<'a>)> + use<'s, 'a> {
        let survey = self.survey;
        survey.fates.iter().filter_map(|(place, fate)| {
            let service = survey.desired.stack(place.0)?.services.get(place.1)?;
            Some((*place, &**service, *fate))
        })
    }

    fn images(&mut self) {
        for ((stack, _), service, fate) in self.services() {
            if !fate.creates() || service.image.is_among(&self.survey.observed.images) {
                continue;
            }
            let graph = &mut self.graph;
            let node = *self
                .images
                .entry(service.image.names())
                .or_insert_with(|| graph.add(None, fetch(&service.image)));
            self.before_stops.entry(stack).or_default().insert(node);
        }
    }

    /// Asks for every address that this host does not hold yet, while the rest is being made ready.
    fn probes(&mut self) {
        for (place, service, fate) in self.services() {
            let unproven = match fate {
                Fate::Create | Fate::Replace(..) => true,
                Fate::Start(container) => container.state == ContainerState::Created,
                Fate::Keep(_) | Fate::Unpause(_) | Fate::Restart(_) | Fate::Rename(_) => false,
            };
            if !unproven {
                continue;
            }
            for endpoint in service.spec.endpoints() {
                let network = self.survey.desired.networks().get_key_value(&endpoint.network);
                let Some((name, network)) = network else { continue };
                let parent: Option<InterfaceName> = network.parent().and_then(|parent| parent.parse().ok());
                let Some(parent) = parent.filter(|_| !network.is_routed()) else {
                    continue;
                };
                let interfaces = &self.survey.observed.interfaces;
                let is_there = interfaces.iter().any(|interface| interface.name == parent);
                for address in endpoint.addresses() {
                    if self.survey.holds(name, address) {
                        continue;
                    }
                    let step = Step::ProbeAddress {
                        name: service.spec.name.clone(),
                        network: name.clone(),
                        parent: parent.clone(),
                        address,
                    };
                    let node = self.graph.add(Some(place.0), step);
                    self.probes.entry(place).or_default().push(node);
                    if is_there {
                        self.before_stops.entry(place.0).or_default().insert(node);
                    } else {
                        self.late_probes.push((name, node));
                    }
                }
            }
        }
    }

    /// What is replaced and attached to a network that goes has to stop before it. The engine lets a network go that
    /// only containers at rest are attached to.
    fn cut_off(&mut self) {
        for ((stack, _), service, fate) in self.services() {
            if let Fate::Replace(container, _) = fate
                && self.survey.is_cut_off(container)
            {
                self.stop(stack, container, stop_timeout(service));
            }
        }
    }

    /// What is attached to a network that goes has to go before it, whatever becomes of its stack.
    fn attached_orphans(&mut self) {
        for (stack, orphans) in &self.survey.orphans {
            for container in orphans {
                if self
                    .survey
                    .leaving
                    .iter()
                    .any(|network| is_attached(container, &network.name))
                {
                    self.stop(stack, container, STOP_TIMEOUT_S);
                    self.remove(stack, container);
                }
            }
        }
    }

    fn networks(&mut self) {
        let mut leaving = self.host_links_leaving();
        for network in &self.survey.leaving {
            let step = Step::RemoveNetwork {
                name: network.name.clone(),
                id: network.id.clone(),
            };
            let node = self.graph.add(None, step);
            let attached = self
                .survey
                .observed
                .containers
                .iter()
                .filter(|other| is_attached(other, &network.name));
            let gone = attached.flat_map(|container| {
                let id = container.id.as_str();
                self.removals.get(id).or(self.stops.get(id)).copied()
            });
            self.graph.after(node, gone);
            leaving.push(node);
        }
        for network in &self.survey.coming {
            let step = Step::CreateNetwork {
                network: (*network).clone(),
            };
            let node = self.graph.add(None, step);
            // The engine refuses a subnet or a parent that another network holds; a new name can stand for both.
            self.graph.after(node, leaving.iter().copied());
            self.networks.insert(network.name.as_str(), node);
        }
        self.host_links_coming(&leaving);
        for (network, probe) in &self.late_probes {
            self.graph.after(*probe, self.networks.get(network).copied());
        }
    }

    /// Links of the host itself that nobody wants, or that sit on something else. One of another kind would keep
    /// every container off the parent.
    fn host_links_leaving(&mut self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (link, alias) in &self.survey.host_links_leaving {
            let step = Step::RemoveHostLink {
                name: link.name.clone(),
                alias: (*alias).to_owned(),
            };
            nodes.push(self.graph.add(None, step));
        }
        nodes
    }

    fn host_links_coming(&mut self, leaving: &[Node]) {
        for link in &self.survey.host_links_coming {
            let step = Step::CreateHostLink { link: link.clone() };
            let node = self.graph.add(None, step);
            self.graph.after(node, leaving.iter().copied());
            // The engine may have to make the parent first.
            let network = self.networks.get(link.network.as_str()).copied();
            self.graph.after(node, network);
        }
    }

    /// Volumes that are not there. One that is there stays as it is, whoever has made it.
    fn volumes(&mut self) {
        let survey = self.survey;
        for (_, service, _) in self.services().filter(|(_, _, fate)| fate.creates()) {
            for name in service.volumes() {
                let there = survey.observed.volumes.iter().any(|volume| volume.name == name);
                if let Some((name, volume)) = survey.desired.volumes().get_key_value(name).filter(|_| !there)
                {
                    let graph = &mut self.graph;
                    self.volumes.entry(name).or_insert_with(|| {
                        let volume = volume.clone();
                        graph.add(None, Step::CreateVolume { volume })
                    });
                }
            }
        }
    }

    /// The name that a container has from its creation to the end of its start.
    fn name(&self, stack: &'a StackName, key: &str) -> Option<String> {
        let service = self.survey.desired.stack(stack)?.services.get(key)?;
        let fate = self.survey.fates.get(&(stack, key))?;
        Some(match fate {
            Fate::Replace(..) => staged_name(&service.spec.name),
            _ => service.spec.name.clone(),
        })
    }

    /// Gives back the names that somebody has changed.
    fn renames(&mut self) {
        for (place, service, fate) in self.services() {
            let Fate::Rename(container) = fate else { continue };
            let step = Step::RenameContainer {
                from: container.name.clone(),
                id: Some(container.id.clone()),
                to: service.spec.name.clone(),
            };
            let node = self.graph.add(Some(place.0), step);
            self.renames.insert(place, node);
        }
    }

    fn creations(&mut self) {
        let survey = self.survey;
        for (place, service, fate) in self.services().filter(|(_, _, fate)| fate.creates()) {
            let (staged, inherit) = match fate {
                Fate::Replace(container, _) => (
                    Some(staged_name(&service.spec.name)),
                    // Decoys begin anew; a project keeps what its containers have written.
                    survey.desired.is_project().then(|| container.id.clone()),
                ),
                _ => (None, None),
            };
            // An earlier replacement that is none any more has the name.
            let rival = staged.as_ref().and_then(|name| {
                let mut orphans = survey.orphans.get(place.0).into_iter().flatten();
                orphans.find(|orphan| orphan.name == *name).copied()
            });
            let cleared = rival.map(|rival| {
                self.stop(place.0, rival, STOP_TIMEOUT_S);
                self.remove(place.0, rival)
            });
            let step = Step::CreateContainer {
                container: Box::new(self.at_present(place.0, service)),
                staged,
                inherit,
            };
            let node = self.graph.add(Some(place.0), step);
            if let Fate::Replace(container, cause) = fate {
                self.graph.explain(node, why(service, container, cause));
            }
            self.graph.after(node, cleared);
            self.graph
                .after(node, self.images.get(&service.image.names()).copied());
            let networks = service
                .networks()
                .filter_map(|name| self.networks.get(name).copied());
            self.graph.after(node, networks);
            let volumes = service
                .volumes()
                .filter_map(|name| self.volumes.get(name).copied());
            self.graph.after(node, volumes);
            self.creations.insert(place, node);
        }
        // The engine looks up the containers that a new one shares something with when it creates it.
        for ((stack, key), service, _) in self.services() {
            let Some(node) = self.creations.get(&(stack, key)).copied() else {
                continue;
            };
            let linked = service.waits.keys().map(String::as_str);
            let linked = linked.filter(|_| !service.spec.links.is_empty());
            for other in service.owners().chain(linked) {
                let other = (stack, other);
                self.graph.after(node, self.creations.get(&other).copied());
                self.graph.after(node, self.renames.get(&other).copied());
            }
        }
    }

    /// The specification with the names that the containers it shares something with have now.
    fn at_present(&self, stack: &'a StackName, service: &DesiredService) -> ContainerSpec {
        let mut spec = service.spec.clone();
        let mut renamed = BTreeMap::new();
        for owner in service.owners() {
            if let (Some(other), Some(name)) = (
                self.survey
                    .desired
                    .stack(stack)
                    .and_then(|stack| stack.services.get(owner)),
                self.name(stack, owner),
            ) {
                renamed.insert(other.spec.name.clone(), name);
            }
        }
        let replace = |name: &mut String| {
            if let Some(now) = renamed.get(name) {
                name.clone_from(now);
            }
        };
        if let NetworkMode::Container { name } = &mut spec.network {
            replace(name);
        }
        for namespace in [&mut spec.namespaces.pid, &mut spec.namespaces.ipc] {
            if let Namespace::Container { name } = namespace {
                replace(name);
            }
        }
        for shared in spec.volumes_from.iter_mut().filter(|shared| !shared.foreign) {
            replace(&mut shared.container);
        }
        spec
    }

    /// Stops what is replaced or restarted, once everything of the stack that is to be made is there.
    fn stops(&mut self) {
        for ((stack, _), service, fate) in self.services() {
            let container = match fate {
                Fate::Replace(container, _) if !self.stops.contains_key(container.id.as_str()) => container,
                Fate::Restart(container) => container,
                _ => continue,
            };
            if let Some(node) = self.stop(stack, container, stop_timeout(service)) {
                let creations = self.creations_of(stack);
                self.graph.after(node, creations);
            }
        }
    }

    fn creations_of(&self, stack: &StackName) -> Vec<Node> {
        let creations = self.creations.iter();
        creations
            .filter(|((other, _), _)| *other == stack)
            .map(|(_, node)| *node)
            .collect()
    }

    /// Once a replacement runs, what it replaces goes, and it gets its name.
    fn replaced(&mut self) {
        for (place, service, fate) in self.services() {
            let Fate::Replace(container, _) = fate else {
                continue;
            };
            let start = self.starts.get(&place).copied();
            let removal = self.remove(place.0, container);
            self.graph.after(removal, start);
            let creations = self.creations_of(place.0);
            let rename = self.graph.add(
                Some(place.0),
                Step::RenameContainer {
                    from: staged_name(&service.spec.name),
                    id: None,
                    to: service.spec.name.clone(),
                },
            );
            self.graph.after(rename, creations);
            self.graph.after(rename, start);
            self.graph.after(rename, [removal]);
            let users = self.before_renames.get(&place).into_iter().flatten();
            self.graph.after(rename, users.copied().collect::<Vec<_>>());
        }
    }

    /// Orphans: late by default, early where one of the starts cannot be beside them.
    fn orphans(&mut self) {
        for (stack, orphans) in &self.survey.orphans {
            let waiters: Vec<Node> = self
                .starts
                .iter()
                .filter(|((other, _), _)| other == stack)
                .map(|(_, node)| *node)
                .collect();
            for container in orphans {
                if self.removals.contains_key(container.id.as_str()) {
                    continue;
                }
                let rivals = self.rivals(container);
                let stop = self.stop(stack, container, STOP_TIMEOUT_S);
                let removal = self.remove(stack, container);
                let reason = "nothing asks for it any more".to_owned();
                let changes = Vec::new();
                self.graph.explain(removal, Why { reason, changes });
                self.graph.after(removal, waiters.iter().copied());
                if rivals.is_empty() {
                    self.graph.after(stop.unwrap_or(removal), waiters.iter().copied());
                    continue;
                }
                for rival in rivals {
                    let start = self.starts.get(&rival).copied();
                    self.graph.after(removal, start);
                    if let Some(start) = start
                        && self.survey.desired.is_project()
                        && is_active(&container.state)
                        && let Step::StartContainer { fallback, .. } = self.graph.step_mut(start)
                    {
                        fallback.push(container.id.clone());
                    }
                    if let (Some(stop), Some(start)) = (stop, start) {
                        self.graph.after(stop, self.creations.get(&rival).copied());
                        self.graph.after(start, [stop]);
                    }
                }
            }
        }
    }

    /// What is to start and cannot run beside an orphan.
    fn rivals(&self, orphan: &ObservedContainer) -> Vec<Place<'a>> {
        self.services()
            .filter(|(place, service, _)| {
                self.starts.contains_key(place) && clashes(place.0, service, orphan)
            })
            .map(|(place, _, _)| place)
            .collect()
    }

    /// Stops of containers that hold an address, MAC or port of a service.
    fn in_the_way(&self, stack: &StackName, service: &DesiredService) -> Vec<Node> {
        if self.stops.is_empty() {
            return Vec::new();
        }
        let holds = |container: &&ObservedContainer| {
            container.name != service.spec.name && clashes(stack, service, container)
        };
        let held = self.survey.observed.containers.iter().filter(holds);
        held.filter_map(|container| self.stops.get(container.id.as_str()).copied())
            .collect()
    }

    fn stop(
        &mut self,
        stack: &'a StackName,
        container: &'a ObservedContainer,
        timeout_s: u32,
    ) -> Option<Node> {
        if !is_active(&container.state) {
            return None;
        }
        let step = Step::StopContainer {
            name: container.name.clone(),
            id: container.id.clone(),
            timeout_s,
        };
        let node = self.graph.add(Some(stack), step);
        self.graph
            .after(node, self.before_stops.get(stack).into_iter().flatten().copied());
        self.stops.insert(&container.id, node);
        Some(node)
    }

    fn remove(&mut self, stack: &'a StackName, container: &'a ObservedContainer) -> Node {
        let step = Step::RemoveContainer {
            name: container.name.clone(),
            id: container.id.clone(),
        };
        let node = self.graph.add(Some(stack), step);
        self.graph
            .after(node, self.stops.get(container.id.as_str()).copied());
        self.graph
            .after(node, self.before_stops.get(stack).into_iter().flatten().copied());
        self.removals.insert(&container.id, node);
        node
    }
}

fn stop_timeout(service: &DesiredService) -> u32 {
    service.spec.stop_timeout_s.unwrap_or(STOP_TIMEOUT_S)
}

fn why(service: &DesiredService, container: &ObservedContainer, cause: Cause) -> Why {
    let reason = match cause {
        Cause::Outdated => "it is to be another one",
        Cause::Image => "its image's name means another image now",
        Cause::Updated => "somebody has changed its limits or its restart policy",
        Cause::Broken => "the engine has half removed it",
        Cause::Network => "it is not on its network as it should be",
        Cause::Namespace => "what it shares with another container is made anew",
    };
    let old = container.spec.as_deref().filter(|_| cause == Cause::Outdated);
    Why {
        reason: reason.to_owned(),
        changes: old.map_or_else(Vec::new, |old| changes(old, &service.spec)),
    }
}
