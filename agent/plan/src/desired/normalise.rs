//! One document's services to container specifications.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::bundle::{Network, NetworkDriver};
use decnet_wire::ids::{HostId, StackName};

use super::image::{self, Archive, Image};
use super::{DesiredService, DesiredStack, DocumentError, hash};
use crate::compose::{self, Project, Service};
use crate::labels;
use crate::step::{ContainerSpec, Endpoint, Ipam, NetworkMode, NetworkSpec, Pool};

/// What the services of one stack may refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) host: HostId,
    pub(super) stack: &'a StackName,
    pub(super) networks: &'a BTreeMap<String, NetworkSpec>,
    pub(super) archives: &'a BTreeMap<String, Archive>,
}

/// The bundle's networks by their name on the engine.
pub(super) fn networks(
    host: HostId,
    networks: &[Network],
    errors: &mut Vec<DocumentError>,
) -> BTreeMap<String, NetworkSpec> {
    let mut specs = BTreeMap::new();
    for network in networks {
        let path = format!("networks.{}", network.name);
        match (network.driver, &network.parent) {
            (NetworkDriver::Bridge, Some(_)) => {
                errors.push(DocumentError::new(
                    None,
                    &*path,
                    "a bridge has no parent interface",
                ));
            }
            (NetworkDriver::Macvlan | NetworkDriver::Ipvlan, None) => {
                errors.push(DocumentError::new(None, &*path, "needs a parent interface"));
            }
            _ => {}
        }
        if network
            .gateway
            .is_some_and(|gateway| !network.subnet.contains(&gateway))
        {
            errors.push(DocumentError::new(
                None,
                &*path,
                "the gateway is outside the subnet",
            ));
        }
        let mut spec = NetworkSpec {
            name: network.name.as_str().to_owned(),
            driver: network.driver.as_str().to_owned(),
            driver_opts: driver_opts(network),
            ipam: Ipam {
                driver: Some("default".to_owned()),
                pools: vec![Pool {
                    subnet: Some(network.subnet.trunc().into()),
                    gateway: network.gateway.map(Into::into),
                    ..Pool::default()
                }],
                ..Ipam::default()
            },
            labels: BTreeMap::from([(labels::HOST.to_owned(), host.to_string())]),
            ..NetworkSpec::default()
        };
        let hash = hash::of(&spec);
        spec.labels.insert(labels::HASH.to_owned(), hash);
        if specs.insert(network.name.as_str().to_owned(), spec).is_some() {
            errors.push(DocumentError::new(
                None,
                path,
                "there are two networks of that name",
            ));
        }
    }
    specs
}

fn driver_opts(network: &Network) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    if let Some(parent) = &network.parent {
        options.insert("parent".to_owned(), parent.as_str().to_owned());
    }
    match network.driver {
        NetworkDriver::Macvlan => {
            options.insert("macvlan_mode".to_owned(), "bridge".to_owned());
        }
        NetworkDriver::Ipvlan => {
            options.insert("ipvlan_mode".to_owned(), "l2".to_owned());
        }
        NetworkDriver::Bridge => {}
    }
    options
}

