//! Steps out of a survey, and what each waits for.
//!
//! Why there is always an order: images and probes wait for nothing; early stops and removals wait for images and creations;
//! networks wait for early removals that no creation precedes; creations wait for all of these; starts wait for
//! creations and early stops; late stops and removals wait for starts, and nothing waits for them.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::{InterfaceName, StackName};
use decnet_wire::observed::{ContainerState, ObservedContainer};

use super::graph::{Graph, Node};
use super::survey::{Fate, Survey, is_active, is_attached};
use super::{OWNER_SETTLE_MS, SETTLE_MS, STOP_TIMEOUT_S};
use crate::desired::{DesiredService, Image, endpoints};
use crate::step::Step;

pub(super) fn steps(survey: &Survey<'_>) -> Graph {
    let mut assembly = Assembly::new(survey);
    assembly.images();
    assembly.probes();
    assembly.replaced();
    assembly.attached_orphans();
    assembly.networks();
    assembly.creations();
    assembly.starts();
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
            creations: BTreeMap::new(),
            starts: BTreeMap::new(),
        }
    }

    /// Desired services of stacks that are not blocked.
    fn services(&self) -> impl Iterator<Item = (Place<'a>, &'a DesiredService, Fate<'a>)> + use<'s, 'a> {
        let survey = self.survey;
        survey.fates.iter().filter_map(|(place, fate)| {
            let service = survey.desired.stack(place.0)?.services.get(place.1)?;
            Some((*place, service, *fate))
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
                Fate::Keep(_) | Fate::Unpause(_) => false,
            };
            if !unproven {
                continue;
            }
            for endpoint in endpoints(&service.spec) {
                let network = self.survey.desired.networks().get_key_value(&endpoint.network);
                let Some((name, network)) = network else { continue };
                let parent: Option<InterfaceName> = network.parent().and_then(|parent| parent.parse().ok());
                let (Some(parent), Some(address)) = (parent, endpoint.address) else {
                    continue;
                };
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
                let interfaces = &self.survey.observed.interfaces;
                if interfaces.iter().any(|interface| interface.name == parent) {
                    self.before_stops.entry(place.0).or_default().insert(node);
                } else {
                    self.late_probes.push((name, node));
                }
            }
        }
    }

    fn replaced(&mut self) {
        for ((stack, _), service, fate) in self.services() {
            let Fate::Replace(container, _) = fate else {
                continue;
            };
            let timeout_s = service.spec.stop_timeout_s.unwrap_or(STOP_TIMEOUT_S);
            self.stop(stack, container, timeout_s);
            self.remove(stack, container);
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
        let mut leaving = Vec::new();
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
            let removals = attached.filter_map(|container| self.removals.get(container.id.as_str()).copied());
            self.graph.after(node, removals);
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
        for (network, probe) in &self.late_probes {
            self.graph.after(*probe, self.networks.get(network).copied());
        }
    }

    fn creations(&mut self) {
        for (place, service, fate) in self.services().filter(|(_, _, fate)| fate.creates()) {
            let step = Step::CreateContainer {
                container: Box::new(service.spec.clone()),
                staged: None,
                inherit: None,
            };
            let node = self.graph.add(Some(place.0), step);
            self.graph
                .after(node, self.images.get(&service.image.names()).copied());
            if let Fate::Replace(container, _) = fate {
                self.graph
                    .after(node, self.removals.get(container.id.as_str()).copied());
            }
            let networks = service
                .networks()
                .filter_map(|name| self.networks.get(name).copied());
            self.graph.after(node, networks);
            self.creations.insert(place, node);
        }
        // The engine resolves the owner of a namespace to its id when it creates the one that joins.
        for ((stack, name), service, _) in self.services() {
            if let (Some(node), Some(owner)) = (self.creations.get(&(stack, name)), &service.joins) {
                self.graph
                    .after(*node, self.creations.get(&(stack, owner.as_str())).copied());
            }
        }
    }

    fn starts(&mut self) {
        let owners: BTreeSet<Place<'_>> = self
            .services()
            .filter_map(|((stack, _), service, _)| Some((stack, service.joins.as_deref()?)))
            .collect();
        for (place, service, fate) in self.services() {
            let name = service.spec.name.clone();
            let settle_ms = if owners.contains(&place) {
                OWNER_SETTLE_MS
            } else {
                SETTLE_MS
            };
            let step = match fate {
                Fate::Unpause(container) => Step::UnpauseContainer {
                    name,
                    id: container.id.clone(),
                },
                Fate::Start(_) | Fate::Create | Fate::Replace(..) => Step::StartContainer {
                    name,
                    settle_ms,
                    fallback: Vec::new(),
                },
                // While something waits to go, one that has been restarted has to prove that it stays up.
                Fate::Keep(container)
                    if container.restarts > 0 && self.survey.orphans.contains_key(place.0) =>
                {
                    Step::StartContainer {
                        name,
                        settle_ms,
                        fallback: Vec::new(),
                    }
                }
                Fate::Keep(_) => continue,
            };
            let node = self.graph.add(Some(place.0), step);
            self.graph.after(node, self.creations.get(&place).copied());
            self.graph
                .after(node, self.probes.get(&place).into_iter().flatten().copied());
            self.starts.insert(place, node);
        }
        let locks = self.locks();
        for ((stack, name), service, _) in self.services() {
            let Some(node) = self.starts.get(&(stack, name)).copied() else {
                continue;
            };
            let others = service
                .after()
                .filter_map(|other| self.starts.get(&(stack, other)));
            self.graph.after(node, others.copied().collect::<Vec<_>>());
            if let Some(owner) = service.joins.as_deref() {
                self.graph.after(node, locks.get(&(stack, owner)).copied());
            }
            let stops = self.in_the_way(stack, service);
            self.graph.after(node, stops);
        }
    }

    /// Closes the namespaces that are new or open. Whoever is about to join one waits for that; who is in an earlier
    /// one of the same container, and would be put into the new one by its restart policy, is stopped first.
    fn locks(&mut self) -> BTreeMap<Place<'a>, Node> {
        let mut locks = BTreeMap::new();
        for (place, service, fate) in self.services() {
            let Some(egress) = self.survey.to_close(service, fate) else {
                continue;
            };
            let step = Step::LockNamespace {
                name: service.spec.name.clone(),
                egress: egress.clone(),
                rules: egress.rules(),
            };
            let node = self.graph.add(Some(place.0), step);
            self.graph.after(node, self.starts.get(&place).copied());
            locks.insert(place, node);
        }
        for ((stack, _), service, fate) in self.services() {
            let (Some(owner), Fate::Replace(container, _)) = (service.joins.as_deref(), fate) else {
                continue;
            };
            if let (Some(start), Some(stop)) = (
                self.starts.get(&(stack, owner)),
                self.stops.get(container.id.as_str()),
            ) {
                self.graph.after(*start, [*stop]);
            }
        }
        locks
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
                self.graph.after(removal, waiters.iter().copied());
                if rivals.is_empty() {
                    self.graph.after(stop.unwrap_or(removal), waiters.iter().copied());
                    continue;
                }
                for rival in rivals {
                    let start = self.starts.get(&rival).copied();
                    self.graph.after(removal, start);
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

fn fetch(image: &Image) -> Step {
    match image {
        Image::Archive(archive) => Step::LoadImage {
            blob: archive.blob.clone(),
            size: archive.size,
            reference: archive.reference.clone(),
            image_ids: archive.image_ids.clone(),
        },
        Image::Named(_) => Step::PullImage {
            reference: image.names().concat(),
            platform: None,
            always: false,
            optional: false,
        },
        Image::Pinned(reference) => Step::PullImage {
            reference: reference.clone(),
            platform: None,
            always: false,
            optional: false,
        },
    }
}

/// Whether a service cannot run beside a container: they would share a port (within a stack, where services share a
/// namespace), an address or a MAC.
fn clashes(stack: &StackName, service: &DesiredService, container: &ObservedContainer) -> bool {
    fn same<T: PartialEq + Copy>(a: Option<T>, b: Option<T>) -> bool {
        a.is_some() && a == b
    }
    let ports = container.stack == *stack
        && service
            .spec
            .expose
            .iter()
            .any(|port| container.expose.contains(port));
    ports
        || endpoints(&service.spec).iter().any(|endpoint| {
            container.attachments.iter().any(|attachment| {
                attachment.network == endpoint.network
                    && (same(attachment.address, endpoint.address) || same(attachment.mac, endpoint.mac))
            })
        })
}
