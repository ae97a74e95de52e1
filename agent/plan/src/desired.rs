//! All that a bundle asks for, normalised: networks and containers as the engine is to have them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use decnet_wire::bundle::{Blob, ComposeDocument, Network};
use decnet_wire::ids::{Digest, HostId, StackName};
use serde_json::Value;

use crate::compose::{Dependency, Egress, Problem, Project};
use crate::labels;
use crate::planner::STAGED;
use crate::step::{BuildSpec, ContainerSpec, MountKind, NetworkSpec, VolumeSpec};

mod addresses;
mod hash;
mod host_links;
mod image;
mod leases;
mod networks;
mod normalise;
mod size;
mod storage;

pub(crate) use hash::canonical;
pub use host_links::HOST_LINK;
pub(crate) use host_links::is_ours;
pub(crate) use image::Image;
pub use leases::{Lease, Leases};

/// The desired state of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    host: HostId,
    /// One Compose project on its own, not a bundle.
    alone: bool,
    networks: BTreeMap<String, NetworkSpec>,
    /// The host's own, by the network.
    host_addresses: BTreeMap<String, Ipv4Addr>,
    volumes: BTreeMap<String, VolumeSpec>,
    stacks: BTreeMap<StackName, DesiredStack>,
}

/// One project: its containers by a key of their own, which is the service's name for the first container of a
/// service. Empty means that nothing of it is to be left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredStack {
    /// Boxed: the map has room for eleven in each of its nodes, and most stacks have few.
    pub(crate) services: BTreeMap<String, Box<DesiredService>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredService {
    /// The Compose service that it belongs to.
    pub(crate) service: String,
    /// Which of the service's containers it is, from 1.
    pub(crate) number: u32,
    pub(crate) spec: ContainerSpec,
    pub(crate) image: Image,
    /// Containers of the same stack that start before this one, and what they must have reached; all whose
    /// namespaces or volumes it shares are among them.
    pub(crate) waits: BTreeMap<String, Dependency>,
    /// The container of the same stack whose network namespace it joins.
    pub(crate) joins: Option<String>,
    /// Containers of the same stack whose other namespaces or volumes it shares.
    pub(crate) refers: BTreeSet<String>,
    /// What the namespace that it owns is closed but for; none when it is left open or not its own.
    pub(crate) egress: Option<Egress>,
}

/// One thing wrong with what a bundle asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    /// None when it concerns the bundle's networks or blobs.
    pub stack: Option<StackName>,
    /// Where in the stack's document (or in the bundle) it stands, and what it is.
    #[source]
    pub problem: Problem,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stack {
            Some(stack) => write!(f, "stack {stack}: {}", self.problem),
            None => self.problem.fmt(f),
        }
    }
}

impl DocumentError {
    fn new(stack: Option<&StackName>, path: impl Into<String>, problem: impl fmt::Display) -> Self {
        let problem = Problem {
            path: path.into(),
            problem: problem.to_string(),
        };
        Self {
            stack: stack.cloned(),
            problem,
        }
    }
}

impl Desired {
    /// Normalises a bundle's networks and stacks. The result depends on neither the order of its parts nor on what
    /// the engine has. Every network namespace is closed against calls outwards, but for what `x-decnet` allows.
    ///
    /// # Errors
    /// Everything that is wrong with the documents: attributes that are not supported, references to what does not
    /// exist, dependency cycles, images that are neither made from a blob of the bundle nor pinned by digest, and names
    /// or addresses that two containers would share.
    pub fn new<'a>(
        host: HostId,
        networks: &[Network],
        blobs: &[Blob],
        stacks: impl Iterator<Item = (&'a StackName, impl Into<ComposeDocument>)>,
    ) -> Result<Self, Vec<DocumentError>> {
        let mut errors = Vec::new();
        let host_addresses = host_links::addresses(networks, &mut errors);
        let networks = networks::of_bundle(host, networks, &mut errors);
        let blobs = image::blobs(blobs, &mut errors);

        let mut documents = BTreeMap::new();
        for (name, document) in stacks {
            if documents.insert(name, document.into()).is_some() {
                errors.push(DocumentError::new(
                    Some(name),
                    "document",
                    "there are two stacks of that name",
                ));
            }
        }
        let mut desired = Self {
            host,
            alone: false,
            networks,
            host_addresses,
            volumes: BTreeMap::new(),
            stacks: BTreeMap::new(),
        };
        for (name, document) in documents {
            let document = match document.parse() {
                Ok(document) => document,
                Err(error) => {
                    errors.push(DocumentError::new(Some(name), "document", error));
                    continue;
                }
            };
            match Project::parse(&document) {
                Ok(project) => {
                    if let Err(error) = size::check(name, &document, &project) {
                        errors.push(error);
                        continue;
                    }
                    let context = normalise::Context {
                        host,
                        stack: name,
                        kind: normalise::Kind::Bundle {
                            networks: &desired.networks,
                            blobs: &blobs,
                        },
                    };
                    let all = context.normalise(&project, &mut errors);
                    desired.add(name, all, &mut errors);
                }
                Err(problems) => errors.extend(problems.into_iter().map(|problem| DocumentError {
                    stack: Some(name.clone()),
                    problem,
                })),
            }
        }
        desired.checked(errors)
    }

