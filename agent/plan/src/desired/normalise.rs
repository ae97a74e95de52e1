//! One document's services to container specifications.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::{HostId, StackName};

use super::image::{self, Blobs, Image};
use super::{DesiredService, DesiredStack, DocumentError, hash, networks, storage};
use crate::compose::{Condition, Dependency, Egress, NetworkMode, Project, PullPolicy, Service, Share};
use crate::labels;
use crate::step::{
    ContainerSpec, Link, Namespace, Namespaces, NetworkSpec, RestartPolicy, VolumeSpec, VolumesFrom,
};

/// What the services of one stack may refer to, and how it is named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) host: HostId,
    pub(super) stack: &'a StackName,
    pub(super) kind: Kind<'a>,
}

/// Whose document it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// One of a bundle's: its networks and images are the bundle's.
    Bundle {
        networks: &'a BTreeMap<String, NetworkSpec>,
        blobs: &'a Blobs,
    },
    /// One that stands alone, as Docker Compose has it.
    Project,
}

/// What one document asks for.
#[derive(Debug, Default)]
pub(super) struct Normalised {
    pub(super) stack: DesiredStack,
    /// By name on the engine; of a project alone.
    pub(super) networks: BTreeMap<String, NetworkSpec>,
    /// By name on the engine.
    pub(super) volumes: BTreeMap<String, VolumeSpec>,
}

