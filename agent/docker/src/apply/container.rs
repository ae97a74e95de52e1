//! Containers, created as their specification says.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig,
    NetworkConnectRequest, NetworkingConfig, RestartPolicy as EngineRestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptions;
use decnet_plan::labels;
use decnet_plan::step::{ContainerSpec, Endpoint, NetworkMode, RestartPolicy};
use serde_json::json;

use super::why_container_not_ours;
use crate::engine::CHANGE;
use crate::error::status;
use crate::observe::label;
use crate::{Engine, EngineError};

impl Engine {
    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        let what = || format!("create container {}", spec.name);
        let image = self.image_of(spec).await?;
        let network_mode = self.network_mode(spec).await?;
        let endpoints = match &spec.network {
            NetworkMode::Networks { endpoints } => endpoints.as_slice(),
            NetworkMode::None
            | NetworkMode::Host
            | NetworkMode::Bridge
            | NetworkMode::Container { .. }
            | NetworkMode::Foreign { .. } => &[],
        };
        // From 1.44 on an endpoint has its own MAC; before, the container has one, for its first network.
        let endpoint_macs = self.api_at_least(1, 44);
        let body = to_body(spec, image, network_mode, endpoints.first(), endpoint_macs);
        let mac = endpoints.first().and_then(|endpoint| endpoint.mac);
        let docker = match mac {
            Some(mac) if !endpoint_macs => {
                self.with_fields(body.clone(), &[("MacAddress", json!(mac.to_string()))])?
            }
            _ => self.docker.clone(),
        };
        if !endpoint_macs && endpoints.iter().skip(1).any(|endpoint| endpoint.mac.is_some()) {
            let why = "Docker before 25.0 sets a MAC address on a container's first network only";
            return Err(EngineError::Unsupported { what: what(), why });
        }
        let options = CreateContainerOptions {
            name: Some(spec.name.clone()),
            ..CreateContainerOptions::default()
        };
        match self
            .call(CHANGE, what, docker.create_container(Some(options), body))
            .await
        {
            Ok(_) => {}
            Err(error) if status(&error) == Some(409) => self.check_existing(spec, error).await?,
            Err(error) => return Err(error),
        }
        self.connect_further(spec, endpoints, endpoint_macs).await
    }

    /// The first of the image's names that the engine knows.
    async fn image_of(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
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

    async fn network_mode(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        match &spec.network {
            NetworkMode::None => Ok("none".to_owned()),
            NetworkMode::Host => Ok("host".to_owned()),
            NetworkMode::Bridge => Ok("bridge".to_owned()),
            NetworkMode::Foreign { name } => Ok(format!("container:{name}")),
            NetworkMode::Networks { endpoints } => Ok(endpoints
                .first()
                .map_or_else(|| "none".to_owned(), |endpoint| endpoint.network.clone())),
            NetworkMode::Container { name } => {
                let owner = self.inspect(name).await?;
                let id = owner.id.clone().unwrap_or_default();
                if label(&owner, labels::HOST) != spec.labels.get(labels::HOST).map(String::as_str) {
                    return Err(EngineError::Foreign {
                        what: format!("create container {}", spec.name),
                        object: format!("container {name}"),
                        id,
                        why: "is not this host's, so that its network is not joined",
                    });
                }
                Ok(format!("container:{id}"))
            }
        }
    }

    /// A container of that name exists: fine when an earlier attempt has made it.
    async fn check_existing(&self, spec: &ContainerSpec, conflict: EngineError) -> Result<(), EngineError> {
        let Ok(existing) = self.inspect(&spec.name).await else {
            return Err(conflict);
        };
        match why_container_not_ours(&spec.labels, &existing) {
            None => Ok(()),
            Some(why) => Err(EngineError::Foreign {
                what: format!("create container {}", spec.name),
                object: format!("container {}", spec.name),
                id: existing.id.unwrap_or_default(),
                why,
            }),
        }
    }

    /// Engines before API 1.44 take one network at creation. Connects the rest, except what an earlier attempt has.
    async fn connect_further(
        &self,
        spec: &ContainerSpec,
        endpoints: &[Endpoint],
        endpoint_macs: bool,
    ) -> Result<(), EngineError> {
        if endpoints.len() < 2 {
            return Ok(());
        }
        let existing = self.inspect(&spec.name).await?;
        let connected = existing
            .network_settings
            .and_then(|settings| settings.networks)
            .unwrap_or_default();
        for endpoint in &endpoints[1..] {
            if connected.contains_key(&endpoint.network) {
                continue;
            }
            let request = NetworkConnectRequest {
                container: spec.name.clone(),
                endpoint_config: Some(to_endpoint(endpoint, endpoint_macs)),
            };
            let what = || format!("connect container {} to network {}", spec.name, endpoint.network);
            self.call(
                CHANGE,
                what,
                self.docker.connect_network(&endpoint.network, request),
            )
            .await?;
        }
        Ok(())
    }
}

