//! Compares what is desired with what is observed, object by object. No order yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::StackName;
use decnet_wire::observed::{ContainerState, KernelFeature, Observed, ObservedContainer, ObservedNetwork};

use super::preflight;
use crate::compose::Egress;
use crate::desired::{Desired, DesiredService, DesiredStack, endpoints};
use crate::labels;
use crate::policy::{self, Policy};
use crate::step::NetworkSpec;

/// What is to become of everything.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    /// Desired containers of stacks that are not blocked, by stack and service.
    pub(super) fates: BTreeMap<(&'a StackName, &'a str), Fate<'a>>,
    /// Observed containers that are not desired, by the stack of their label; none of a blocked stack.
    pub(super) orphans: BTreeMap<&'a StackName, Vec<&'a ObservedContainer>>,
    /// Networks on the engine that go, to be made anew or for good.
    pub(super) leaving: Vec<&'a ObservedNetwork>,
    /// Networks to make.
    pub(super) coming: Vec<&'a NetworkSpec>,
    pub(super) blocked_networks: BTreeMap<&'a str, Block>,
    pub(super) blocked_stacks: BTreeMap<&'a StackName, String>,
}

/// Why nothing can be done with a network.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) reason: String,
    /// A stack that is blocked for that reason tells it.
    pub(super) told: bool,
}