    /// Normalises one Compose project that stands alone, from the document that the loader makes: names, networks
    /// and volumes are those that Docker Compose would make, and images may be named by tag or built.
    ///
    /// `host` labels the project's objects, so it has to be an id of this project alone.
    ///
    /// # Errors
    /// Everything that is wrong with the document, as for [`Self::new`].
    pub fn project(host: HostId, name: &StackName, document: &Value) -> Result<Self, Vec<DocumentError>> {
        let project = Project::parse_loaded(document).map_err(|problems| {
            let of_stack = |problem| DocumentError {
                stack: Some(name.clone()),
                problem,
            };
            problems.into_iter().map(of_stack).collect::<Vec<_>>()
        })?;
        size::check(name, document, &project).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        let context = normalise::Context {
            host,
            stack: name,
            kind: normalise::Kind::Project,
        };
        let all = context.normalise(&project, &mut errors);
        let mut desired = Self {
            host,
            alone: true,
            networks: BTreeMap::new(),
            host_addresses: BTreeMap::new(),
            volumes: BTreeMap::new(),
            stacks: BTreeMap::new(),
        };
        desired.add(name, all, &mut errors);
        desired.checked(errors)
    }

    /// Nothing at all of one Compose project: what is left of it goes. Volumes stay, see
    /// [`crate::planner::remove_volumes`].
    #[must_use]
    pub fn no_project(host: HostId, name: &StackName) -> Self {
        Self {
            host,
            alone: true,
            networks: BTreeMap::new(),
            host_addresses: BTreeMap::new(),
            volumes: BTreeMap::new(),
            stacks: BTreeMap::from([(name.clone(), DesiredStack::default())]),
        }
    }

