//! Containers, created as their specification says.
//!
//! | module | what it writes |
//! | --- | --- |
//! | `body` | what a container is |
//! | `host` | what it gets of the host: limits, devices, namespaces |
//! | `mounts` | what is mounted into it |

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerInspectResponse, NetworkConnectRequest};
use bollard::query_parameters::CreateContainerOptions;
use decnet_plan::labels;
use decnet_plan::step::{ContainerSpec, MountKind, Namespace, NetworkMode};
use serde_json::{Value, json};

use super::why_container_not_ours;
use crate::engine::{CHANGE, LOOK};
use crate::error::{is_absent, status};
use crate::observe::label;
use crate::{Engine, EngineError};

mod body;
mod host;
mod mounts;

/// What a specification leaves to the moment: ids in the place of names.
#[derive(Debug, Default)]
struct Resolved {
    image: String,
    /// The id of every container of ours that the specification names.
    containers: HashMap<String, String>,
    /// Volumes of the container that is replaced, by mount point.
    inherited: BTreeMap<String, Inherited>,
    /// An endpoint has its own MAC (API 1.44); before, the container has one, for its first network.
    endpoint_macs: bool,
}

/// An anonymous volume that a replacement takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inherited {
    name: String,
    read_only: bool,
}

impl Resolved {
    /// Every name that is looked up has been resolved; without an id the engine looks for the name.
    fn id<'a>(&'a self, name: &'a str) -> &'a str {
        self.containers.get(name).map_or(name, String::as_str)
    }
}

impl Engine {
    pub(super) async fn create_container(
        &self,
        spec: &ContainerSpec,
        staged: Option<&str>,
        inherit: Option<&str>,
    ) -> Result<(), EngineError> {
        let name = staged.unwrap_or(&spec.name);
        self.check_supported(spec)?;
        let mut resolved = Resolved {
            image: self.image_of(spec).await?,
            endpoint_macs: self.api_at_least(1, 44),
            ..Resolved::default()
        };
        if let Some(old) = inherit {
            resolved.inherited = self.anonymous_volumes(spec, &resolved.image, old).await?;
        }
        for owner in joined(spec) {
            let id = self.id_of_ours(spec, owner).await?;
            resolved.containers.insert(owner.to_owned(), id);
        }
        let created = match self.create(spec, name, &resolved).await {
            // What was known of the image or of a container is not so any more. The engine does not look for the owner
            // of a network namespace until the start; one that has gone since the last look is seen at the next.
            Err(error) if names_the_absent(&error) => {
                resolved.image = self.ask_image_of(spec).await?;
                for (owner, id) in &mut resolved.containers {
                    self.known.no_container(owner);
                    *id = self.id_of_ours(spec, owner).await?;
                }
                self.create(spec, name, &resolved).await
            }
            other => other,
        };
        let id = match created {
            Ok(id) => {
                self.known.created(name, &id, &spec.labels);
                self.connect_further(spec, &id, &resolved, &HashMap::new())
                    .await?;
                id
            }
            Err(error) if status(&error) == Some(409) => {
                let existing = self.check_existing(spec, name, error).await?;
                let connected = existing.network_settings.and_then(|settings| settings.networks);
                let id = existing.id.unwrap_or_default();
                self.connect_further(spec, &id, &resolved, &connected.unwrap_or_default())
                    .await?;
                id
            }
            Err(error) => return Err(error),
        };
        self.copy_files(&id, &spec.files).await
    }

    async fn create(
        &self,
        spec: &ContainerSpec,
        name: &str,
        resolved: &Resolved,
    ) -> Result<String, EngineError> {
        let body = body::to_body(spec, resolved);
        // Fields that bollard's types, made for newer engines, do not have any more.
        let mut fields: Vec<(&'static str, Value)> = Vec::new();
        let mac = spec
            .endpoints()
            .first()
            .map_or(spec.mac, |first| first.mac.or(spec.mac));
        if let Some(mac) = mac
            && (!resolved.endpoint_macs || spec.endpoints().is_empty())
        {
            fields.push(("MacAddress", json!(mac.to_string())));
        }
        let docker = if fields.is_empty() {
            self.docker.clone()
        } else {
            self.with_fields(&body, &fields)?
        };
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            platform: spec.platform.clone().unwrap_or_default(),
        };
        let what = || format!("create container {name}");
        let created = self
            .call(CHANGE, what, docker.create_container(Some(options), body))
            .await?;
        for warning in created.warnings {
            tracing::warn!(container = name, warning, "the engine warns");
        }
        Ok(created.id)
    }

    /// Engines before API 1.44 take one network at creation, as Compose gives all of them. Connects the rest.
    async fn connect_further(
        &self,
        spec: &ContainerSpec,
        id: &str,
        resolved: &Resolved,
        connected: &HashMap<String, bollard::models::EndpointSettings>,
    ) -> Result<(), EngineError> {
        for endpoint in spec.endpoints().iter().skip(1) {
            if connected.contains_key(&endpoint.network) {
                continue;
            }
            let request = NetworkConnectRequest {
                container: id.to_owned(),
                endpoint_config: Some(body::to_endpoint(spec, endpoint, resolved)),
            };
            let what = || format!("connect container {} to network {}", spec.name, endpoint.network);
            let call = self.docker.connect_network(&endpoint.network, request);
            self.call(CHANGE, what, call).await?;
        }
        Ok(())
    }

    /// The first of the image's names that the engine is known to have, or has.
    async fn image_of(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        match spec.image.iter().find(|name| self.known.has_image(name)) {
            Some(name) => Ok(name.clone()),
            None => self.ask_image_of(spec).await,
        }
    }