fn to_body(
    spec: &ContainerSpec,
    image: String,
    network_mode: String,
    first: Option<&Endpoint>,
    endpoint_macs: bool,
) -> ContainerCreateBody {
    let networking = first.map(|endpoint| NetworkingConfig {
        endpoints_config: Some(HashMap::from([(
            endpoint.network.clone(),
            to_endpoint(endpoint, endpoint_macs),
        )])),
    });
    // The engine refuses ports for a container that joins another's network namespace.
    let joins = matches!(spec.network, NetworkMode::Container { .. });
    ContainerCreateBody {
        image: Some(image),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone().map(reset_if_empty),
        env: Some(spec.environment.iter().map(to_variable).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_timeout_s.map(i64::from),
        exposed_ports: (!joins).then(|| spec.expose.clone()),
        networking_config: networking,
        host_config: Some(to_host_config(spec, network_mode)),
        ..ContainerCreateBody::default()
    }
}

fn to_host_config(spec: &ContainerSpec, network_mode: String) -> HostConfig {
    let log = spec.log_driver.as_ref().map(|driver| HostConfigLogConfig {
        typ: Some(driver.clone()),
        config: Some(spec.log_options.clone().into_iter().collect()),
    });
    let without_driver = (!spec.log_options.is_empty()).then(|| HostConfigLogConfig {
        typ: None,
        config: Some(spec.log_options.clone().into_iter().collect()),
    });
    HostConfig {
        network_mode: Some(network_mode),
        restart_policy: Some(to_restart(spec.restart)),
        cap_add: Some(spec.cap_add.clone()),
        cap_drop: Some(spec.cap_drop.clone()),
        security_opt: Some(spec.security_opt.clone()),
        sysctls: Some(spec.sysctls.clone().into_iter().collect()),
        readonly_rootfs: Some(spec.read_only),
        init: spec.init,
        tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
        memory: spec.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        pids_limit: spec.pids,
        nano_cpus: spec.nano_cpus,
        log_config: log.or(without_driver),
        ..HostConfig::default()
    }
}

/// An empty entrypoint takes the image's away; the engine reads `[""]` as that, and `[]` as "keep".
fn reset_if_empty(entrypoint: Vec<String>) -> Vec<String> {
    if entrypoint.is_empty() {
        vec![String::new()]
    } else {
        entrypoint
    }
}

/// A name alone takes the image's variable away.
fn to_variable((name, value): (&String, &Option<String>)) -> String {
    match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    }
}

fn to_restart(policy: RestartPolicy) -> EngineRestartPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure { retries } => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(retries))),
    };
    EngineRestartPolicy {
        name: Some(name),
        maximum_retry_count: retries,
    }
}

fn to_endpoint(endpoint: &Endpoint, endpoint_macs: bool) -> EndpointSettings {
    let address = endpoint.address.map(|address| EndpointIpamConfig {
        ipv4_address: Some(address.to_string()),
        ..EndpointIpamConfig::default()
    });
    EndpointSettings {
        ipam_config: address,
        mac_address: endpoint.mac.filter(|_| endpoint_macs).map(|mac| mac.to_string()),
        aliases: Some(endpoint.aliases.clone()),
        ..EndpointSettings::default()
    }
}