impl Context<'_> {
    pub(super) fn stack(self, project: &Project, errors: &mut Vec<DocumentError>) -> DesiredStack {
        if let Some(name) = &project.name
            && name != self.stack.as_str()
        {
            let problem = format_args!("{name:?} is not the stack's name");
            errors.push(DocumentError::new(Some(self.stack), "name", problem));
        }
        let mut stack = DesiredStack::default();
        for (name, service) in &project.services {
            let mut found = Vec::new();
            if let Some(desired) = self.service(project, name, service, &mut found) {
                stack.services.insert(name.clone(), desired);
            }
            errors.extend(found.into_iter().map(|(attribute, problem)| {
                DocumentError::new(Some(self.stack), format!("services.{name}.{attribute}"), problem)
            }));
        }
        if let Some(cycle) = find_cycle(&stack.services) {
            let path = format!("services.{}.depends_on", cycle[0]);
            let problem = format_args!("the services wait for each other: {}", cycle.join(", "));
            errors.push(DocumentError::new(Some(self.stack), path, problem));
        }
        stack
    }

    fn container_name(self, service: &str) -> String {
        format!("{}-{service}-1", self.stack)
    }

    fn service(
        self,
        project: &Project,
        name: &str,
        service: &Service,
        problems: &mut Vec<(&'static str, String)>,
    ) -> Option<DesiredService> {
        let image = self.image(service, problems);
        let mut after: BTreeSet<String> = service.depends_on.keys().cloned().collect();
        for other in &after {
            if !project.services.contains_key(other) {
                problems.push(("depends_on", format!("there is no service {other}")));
            }
        }
        let (network, joins) = self.network(project, service, problems);
        after.extend(joins.clone());

        let reserved = service
            .labels
            .keys()
            .find(|label| label.starts_with(labels::PREFIX));
        if let Some(label) = reserved {
            problems.push((
                "labels",
                format!("{label}: labels that start with {} are reserved", labels::PREFIX),
            ));
        }
        let image = image?;
        let expose: Vec<String> = service.expose.iter().cloned().collect();
        let mut spec = ContainerSpec {
            name: self.container_name(name),
            image: image.names(),
            command: service.command.clone(),
            entrypoint: service.entrypoint.clone(),
            environment: service.environment.clone(),
            labels: self.labels(name, service, &expose),
            hostname: service.hostname.clone(),
            user: service.user.clone(),
            working_dir: service.working_dir.clone(),
            stop_signal: service.stop_signal.clone(),
            stop_timeout_s: service
                .stop_grace_period
                .map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
            network: network?,
            restart: service.restart,
            cap_add: service.cap_add.iter().cloned().collect(),
            cap_drop: service.cap_drop.iter().cloned().collect(),
            security_opt: service.security_opt.iter().cloned().collect(),
            sysctls: service.sysctls.clone(),
            read_only: service.read_only,
            init: service.init,
            tmpfs: service.tmpfs.clone(),
            memory: service.mem_limit.filter(|bytes| *bytes > 0),
            pids: service.pids_limit,
            nano_cpus: service.nano_cpus,
            expose,
            log_driver: service.log_driver.clone(),
            log_options: service.log_options.clone(),
            ..ContainerSpec::default()
        };
        let hash = hash::of(&spec);
        spec.labels.insert(labels::HASH.to_owned(), hash);
        Some(DesiredService {
            spec,
            image,
            after,
            joins,
        })
    }

    fn labels(self, name: &str, service: &Service, expose: &[String]) -> BTreeMap<String, String> {
        let mut all = service.labels.clone();
        all.insert(labels::HOST.to_owned(), self.host.to_string());
        all.insert(labels::STACK.to_owned(), self.stack.to_string());
        all.insert(labels::SERVICE.to_owned(), name.to_owned());
        if !expose.is_empty() {
            all.insert(labels::EXPOSE.to_owned(), expose.join(","));
        }
        all
    }

    fn image(self, service: &Service, problems: &mut Vec<(&'static str, String)>) -> Option<Image> {
        let reference = service.image.as_deref()?;
        let image = image::resolve(reference, self.archives);
        if image.is_none() {
            let problem = format!("{reference} is no image of this bundle; pin it as repository@sha256:…");
            problems.push(("image", problem));
        }
        image
    }

    /// The container's network mode, and the service that it joins.
    fn network(
        self,
        project: &Project,
        service: &Service,
        problems: &mut Vec<(&'static str, String)>,
    ) -> (Option<NetworkMode>, Option<String>) {
        match &service.network {
            None => (None, None),
            Some(compose::NetworkMode::None) => (Some(NetworkMode::None), None),
            Some(compose::NetworkMode::Networks(attachments)) => {
                let mut endpoints = Vec::new();
                for (key, attachment) in attachments {
                    match self.endpoint(project, key, attachment) {
                        Ok(endpoint) => endpoints.push(endpoint),
                        Err(problem) => problems.push(("networks", format!("{key}: {problem}"))),
                    }
                }
                // The network of the decky's own MAC comes first: an older engine sets no other.
                endpoints.sort_by_key(|endpoint: &Endpoint| endpoint.mac.is_none());
                (Some(NetworkMode::Networks { endpoints }), None)
            }
            Some(compose::NetworkMode::Service(owner)) => {
                match project.services.get(owner).map(|owner| &owner.network) {
                    None => problems.push(("network_mode", format!("there is no service {owner}"))),
                    Some(Some(compose::NetworkMode::Service(_))) => {
                        problems.push((
                            "network_mode",
                            format!("{owner} has no network of its own to share"),
                        ));
                    }
                    Some(_) => {}
                }
                // The engine refuses these for a container that lives in another's network namespace.
                if service.hostname.is_some() {
                    problems.push(("hostname", format!("belongs to {owner}, whose network it shares")));
                }
                if !service.sysctls.is_empty() {
                    problems.push(("sysctls", format!("belong to {owner}, whose network it shares")));
                }
                let name = self.container_name(owner);
                (Some(NetworkMode::Container { name }), Some(owner.clone()))
            }
        }
    }

    fn endpoint(
        self,
        project: &Project,
        key: &str,
        attachment: &compose::Attachment,
    ) -> Result<Endpoint, String> {
        let network = project
            .networks
            .get(key)
            .ok_or("is not among the document's networks")?;
        let name = &network.name;
        let spec = self
            .networks
            .get(name)
            .ok_or_else(|| format!("{name} is not a network of this bundle"))?;
        if spec.driver == NetworkDriver::Ipvlan.as_str() && attachment.mac.is_some() {
            return Err("an ipvlan network shares its parent's MAC: remove mac_address".to_owned());
        }
        let mut aliases = attachment.aliases.clone();
        aliases.sort();
        aliases.dedup();
        Ok(Endpoint {
            network: name.clone(),
            address: attachment.address,
            mac: attachment.mac,
            aliases,
            ..Endpoint::default()
        })
    }
}

/// The services of one cycle, or none. Repeatedly leaves out what waits for nothing that is left.
fn find_cycle(services: &BTreeMap<String, DesiredService>) -> Option<Vec<&str>> {
    let mut left: BTreeMap<&str, &BTreeSet<String>> = services
        .iter()
        .map(|(name, service)| (name.as_str(), &service.after))
        .collect();
    loop {
        let before = left.len();
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, after| after.iter().any(|name| names.contains(name.as_str())));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.into_keys().collect());
        }
    }
}