    async fn ask_image_of(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        for name in &spec.image {
            if self.has_image(name).await? {
                return Ok(name.clone());
            }
        }
        Err(EngineError::NoImage {
            container: spec.name.clone(),
            image: spec.image.join(" or "),
        })
    }

    /// The id of a container that carries the same host's label.
    async fn id_of_ours(&self, spec: &ContainerSpec, name: &str) -> Result<String, EngineError> {
        let host = spec.labels.get(labels::HOST).map(String::as_str);
        if let Some(known) = self.known.container(name)
            && Some(known.host.as_str()) == host
        {
            return Ok(known.id);
        }
        let owner = self.inspect(name).await?;
        let id = owner.id.clone().unwrap_or_default();
        if label(&owner, labels::HOST) != host {
            return Err(EngineError::Foreign {
                what: format!("create container {}", spec.name),
                object: format!("container {name}"),
                id,
                why: "is not this host's, so that nothing of it is shared",
            });
        }
        Ok(id)
    }

    /// A container of that name exists: fine when an earlier attempt has made it.
    async fn check_existing(
        &self,
        spec: &ContainerSpec,
        name: &str,
        conflict: EngineError,
    ) -> Result<ContainerInspectResponse, EngineError> {
        let Ok(existing) = self.inspect(name).await else {
            return Err(conflict);
        };
        match why_container_not_ours(&spec.labels, &existing) {
            None => Ok(existing),
            Some(why) => Err(EngineError::Foreign {
                what: format!("create container {name}"),
                object: format!("container {name}"),
                id: existing.id.unwrap_or_default(),
                why,
            }),
        }
    }

    /// The anonymous volumes of the container that is replaced which the new one has a place for: a mount without a
    /// source, or a `VOLUME` of its image. None where the old one has gone.
    async fn anonymous_volumes(
        &self,
        spec: &ContainerSpec,
        image: &str,
        old: &str,
    ) -> Result<BTreeMap<String, Inherited>, EngineError> {
        let old = match self.inspect(old).await {
            Ok(old) => old,
            Err(error) if is_absent(&error) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mounts = old.mounts.unwrap_or_default();
        let volumes: Vec<_> = mounts
            .iter()
            .filter(|mount| mount.typ.as_deref() == Some("volume"))
            .filter_map(|mount| {
                let volume = Inherited {
                    name: mount.name.clone()?,
                    read_only: mount.rw == Some(false),
                };
                Some((mount.destination.clone()?, volume))
            })
            .collect();
        if volumes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let what = || format!("inspect image {image}");
        let image = self.call(LOOK, what, self.docker.inspect_image(image)).await?;
        let declared = image.config.and_then(|config| config.volumes).unwrap_or_default();
        let wanted = |target: &str| {
            let mount = spec.mounts.iter().find(|mount| mount.target == target);
            match mount.map(|mount| &mount.kind) {
                Some(MountKind::Volume { name: None, .. }) => true,
                Some(_) => false,
                None => declared.iter().any(|volume| volume == target) && !spec.tmpfs.contains_key(target),
            }
        };
        Ok(volumes.into_iter().filter(|(target, _)| wanted(target)).collect())
    }

    /// What this engine is too old for. It would leave most of that out without a word.
    fn check_supported(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        let what = || format!("create container {}", spec.name);
        let endpoints = spec.endpoints();
        let check = spec.healthcheck.as_ref();
        let needs: [((usize, usize), bool, &'static str); 5] = [
            (
                (1, 43),
                !spec.annotations.is_empty(),
                "annotations need Docker 24.0 or newer",
            ),
            (
                (1, 44),
                check.is_some_and(|check| check.start_interval_ms.is_some()),
                "healthcheck.start_interval needs Docker 25.0 or newer",
            ),
            (
                (1, 44),
                endpoints.iter().skip(1).any(|endpoint| endpoint.mac.is_some()),
                "Docker before 25.0 sets a MAC address on a container's first network only",
            ),
            (
                (1, 48),
                endpoints.iter().any(|endpoint| endpoint.gw_priority != 0),
                "gw_priority needs Docker 28.0 or newer",
            ),
            (
                (1, 49),
                endpoints.iter().any(|endpoint| endpoint.interface_name.is_some()),
                "interface_name needs Docker 28.1 or newer",
            ),
        ];
        for (version, used, why) in needs {
            if used {
                self.needs_api(version, what, why)?;
            }
        }
        for mount in &spec.mounts {
            if let Some((version, why)) = mounts::needs(mount) {
                self.needs_api(version, what, why)?;
            }
            if let Some(why) = mounts::impossible(mount) {
                return Err(EngineError::Unsupported { what: what(), why });
            }
        }
        Ok(())
    }
}

/// Whether an image, or a container that is to share something, is not there. For the owner of volumes the engine
/// answers 400.
fn names_the_absent(error: &EngineError) -> bool {
    match error {
        EngineError::Call {
            source:
                bollard::errors::Error::DockerResponseServerError {
                    status_code: 400,
                    message,
                },
            ..
        } => message.contains("No such container"),
        other => is_absent(other),
    }
}

/// The containers of ours whose namespaces or volumes it shares.
fn joined(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    let network = match &spec.network {
        NetworkMode::Container { name } => Some(name),
        _ => None,
    };
    let namespaces = [&spec.namespaces.pid, &spec.namespaces.ipc];
    let namespaces = namespaces.into_iter().filter_map(|namespace| match namespace {
        Namespace::Container { name } => Some(name),
        _ => None,
    });
    let volumes = spec.volumes_from.iter().filter(|from| !from.foreign);
    network
        .into_iter()
        .chain(namespaces)
        .chain(volumes.map(|from| &from.container))
        .map(String::as_str)
}
