//! All that a bundle asks for, normalised: networks and containers as the engine is to have them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use decnet_wire::bundle::{Blob, Network};
use decnet_wire::ids::{HostId, StackName};
use serde_json::Value;

use crate::compose::{Problem, Project};
use crate::labels;
use crate::step::{ContainerSpec, NetworkMode, NetworkSpec};

mod addresses;
mod hash;
mod image;
mod normalise;

pub(crate) use image::Image;

/// The desired state of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    host: HostId,
    networks: BTreeMap<String, NetworkSpec>,
    stacks: BTreeMap<StackName, DesiredStack>,
}

/// One project: its services by their Compose name. Empty means that nothing of it is to be left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredStack {
    pub(crate) services: BTreeMap<String, DesiredService>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredService {
    pub(crate) spec: ContainerSpec,
    pub(crate) image: Image,
    /// Services of the same stack that start before this one; the owner of a joined namespace is among them.
    pub(crate) after: BTreeSet<String>,
    /// The service of the same stack whose network namespace it joins.
    pub(crate) joins: Option<String>,
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
    /// the engine has.
    ///
    /// # Errors
    /// Everything that is wrong with the documents: attributes that are not supported, references to what does not
    /// exist, dependency cycles, images that are neither a blob of the bundle nor pinned by digest, and names or
    /// addresses that two containers would share.
    pub fn new<'a>(
        host: HostId,
        networks: &[Network],
        blobs: &[Blob],
        stacks: impl Iterator<Item = (&'a StackName, &'a Value)>,
    ) -> Result<Self, Vec<DocumentError>> {
        let mut errors = Vec::new();
        let networks = normalise::networks(host, networks, &mut errors);
        let archives = image::archives(blobs, &mut errors);

        let mut documents = BTreeMap::new();
        for (name, document) in stacks {
            if documents.insert(name, document).is_some() {
                errors.push(DocumentError::new(
                    Some(name),
                    "document",
                    "there are two stacks of that name",
                ));
            }
        }
        let mut desired = Self {
            host,
            networks,
            stacks: BTreeMap::new(),
        };
        for (name, document) in documents {
            match Project::parse(document) {
                Ok(project) => {
                    let stack = normalise::Context {
                        host,
                        stack: name,
                        networks: &desired.networks,
                        archives: &archives,
                    }
                    .stack(&project, &mut errors);
                    desired.stacks.insert(name.clone(), stack);
                }
                Err(problems) => errors.extend(problems.into_iter().map(|problem| DocumentError {
                    stack: Some(name.clone()),
                    problem,
                })),
            }
        }
        desired.check_names(&mut errors);
        addresses::check(&desired, &mut errors);
        if errors.is_empty() {
            Ok(desired)
        } else {
            Err(errors)
        }
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

    /// Every stack, the empty ones included.
    pub fn stacks(&self) -> impl Iterator<Item = (&StackName, &DesiredStack)> {
        self.stacks.iter()
    }

    /// One stack.
    #[must_use]
    pub fn stack(&self, name: &StackName) -> Option<&DesiredStack> {
        self.stacks.get(name)
    }

    /// Stack names and service names may hold hyphens, so two pairs of them can make one container name.
    fn check_names(&self, errors: &mut Vec<DocumentError>) {
        let mut owners: BTreeMap<&str, &StackName> = BTreeMap::new();
        for (stack, service, spec) in self.containers() {
            match owners.entry(&spec.name) {
                Entry::Vacant(entry) => {
                    entry.insert(stack);
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
        self.services
            .iter()
            .map(|(name, service)| (name.as_str(), &service.spec))
    }
}

impl DesiredService {
    /// The value of the container's [`labels::HASH`].
    pub(crate) fn hash(&self) -> &str {
        self.spec.labels.get(labels::HASH).map_or("", String::as_str)
    }

    /// The networks that the container is attached to by itself, by their name on the engine.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &str> {
        endpoints(&self.spec)
            .iter()
            .map(|endpoint| endpoint.network.as_str())
    }
}

pub(crate) fn endpoints(spec: &ContainerSpec) -> &[crate::step::Endpoint] {
    match &spec.network {
        NetworkMode::Networks { endpoints } => endpoints,
        NetworkMode::None
        | NetworkMode::Host
        | NetworkMode::Bridge
        | NetworkMode::Container { .. }
        | NetworkMode::Foreign { .. } => &[],
    }
}

#[cfg(test)]
mod tests;