/// Attribute and problem.
pub(super) type Found = Vec<(&'static str, String)>;

/// One container of a service.
#[derive(Debug, Clone)]
struct Instance {
    key: String,
    number: u32,
    name: String,
}

/// Most containers of one service.
const MAX_REPLICAS: u32 = 1_000;

impl Context<'_> {
    pub(super) fn normalise(self, project: &Project, errors: &mut Vec<DocumentError>) -> Normalised {
        if let Some(name) = &project.name
            && name != self.stack.as_str()
        {
            let problem = format_args!("{name:?} is not the stack's name");
            errors.push(DocumentError::new(Some(self.stack), "name", problem));
        }
        let mut all = Normalised {
            networks: networks::of_project(self, project, errors),
            volumes: storage::volumes(self, project, errors),
            ..Normalised::default()
        };
        for (name, service) in &project.services {
            let mut found = Vec::new();
            for instance in self.instances(name, service, &mut found) {
                if let Some(desired) = self.service(project, name, service, &instance, &mut found) {
                    all.stack.services.insert(instance.key, Box::new(desired));
                }
            }
            found.dedup();
            errors.extend(found.into_iter().map(|(attribute, problem)| {
                DocumentError::new(Some(self.stack), format!("services.{name}.{attribute}"), problem)
            }));
        }
        if let Some(cycle) = find_cycle(&all.stack.services) {
            let path = format!("services.{}.depends_on", cycle[0]);
            let problem = format_args!("the services wait for each other: {}", cycle.join(", "));
            errors.push(DocumentError::new(Some(self.stack), path, problem));
        }
        all
    }

    /// The containers of a service, by the names that Compose gives them.
    fn instances(self, name: &str, service: &Service, found: &mut Found) -> Vec<Instance> {
        let replicas = replicas(service);
        if replicas > 1 && service.container_name.is_some() {
            found.push((
                "container_name",
                format!("{replicas} containers cannot share one name"),
            ));
        }
        if replicas > MAX_REPLICAS {
            found.push((
                "scale",
                format!("at most {MAX_REPLICAS} containers of one service"),
            ));
        }
        let instance = |number: u32| Instance {
            // A service's name holds no '#', so that no key is that of another service.
            key: match number {
                1 => name.to_owned(),
                number => format!("{name}#{number}"),
            },
            number,
            name: match &service.container_name {
                Some(name) => name.clone(),
                None => format!("{}-{name}-{number}", self.stack),
            },
        };
        (1..=replicas.min(MAX_REPLICAS)).map(instance).collect()
    }

    /// The containers of another service, or None when there is no such service.
    fn others(self, project: &Project, name: &str) -> Option<Vec<Instance>> {
        let service = project.services.get(name)?;
        Some(self.instances(name, service, &mut Vec::new()))
    }

    /// The container that stands for another service where there can only be one.
    fn first(
        self,
        project: &Project,
        name: &str,
        attribute: &'static str,
        found: &mut Found,
    ) -> Option<Instance> {
        let problem = match self.others(project, name) {
            Some(others) => match others.into_iter().next() {
                Some(first) => return Some(first),
                None => format!("service {name} has no container"),
            },
            None => format!("there is no service {name}"),
        };
        found.push((attribute, problem));
        None
    }

    /// What the namespace of a service is closed but for: what it and those that join it may call. None for a service
    /// without a network of its own.
    fn egress(self, project: &Project, name: &str, service: &Service) -> Option<Egress> {
        if !matches!(service.network, None | Some(NetworkMode::Networks(_))) {
            return None;
        }
        let joining = project
            .services
            .values()
            .filter(|other| matches!(&other.network, Some(NetworkMode::Service(owner)) if owner == name));
        let declared: Vec<&Egress> = std::iter::once(service)
            .chain(joining)
            .filter_map(|service| service.egress.as_ref())
            .collect();
        if declared.is_empty() && matches!(self.kind, Kind::Project) {
            return None;
        }
        let allow = declared
            .into_iter()
            .flat_map(|egress| egress.allow.iter().cloned());
        Some(Egress {
            allow: allow.collect(),
        })
    }

    fn service(
        self,
        project: &Project,
        name: &str,
        service: &Service,
        instance: &Instance,
        found: &mut Found,
    ) -> Option<DesiredService> {
        let image = self.image(name, service, found);
        let mut waits = self.dependencies(project, service, found);
        let mut refers = BTreeSet::new();
        let mut joins = None;
        let network = networks::mode(self, project, name, service, &instance.name, found);
        if let Some(NetworkMode::Service(owner)) = &service.network
            && let Some(owner) = self.first(project, owner, "network_mode", found)
        {
            add_wait(&mut waits, &owner.key, true);
            joins = Some(owner.key);
        }
        let pid = self.namespace(project, &service.pid, "pid", &mut refers, found);
        let ipc = self.namespace(project, &service.ipc, "ipc", &mut refers, found);
        for key in &refers {
            add_wait(&mut waits, key, true);
        }
        let volumes_from = self.volumes_from(project, service, &mut refers, &mut waits, found);
        let links = self.links(project, service, instance, &mut waits, found);
        let mounts = storage::mounts(self, project, service, found);
        let files = storage::files(project, service, found);

        if let Some(label) = service
            .labels
            .keys()
            .find(|label| label.starts_with(labels::PREFIX))
        {
            let rule = format!("{label}: labels that start with {} are reserved", labels::PREFIX);
            found.push(("labels", rule));
        }
        let (image, network) = (image?, network?);
        let deploy = &service.deploy;
        let expose = expose(service);
        let mut limits = service.limits.clone();
        limits.memory_reservation = deploy.memory_reservation.or(limits.memory_reservation);
        let mut device_requests = service.device_requests.clone();
        device_requests.extend(deploy.device_requests.clone());
        let (security_opt, unmasked) = security(service);
        let egress = self.egress(project, name, service);
        // A namespace is new and open when its container starts. The engine must not start it by itself: then whatever
        // the engine starts of a decky finds no namespace to join, or one that is closed.
        let restart = if egress.is_some() {
            RestartPolicy::No
        } else {
            deploy.restart.unwrap_or(service.restart)
        };
        let mut spec = ContainerSpec {
            name: instance.name.clone(),
            image: image.names(),
            platform: service.platform.clone(),
            command: service.command.clone(),
            entrypoint: service.entrypoint.clone(),
            environment: service.environment.clone(),
            labels: self.labels(name, service, &expose),
            annotations: service.annotations.clone(),
            hostname: service.hostname.clone(),
            domainname: service.domainname.clone(),
            user: service.user.clone(),
            group_add: service.group_add.clone(),
            working_dir: service.working_dir.clone(),
            tty: service.tty,
            stdin_open: service.stdin_open,
            stop_signal: service.stop_signal.clone(),
            stop_timeout_s: service
                .stop_grace_period
                .map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
            healthcheck: service.healthcheck.clone(),
            restart,
            init: service.init,
            runtime: service.runtime.clone(),
            mac: service.mac.filter(|_| !networks::has_endpoints(&network)),
            network,
            expose,
            ports: service.ports.clone(),
            links,
            dns: service.dns.clone(),
            dns_search: service.dns_search.clone(),
            dns_opt: service.dns_opt.clone(),
            extra_hosts: service.extra_hosts.clone(),
            privileged: service.privileged,
            cap_add: service.cap_add.iter().cloned().collect(),
            cap_drop: service.cap_drop.iter().cloned().collect(),
            security_opt,
            unmasked,
            namespaces: Namespaces {
                pid,
                ipc,
                uts: service.uts.clone(),
                user: service.userns_mode.clone(),
                cgroup: service.cgroup.clone(),
            },
            sysctls: service.sysctls.clone(),
            devices: service.devices.clone(),
            device_cgroup_rules: service.device_cgroup_rules.clone(),
            device_requests,
            read_only: service.read_only,
            mounts,
            volumes_from,
            files,
            tmpfs: service.tmpfs.clone(),
            shm_size: service.shm_size.filter(|bytes| *bytes > 0),
            storage_opt: service.storage_opt.clone(),
            memory: deploy.memory.or(service.mem_limit.filter(|bytes| *bytes > 0)),
            pids: deploy.pids.or(service.pids_limit.filter(|n| *n != 0)),
            nano_cpus: deploy.nano_cpus.or(service.nano_cpus),
            limits,
            log_driver: service.log_driver.clone(),
            log_options: service.log_options.clone(),
        };
        let hash = hash::of(&spec);
        if matches!(self.kind, Kind::Project) {
            spec.labels
                .insert(labels::SPEC.to_owned(), crate::changes::record(&spec));
        }
        spec.labels.insert(labels::HASH.to_owned(), hash);
        Some(DesiredService {
            service: name.to_owned(),
            number: instance.number,
            spec,
            image,
            waits,
            joins,
            refers,
            egress,
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

    fn image(self, name: &str, service: &Service, found: &mut Found) -> Option<Image> {
        match self.kind {
            Kind::Bundle { blobs, .. } => {
                if service.pull_policy != PullPolicy::Missing {
                    found.push((
                        "pull_policy",
                        "an image of a bundle never changes: remove it".to_owned(),
                    ));
                }
                if let Some(build) = &service.build {
                    return image::built(service, build, blobs)
                        .map_err(|problem| found.push(problem))
                        .ok();
                }
                let reference = service.image.as_deref()?;
                let image = image::resolve(reference, blobs);
                if image.is_none() {
                    let problem =
                        format!("{reference} is no image of this bundle; pin it as repository@sha256:…");
                    found.push(("image", problem));
                }
                image
            }
            Kind::Project => Some(image::named(self.stack, name, service)),
        }
    }

    /// What `depends_on` says, by the keys of the containers.
    fn dependencies(
        self,
        project: &Project,
        service: &Service,
        found: &mut Found,
    ) -> BTreeMap<String, Dependency> {
        let mut waits = BTreeMap::new();
        for (other, dependency) in &service.depends_on {
            match self.others(project, other) {
                Some(others) => waits.extend(others.into_iter().map(|other| (other.key, *dependency))),
                None if dependency.required => {
                    found.push(("depends_on", format!("there is no service {other}")));
                }
                None => {}
            }
        }
        waits
    }

    fn namespace(
        self,
        project: &Project,
        share: &Share,
        attribute: &'static str,
        refers: &mut BTreeSet<String>,
        found: &mut Found,
    ) -> Namespace {
        match share {
            Share::Default => Namespace::Default,
            Share::Private => Namespace::Private,
            Share::Shareable => Namespace::Shareable,
            Share::None => Namespace::None,
            Share::Host => Namespace::Host,
            Share::Container(name) => Namespace::Foreign { name: name.clone() },
            Share::Service(name) => match self.first(project, name, attribute, found) {
                Some(owner) => {
                    refers.insert(owner.key);
                    Namespace::Container { name: owner.name }
                }
                None => Namespace::Default,
            },
        }
    }

    fn volumes_from(
        self,
        project: &Project,
        service: &Service,
        refers: &mut BTreeSet<String>,
        waits: &mut BTreeMap<String, Dependency>,
        found: &mut Found,
    ) -> Vec<VolumesFrom> {
        let mut all = Vec::new();
        for shared in &service.volumes_from {
            let mut container = shared.from.clone();
            if !shared.foreign {
                let Some(owner) = self.first(project, &shared.from, "volumes_from", found) else {
                    continue;
                };
                container = owner.name;
                add_wait(waits, &owner.key, false);
                refers.insert(owner.key);
            }
            all.push(VolumesFrom {
                container,
                read_only: shared.read_only,
                foreign: shared.foreign,
            });
        }
        all
    }

    /// Each container of a linked service under the three names that Compose gives it.
    fn links(
        self,
        project: &Project,
        service: &Service,
        instance: &Instance,
        waits: &mut BTreeMap<String, Dependency>,
        found: &mut Found,
    ) -> Vec<Link> {
        let mut all = Vec::new();
        for (name, alias) in &service.links {
            let Some(others) = self.others(project, name) else {
                found.push(("links", format!("there is no service {name}")));
                continue;
            };
            for other in others {
                add_wait(waits, &other.key, true);
                let numbered = format!("{name}-{}", instance.number);
                let full = format!("{}-{numbered}", self.stack);
                for alias in [alias, &numbered, &full] {
                    all.push(Link {
                        container: other.name.clone(),
                        alias: alias.clone(),
                        foreign: false,
                    });
                }
            }
        }
        all.extend(service.external_links.iter().map(|(container, alias)| Link {
            container: container.clone(),
            alias: alias.clone(),
            foreign: true,
        }));
        all
    }
}

pub(super) fn replicas(service: &Service) -> u32 {
    service.scale.or(service.deploy.replicas).unwrap_or(1)
}

/// A dependency that follows from something else than `depends_on`, which wins over it.
fn add_wait(waits: &mut BTreeMap<String, Dependency>, key: &str, restart: bool) {
    waits.entry(key.to_owned()).or_insert(Dependency {
        condition: Condition::Started,
        restart,
        required: true,
    });
}

/// `expose` and the targets of `ports`, sorted.
fn expose(service: &Service) -> Vec<String> {
    let mut all = service.expose.clone();
    all.extend(
        service
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.target, port.protocol)),
    );
    all.into_iter().collect()
}

/// What goes to the engine, and whether its masked paths are visible.
fn security(service: &Service) -> (Vec<String>, bool) {
    const UNMASKED: &str = "systempaths=unconfined";
    let options = service.security_opt.iter();
    (
        options.filter(|option| *option != UNMASKED).cloned().collect(),
        service.security_opt.contains(UNMASKED),
    )
}

/// The containers of one cycle, or none. Repeatedly leaves out what waits for nothing that is left.
fn find_cycle(services: &BTreeMap<String, Box<DesiredService>>) -> Option<Vec<&str>> {
    let mut left: BTreeMap<&str, &Box<DesiredService>> = services
        .iter()
        .map(|(name, service)| (name.as_str(), service))
        .collect();
    loop {
        let before = left.len();
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, service| service.after().any(|name| names.contains(name)));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.into_keys().collect());
        }
    }
}