    /// Nothing at all: everything of the host goes, but for volumes, see [`crate::planner::remove_volumes`].
    #[must_use]
    pub fn nothing(host: HostId) -> Self {
        Self {
            host,
            alone: false,
            networks: BTreeMap::new(),
            host_addresses: BTreeMap::new(),
            volumes: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }

    fn add(&mut self, name: &StackName, all: normalise::Normalised, errors: &mut Vec<DocumentError>) {
        self.networks.extend(all.networks);
        for (volume, spec) in all.volumes {
            if self.volumes.insert(volume.clone(), spec).is_some() {
                let path = format!("volumes.{volume}");
                errors.push(DocumentError::new(
                    Some(name),
                    path,
                    "another stack has a volume of that name",
                ));
            }
        }
        self.stacks.insert(name.clone(), all.stack);
    }

    fn checked(self, mut errors: Vec<DocumentError>) -> Result<Self, Vec<DocumentError>> {
        self.check_names(&mut errors);
        addresses::check(&self, &mut errors);
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// The host that all objects are labelled with.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Every network, by its name on the engine.
    #[must_use]
    pub fn networks(&self) -> &BTreeMap<String, NetworkSpec> {
        &self.networks
    }

    /// Every named volume that is ours to make, by its name on the engine.
    #[must_use]
    pub fn volumes(&self) -> &BTreeMap<String, VolumeSpec> {
        &self.volumes
    }

    /// Whether it is one Compose project on its own, not a bundle.
    #[must_use]
    pub fn is_project(&self) -> bool {
        self.alone
    }

    /// Every stack, the empty ones included.
    pub fn stacks(&self) -> impl Iterator<Item = (&StackName, &DesiredStack)> {
        self.stacks.iter()
    }

    /// One stack.
    #[must_use]
    pub fn stack(&self, name: &StackName) -> Option<&DesiredStack> {
        self.stacks.get(name)
    }

    /// The host's own address on a network.
    pub(crate) fn host_address(&self, network: &str) -> Option<Ipv4Addr> {
        self.host_addresses.get(network).copied()
    }

    /// Every build with its stack and service.
    pub(crate) fn builds(&self) -> impl Iterator<Item = (&StackName, &str, &BuildSpec)> {
        self.stacks.iter().flat_map(|(stack, desired)| {
            let services = desired.services.values();
            services
                .filter_map(move |service| Some((stack, service.service.as_str(), service.image.build()?)))
        })
    }

    /// Stack names and service names may hold hyphens, so two pairs of them can make one container name.
    fn check_names(&self, errors: &mut Vec<DocumentError>) {
        let mut owners: BTreeMap<&str, &StackName> = BTreeMap::new();
        let mut staged = Vec::new();
        for (stack, service, spec) in self.containers() {
            match owners.entry(&spec.name) {
                Entry::Vacant(entry) => {
                    entry.insert(stack);
                    if let Some(base) = spec.name.strip_suffix(STAGED) {
                        staged.push((stack, service, &spec.name, base));
                    }
                }
                Entry::Occupied(entry) => errors.push(DocumentError::new(
                    Some(stack),
                    format!("services.{service}"),
                    format_args!(
                        "stack {} has a container of the same name, {}",
                        entry.get(),
                        spec.name
                    ),
                )),
            }
        }
        for (stack, service, name, base) in staged {
            if owners.contains_key(base) {
                errors.push(DocumentError::new(
                    Some(stack),
                    format!("services.{service}"),
                    format_args!("{name} is the name under which {base} is replaced: use another one"),
                ));
            }
        }
    }

    /// Every container with its stack and service, in order of stacks and services.
    pub fn containers(&self) -> impl Iterator<Item = (&StackName, &str, &ContainerSpec)> {
        self.stacks.iter().flat_map(|(stack, desired)| {
            desired
                .containers()
                .map(move |(service, spec)| (stack, service, spec))
        })
    }
}

impl DesiredStack {
    /// Every container with its service, in order of services.
    pub fn containers(&self) -> impl Iterator<Item = (&str, &ContainerSpec)> {
        let services = self.services.values();
        services.map(|service| (service.service.as_str(), &service.spec))
    }

    /// Every container, in order of services.
    pub(crate) fn services(&self) -> impl Iterator<Item = &DesiredService> {
        self.services.values().map(AsRef::as_ref)
    }

    /// The blobs that its images come from.
    #[must_use]
    pub fn blobs(&self) -> BTreeSet<&Digest> {
        let services = self.services.values();
        services.filter_map(|service| service.image.blob()).collect()
    }

    /// Every container with its service and its number within it, from 1.
    pub fn instances(&self) -> impl Iterator<Item = (&str, u32, &ContainerSpec)> {
        let services = self.services.values();
        services.map(|service| (service.service.as_str(), service.number, &service.spec))
    }
}

impl DesiredService {
    /// The value of the container's [`labels::HASH`].
    pub(crate) fn hash(&self) -> &str {
        self.spec.labels.get(labels::HASH).map_or("", String::as_str)
    }

    /// The keys of the containers that start before this one.
    pub(crate) fn after(&self) -> impl Iterator<Item = &str> {
        self.waits.keys().map(String::as_str)
    }

    /// The keys of the containers whose namespaces or volumes it shares.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &str> {
        self.joins.iter().chain(&self.refers).map(String::as_str)
    }

    /// The named volumes that it mounts, by their name on the engine.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.spec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => name.as_deref(),
            _ => None,
        })
    }

    /// The networks that the container is attached to by itself, by their name on the engine.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &str> {
        self.spec
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.network.as_str())
    }
}

#[cfg(test)]
mod tests;