/// What is to become of a desired container.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate<'a> {
    /// It is as desired and runs.
    Keep(&'a ObservedContainer),
    /// It is as desired and does not run.
    Start(&'a ObservedContainer),
    Unpause(&'a ObservedContainer),
    /// There is none.
    Create,
    /// There is another one of its name, or it cannot be repaired in place.
    Replace(&'a ObservedContainer, Cause),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Made from another specification.
    Outdated,
    /// The engine has half removed it.
    Broken,
    /// Its network is made anew, or it has lost its attachment, address or MAC.
    Network,
    /// The namespace that it shares is not that of the container that it is to join.
    Namespace,
}

impl Fate<'_> {
    pub(super) fn creates(&self) -> bool {
        matches!(self, Self::Create | Self::Replace(..))
    }
}

impl<'a> Survey<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, policy: Option<&Policy>) -> Self {
        let mut survey = Self {
            desired,
            observed,
            fates: BTreeMap::new(),
            orphans: BTreeMap::new(),
            leaving: Vec::new(),
            coming: Vec::new(),
            blocked_networks: BTreeMap::new(),
            blocked_stacks: BTreeMap::new(),
        };
        survey.block_networks();
        if let Some(policy) = policy {
            survey.block_violations(policy);
        }
        survey.compare_networks();
        survey.compare_containers();
        survey
    }

    /// The owner of a name is the stack that desires it; of a name that nobody desires, the stack of the label.
    fn owner(
        &self,
        names: &BTreeMap<&str, &'a StackName>,
        container: &'a ObservedContainer,
    ) -> &'a StackName {
        names
            .get(container.name.as_str())
            .copied()
            .unwrap_or(&container.stack)
    }

    fn block_networks(&mut self) {
        for (name, network) in self.desired.networks() {
            if let Some(reason) = preflight::obstacle(name, network, self.desired, self.observed) {
                self.block_network(name, reason);
            }
        }
        for (stack, desired) in self.desired.stacks() {
            let mut endpoints = desired
                .services
                .values()
                .flat_map(|service| endpoints(&service.spec));
            let reason = endpoints.find_map(|endpoint| {
                let network = self.desired.networks().get(&endpoint.network)?;
                preflight::address_obstacle(endpoint.address?, network, self.observed)
            });
            let closed = desired.services.values().any(|service| service.egress.is_some());
            let unclosable = closed && self.observed.lacks.contains(&KernelFeature::Nftables);
            let reason = reason.or_else(|| unclosable.then(|| preflight::NO_NFTABLES.to_owned()));
            if let Some(reason) = reason {
                self.blocked_stacks.entry(stack).or_insert(reason);
            }
        }
    }

    fn block_violations(&mut self, policy: &Policy) {
        for violation in policy::check(self.desired, policy) {
            let reason = format!("the policy forbids it: {violation}");
            match &violation.stack {
                None => {
                    let name = self.desired.networks().get_key_value(&violation.service);
                    if let Some((name, _)) = name {
                        self.block_network(name, reason);
                    }
                }
                Some(stack) => {
                    if let Some((stack, _)) = self.desired.stacks().find(|(name, _)| *name == stack) {
                        self.blocked_stacks.entry(stack).or_insert(reason);
                    }
                }
            }
        }
    }

    /// Blocks a network and every stack that is to join it.
    fn block_network(&mut self, name: &'a str, reason: String) {
        let users: Vec<_> = self
            .desired
            .stacks()
            .filter(|(_, stack)| uses(stack, name))
            .map(|(stack, _)| stack)
            .collect();
        let told = !users.is_empty();
        for stack in users {
            self.blocked_stacks.entry(stack).or_insert_with(|| reason.clone());
        }
        self.blocked_networks
            .entry(name)
            .or_insert(Block { reason, told });
    }

    fn compare_networks(&mut self) {
        let names = self.container_names();
        let mut present: BTreeMap<&str, Vec<&ObservedNetwork>> = BTreeMap::new();
        for network in &self.observed.networks {
            present.entry(&network.name).or_default().push(network);
        }
        // A network cannot go while a blocked stack is attached to it, which can block further stacks: until
        // nothing changes any more. Each round but the last blocks one more network, so it ends.
        loop {
            self.leaving.clear();
            self.coming.clear();
            let mut held = None;
            for (name, group) in &present {
                let wanted = self.desired.networks().get(*name);
                let fits = |network: &NetworkSpec| match group.as_slice() {
                    [only] => Some(&only.hash) == network.labels.get(labels::HASH),
                    _ => false,
                };
                if wanted.is_some_and(fits) || self.blocked_networks.contains_key(name) {
                    continue;
                }
                let holder = self.observed.containers.iter().find(|container| {
                    is_attached(container, name)
                        && self.blocked_stacks.contains_key(self.owner(&names, container))
                });
                match holder {
                    Some(container) => {
                        held = Some((
                            *name,
                            format!("network {name} cannot go: {} needs it", container.name),
                        ));
                    }
                    None => self.leaving.extend(group),
                }
            }
            match held {
                Some((name, reason)) => self.block_network(name, reason),
                None => break,
            }
        }
        self.leaving.sort_by_key(|network| (&network.name, &network.id));
        let leaving: BTreeSet<&str> = self.leaving.iter().map(|network| network.name.as_str()).collect();
        for (name, network) in self.desired.networks() {
            let absent = !present.contains_key(name.as_str()) || leaving.contains(name.as_str());
            if absent && !self.blocked_networks.contains_key(name.as_str()) {
                self.coming.push(network);
            }
        }
    }

    fn container_names(&self) -> BTreeMap<&'a str, &'a StackName> {
        self.desired
            .containers()
            .map(|(stack, _, spec)| (spec.name.as_str(), stack))
            .collect()
    }

    fn compare_containers(&mut self) {
        let by_name: BTreeMap<&str, &ObservedContainer> = self
            .observed
            .containers
            .iter()
            .map(|container| (container.name.as_str(), container))
            .collect();
        for (stack, wanted) in self.desired.stacks() {
            if self.blocked_stacks.contains_key(stack) {
                continue;
            }
            // Owners of namespaces first: what becomes of them decides about those that join.
            let (owners, joining): (Vec<_>, Vec<_>) = wanted
                .services
                .iter()
                .partition(|(_, service)| service.joins.is_none());
            for (name, service) in owners.into_iter().chain(joining) {
                let observed = by_name.get(service.spec.name.as_str()).copied();
                let owner = service
                    .joins
                    .as_deref()
                    .and_then(|owner| self.fates.get(&(stack, owner)).copied());
                self.fates
                    .insert((stack, name), self.fate(service, observed, owner));
            }
        }
        let names = self.container_names();
        for container in &self.observed.containers {
            if !names.contains_key(container.name.as_str())
                && !self.blocked_stacks.contains_key(&container.stack)
            {
                self.orphans.entry(&container.stack).or_default().push(container);
            }
        }
        for orphans in self.orphans.values_mut() {
            orphans.sort_by_key(|container| (&container.name, &container.id));
        }
    }

    fn fate(
        &self,
        service: &DesiredService,
        observed: Option<&'a ObservedContainer>,
        owner: Option<Fate<'a>>,
    ) -> Fate<'a> {
        let Some(container) = observed else {
            return Fate::Create;
        };
        if let Some(cause) = self.cause_to_replace(service, container, owner) {
            return Fate::Replace(container, cause);
        }
        match container.state {
            ContainerState::Running => Fate::Keep(container),
            ContainerState::Paused => Fate::Unpause(container),
            // A start of one that the engine restarts changes nothing, but tells whether it stays up, and why not.
            _ => Fate::Start(container),
        }
    }

    fn cause_to_replace(
        &self,
        service: &DesiredService,
        container: &ObservedContainer,
        owner: Option<Fate<'_>>,
    ) -> Option<Cause> {
        if matches!(container.state, ContainerState::Dead | ContainerState::Removing) {
            return Some(Cause::Broken);
        }
        if container.hash != service.hash() {
            return Some(Cause::Outdated);
        }
        let leaving = |name: &str| self.leaving.iter().any(|network| network.name == name);
        let coming = |name: &str| self.coming.iter().any(|network| network.name.as_str() == name);
        let mut attached = container
            .attachments
            .iter()
            .map(|attachment| attachment.network.as_str());
        let moved = attached.any(leaving) || service.networks().any(coming);
        if moved || !self.has_endpoints(service, container) {
            return Some(Cause::Network);
        }
        // A namespace lives as long as one run of its owner: whoever is in it then is cut off from the next run.
        let lost = match owner {
            None => false,
            Some(Fate::Create | Fate::Replace(..)) => true,
            Some(Fate::Start(owner)) => {
                is_active(&container.state) || container.joined.as_ref() != Some(&owner.id)
            }
            Some(Fate::Keep(owner) | Fate::Unpause(owner)) => container.joined.as_ref() != Some(&owner.id),
        };
        lost.then_some(Cause::Namespace)
    }

    /// What the namespace of a container has to be closed with, when it is not yet, or is about to be a new one.
    pub(super) fn to_close(&self, service: &'a DesiredService, fate: Fate<'a>) -> Option<&'a Egress> {
        let egress = service.egress.as_ref()?;
        let closed = match fate {
            Fate::Keep(container) | Fate::Unpause(container) => {
                container.lock.as_ref() == Some(&egress.rules())
            }
            Fate::Start(_) | Fate::Create | Fate::Replace(..) => false,
        };
        (!closed).then_some(egress)
    }

    /// Whether a container of ours has had this address since it was first started, so that nobody else can have it
    /// without our knowing.
    pub(super) fn holds(&self, network: &str, address: Ipv4Addr) -> bool {
        self.observed.containers.iter().any(|container| {
            container.state != ContainerState::Created
                && container
                    .attachments
                    .iter()
                    .any(|attachment| attachment.network == network && attachment.address == Some(address))
        })
    }

    /// An id, an address or a MAC that the engine does not tell, as of a container that does not run, is no difference.
    fn has_endpoints(&self, service: &DesiredService, container: &ObservedContainer) -> bool {
        fn fits<T: PartialEq + Copy>(wanted: Option<T>, seen: Option<T>) -> bool {
            wanted.is_none() || seen.is_none() || wanted == seen
        }
        endpoints(&service.spec).iter().all(|endpoint| {
            let mut networks = self.observed.networks.iter();
            let network = networks.find(|network| network.name == endpoint.network);
            container.attachments.iter().any(|attachment| {
                attachment.network == endpoint.network
                    && fits(network.map(|network| &network.id), attachment.network_id.as_ref())
                    && fits(endpoint.address, attachment.address)
                    && fits(endpoint.mac, attachment.mac)
            })
        })
    }
}

/// Whether the container's process exists, or the engine is about to start it.
pub(super) fn is_active(state: &ContainerState) -> bool {
    matches!(
        state,
        ContainerState::Running | ContainerState::Paused | ContainerState::Restarting { .. }
    )
}

pub(super) fn is_attached(container: &ObservedContainer, network: &str) -> bool {
    container
        .attachments
        .iter()
        .any(|attachment| attachment.network == network)
}

fn uses(stack: &DesiredStack, network: &str) -> bool {
    stack
        .services
        .values()
        .any(|service| service.networks().any(|name| name == network))
}
