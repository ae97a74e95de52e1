//! Compares what is desired with what is observed, object by object. No order yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use decnet_wire::ids::StackName;
use decnet_wire::observed::{
    ContainerState, Feature, Interface, Observed, ObservedContainer, ObservedNetwork,
};

use super::{preflight, tuning};
use crate::compose::{Condition, Egress, PullPolicy};
use crate::desired::{Desired, DesiredService, DesiredStack, HOST_LINK, Image, is_ours};
use crate::labels;
use crate::policy::{self, Policy};
use crate::step::{HostLink, NetworkSpec, RestartPolicy};

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
    /// Links of the host itself that go, with what is written on them.
    pub(super) host_links_leaving: Vec<(&'a Interface, &'a str)>,
    /// Links of the host itself to make.
    pub(super) host_links_coming: Vec<HostLink>,
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
    /// It is as desired and runs, and is to run anew, because what it depends on is made anew.
    Restart(&'a ObservedContainer),
    /// It is as desired, under another name: somebody's, or that of a replacement which was not finished.
    Rename(&'a ObservedContainer),
    /// There is none.
    Create,
    /// There is another one of its name, or it cannot be repaired in place.
    Replace(&'a ObservedContainer, Cause),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Made from another specification.
    Outdated,
    /// Its image's name means another image by now.
    Image,
    /// Somebody has changed its limits or its restart policy.
    Updated,
    /// The engine has half removed it.
    Broken,
    /// Its network is made anew, or it has lost its attachment, address or MAC.
    Network,
    /// A namespace or volumes that it shares are not those of the container that it is to share them with.
    Namespace,
}

/// The name under which a replacement is created while the container that it replaces has its own.
pub(super) fn staged_name(name: &str) -> String {
    format!("{name}{STAGED}")
}

/// Names of desired containers must not end so that they could be taken for one another's replacements.
pub(crate) const STAGED: &str = ".next";

impl Fate<'_> {
    pub(super) fn creates(&self) -> bool {
        matches!(self, Self::Create | Self::Replace(..))
    }

    /// Whether its processes are going to be new ones, with namespaces of their own.
    fn begins_anew(&self) -> bool {
        match self {
            Self::Create | Self::Replace(..) | Self::Start(_) | Self::Restart(_) => true,
            Self::Rename(container) => {
                !matches!(container.state, ContainerState::Running | ContainerState::Paused)
            }
            Self::Keep(_) | Self::Unpause(_) => false,
        }
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
            host_links_leaving: Vec::new(),
            host_links_coming: Vec::new(),
            blocked_networks: BTreeMap::new(),
            blocked_stacks: BTreeMap::new(),
        };
        survey.block_networks();
        if let Some(policy) = policy {
            survey.block_violations(policy);
        }
        survey.block_unfetchable();
        survey.compare_networks();
        survey.compare_host_links();
        survey.compare_containers();
        survey
    }

    /// A container that is to be made needs its image, and some images are only ever on the engine already.
    fn block_unfetchable(&mut self) {
        for (stack, wanted) in self.desired.stacks() {
            let missing = wanted.services.values().find(|service| {
                let there = |other: &ObservedContainer| {
                    other.name == service.spec.name && other.hash == service.hash()
                };
                let never = match &service.image {
                    Image::Named(named) => named.policy == PullPolicy::Never && named.build.is_none(),
                    Image::Archive(_) | Image::Pinned(_) => false,
                };
                never
                    && !service.image.is_among(&self.observed.images)
                    && !self.observed.containers.iter().any(there)
            });
            if let Some(service) = missing {
                let reason = format!(
                    "service {}: the engine has no image {}, and its pull_policy is never",
                    service.service,
                    service.spec.image.concat()
                );
                self.blocked_stacks.entry(stack).or_insert(reason);
            }
        }
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
                .flat_map(|service| service.spec.endpoints());
            let reason = endpoints.find_map(|endpoint| {
                let network = self.desired.networks().get(&endpoint.network)?;
                let mut addresses = endpoint.addresses();
                addresses.find_map(|address| preflight::address_obstacle(address, network, self.observed))
            });
            let closed = desired.services.values().any(|service| service.egress.is_some());
            let unclosable = closed && self.observed.lacks.contains(&Feature::Nftables);
            let reason = reason.or_else(|| unclosable.then(|| preflight::UNCLOSABLE.to_owned()));
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
                    if let Some((name, _)) = name.filter(|_| violation.concerns_network()) {
                        self.block_network(name, reason);
                    } else {
                        self.block_volume(&violation.service, &reason);
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

    /// Blocks every stack that mounts a volume.
    fn block_volume(&mut self, name: &str, reason: &str) {
        for (stack, wanted) in self.desired.stacks() {
            if wanted
                .services
                .values()
                .any(|service| service.volumes().any(|volume| volume == name))
            {
                self.blocked_stacks
                    .entry(stack)
                    .or_insert_with(|| reason.to_owned());
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
                if let Some(guest) = group.iter().find_map(|network| network.guests.first()) {
                    let reason = format!(
                        "network {name} cannot go: container {guest}, which is not this host's, is attached to it: \
                         disconnect it"
                    );
                    held = Some((*name, reason));
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

    fn compare_host_links(&mut self) {
        let mut wanted = self.desired.host_links();
        wanted.retain(|_, link| !self.blocked_networks.contains_key(link.network.as_str()));
        for found in &self.observed.interfaces {
            let Some(alias) = found.alias.as_deref() else {
                continue;
            };
            if !found.name.as_str().starts_with(HOST_LINK) || !is_ours(alias, self.desired.host()) {
                continue;
            }
            match wanted.get(&found.name) {
                Some(link) => {
                    let has_address = found.has(link.address.into());
                    let same_kind = found.kind.as_deref() == Some(link.driver.as_str());
                    if found.up && alias == link.alias && has_address {
                        wanted.remove(&found.name);
                    } else if !same_kind {
                        self.host_links_leaving.push((found, alias));
                    }
                }
                None => self.host_links_leaving.push((found, alias)),
            }
        }
        self.host_links_coming = wanted.into_values().collect();
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
        let names = self.container_names();
        let mut claimed: BTreeSet<&str> = BTreeSet::new();
        for (stack, wanted) in self.desired.stacks() {
            if self.blocked_stacks.contains_key(stack) {
                continue;
            }
            // What becomes of a container decides about those that wait for it or share something of it. Nothing waits
            // for itself, so each round finds somebody.
            let mut left: Vec<(&String, &Box<DesiredService>)> = wanted.services.iter().collect();
            while !left.is_empty() {
                let before = left.len();
                let (ready, waiting): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, service)| {
                    service.after().all(|other| {
                        self.fates.contains_key(&(stack, other)) || !wanted.services.contains_key(other)
                    })
                });
                for (name, service) in ready {
                    let fate = self.fate(stack, name, service, &by_name, &names, &mut claimed);
                    self.fates.insert((stack, name), fate);
                }
                left = waiting;
                if left.len() == before {
                    break;
                }
            }
        }
        for container in &self.observed.containers {
            if !names.contains_key(container.name.as_str())
                && !claimed.contains(container.id.as_str())
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
        stack: &'a StackName,
        key: &str,
        service: &DesiredService,
        by_name: &BTreeMap<&str, &'a ObservedContainer>,
        names: &BTreeMap<&str, &'a StackName>,
        claimed: &mut BTreeSet<&'a str>,
    ) -> Fate<'a> {
        let Some(container) = by_name.get(service.spec.name.as_str()).copied() else {
            // The hash is over the name too, so that it tells exactly this container.
            let mut others = self.observed.containers.iter().filter(|other| {
                other.stack == *stack
                    && other.hash == service.hash()
                    && !names.contains_key(other.name.as_str())
                    && !claimed.contains(other.id.as_str())
                    && self.cause_to_replace(stack, service, other).is_none()
            });
            let first = others.next();
            let found = others.fold(first, |best, other| match best {
                Some(best) if order(best) <= order(other) => Some(best),
                _ => Some(other),
            });
            return match found {
                Some(found) => {
                    claimed.insert(&found.id);
                    Fate::Rename(found)
                }
                None => Fate::Create,
            };
        };
        if let Some(cause) = self.cause_to_replace(stack, service, container) {
            let staged = by_name.get(staged_name(&service.spec.name).as_str()).copied();
            if let Some(staged) = staged.filter(|staged| {
                staged.hash == service.hash() && self.cause_to_replace(stack, service, staged).is_none()
            }) {
                claimed.insert(&staged.id);
            }
            return Fate::Replace(container, cause);
        }
        match container.state {
            ContainerState::Running if self.follows(stack, service) => Fate::Restart(container),
            ContainerState::Running => Fate::Keep(container),
            ContainerState::Paused => Fate::Unpause(container),
            ContainerState::Exited { code: 0 } if self.is_done(stack, key, service) => Fate::Keep(container),
            // A start of one that the engine restarts changes nothing, but tells whether it stays up, and why not.
            _ => Fate::Start(container),
        }
    }

    /// Whether something that it depends on with `restart: true` is made anew.
    fn follows(&self, stack: &StackName, service: &DesiredService) -> bool {
        service.waits.iter().any(|(other, dependency)| {
            let fate = self.fates.get(&(stack, other.as_str()));
            dependency.restart && fate.is_some_and(Fate::creates)
        })
    }

    /// Whether an end with exit code 0 is what the container is there for: the engine leaves it at that, and either
    /// somebody waits for just that, or there is no reason to think otherwise.
    fn is_done(&self, stack: &StackName, key: &str, service: &DesiredService) -> bool {
        let stays_down = matches!(
            service.spec.restart,
            RestartPolicy::No | RestartPolicy::OnFailure { .. }
        );
        let others = || {
            self.desired
                .stack(stack)
                .into_iter()
                .flat_map(|wanted| wanted.services.values())
        };
        let shared = || others().any(|other| other.owners().any(|owner| owner == key));
        let awaited = || {
            others().any(|other| {
                other
                    .waits
                    .get(key)
                    .is_some_and(|dependency| dependency.condition == Condition::Completed)
            })
        };
        stays_down && service.egress.is_none() && (self.desired.is_project() || awaited()) && !shared()
    }

    fn cause_to_replace(
        &self,
        stack: &StackName,
        service: &DesiredService,
        container: &ObservedContainer,
    ) -> Option<Cause> {
        if matches!(container.state, ContainerState::Dead | ContainerState::Removing) {
            return Some(Cause::Broken);
        }
        if container.hash != service.hash() {
            return Some(Cause::Outdated);
        }
        if let Image::Named(_) = &service.image
            && let Some(image) = service.image.find(&self.observed.images)
            && image.id != container.image
        {
            return Some(Cause::Image);
        }
        let updated = |seen| tuning::differs(&service.spec, seen);
        if container.tuning.as_ref().is_some_and(updated) {
            return Some(Cause::Updated);
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
        let fate = |owner: &str| self.fates.get(&(stack, owner)).copied();
        // A namespace lives as long as one run of its owner: whoever is in it then is cut off from the next run.
        let cut_off = service.joins.as_deref().is_some_and(|owner| match fate(owner) {
            None => false,
            Some(Fate::Create | Fate::Replace(..)) => true,
            Some(
                fate @ (Fate::Start(owner)
                | Fate::Restart(owner)
                | Fate::Rename(owner)
                | Fate::Keep(owner)
                | Fate::Unpause(owner)),
            ) => {
                (fate.begins_anew() && is_active(&container.state))
                    || container.joined.as_ref() != Some(&owner.id)
            }
        });
        // What the engine does not tell is no difference.
        let lost = service.refers.iter().any(|owner| match fate(owner) {
            None => false,
            Some(Fate::Create | Fate::Replace(..)) => true,
            Some(
                Fate::Start(owner)
                | Fate::Restart(owner)
                | Fate::Rename(owner)
                | Fate::Keep(owner)
                | Fate::Unpause(owner),
            ) => !container.refers.is_empty() && !container.refers.contains(&owner.id),
        });
        (cut_off || lost).then_some(Cause::Namespace)
    }

    /// Whether a container is attached to a network that goes.
    pub(super) fn is_cut_off(&self, container: &ObservedContainer) -> bool {
        let mut leaving = self.leaving.iter();
        leaving.any(|network| is_attached(container, &network.name))
    }

    /// The replacement of a container, where there is one already.
    pub(super) fn staged(&self, name: &str, fate: Fate<'_>) -> Option<&'a ObservedContainer> {
        let staged = staged_name(name);
        let replaced = matches!(fate, Fate::Replace(..));
        let mut all = self.observed.containers.iter();
        all.find(|container| replaced && container.name == staged)
    }

    /// What the namespace of a container has to be closed with, when it is not yet, or is about to be a new one.
    pub(super) fn to_close(&self, service: &'a DesiredService, fate: Fate<'a>) -> Option<&'a Egress> {
        let egress = service.egress.as_ref()?;
        let closed = match fate {
            fate if fate.begins_anew() => false,
            Fate::Keep(container) | Fate::Unpause(container) | Fate::Rename(container) => {
                container.lock.as_ref() == Some(&egress.rules())
            }
            Fate::Start(_) | Fate::Restart(_) | Fate::Create | Fate::Replace(..) => false,
        };
        (!closed).then_some(egress)
    }

    /// Whether a container of ours has had this address since it was first started, so that nobody else can have it
    /// without our knowing.
    pub(super) fn holds(&self, network: &str, address: IpAddr) -> bool {
        self.observed.containers.iter().any(|container| {
            container.state != ContainerState::Created
                && container
                    .attachments
                    .iter()
                    .any(|attachment| attachment.network == network && attachment.has(address))
        })
    }

    /// An id, an address or a MAC that the engine does not tell, as of a container that does not run, is no difference.
    fn has_endpoints(&self, service: &DesiredService, container: &ObservedContainer) -> bool {
        fn fits<T: PartialEq + Copy>(wanted: Option<T>, seen: Option<T>) -> bool {
            wanted.is_none() || seen.is_none() || wanted == seen
        }
        service.spec.endpoints().iter().all(|endpoint| {
            let mut networks = self.observed.networks.iter();
            let network = networks.find(|network| network.name == endpoint.network);
            container.attachments.iter().any(|attachment| {
                attachment.network == endpoint.network
                    && fits(network.map(|network| &network.id), attachment.network_id.as_ref())
                    && fits(endpoint.address, attachment.address)
                    && fits(endpoint.address6, attachment.address6)
                    && fits(endpoint.mac, attachment.mac)
            })
        })
    }
}

/// Who goes first among containers that could be the same one: whoever runs.
fn order(container: &ObservedContainer) -> (bool, &str, &str) {
    (!is_active(&container.state), &container.name, &container.id)
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
