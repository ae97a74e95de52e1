//! One fleet's containers, read from the engine after the agent made them, so that every contender makes the same.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, Network, NetworkingConfig,
};
use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions};
use decnet_tests::engine::{HOST_LABEL, SERVICE_LABEL, STACK_LABEL};
use serde_json::{Map, Value, json};

/// The label of everything that the peers make.
pub(crate) const LABEL: &str = "decnet-bench";

pub(crate) struct Project {
    /// By decky: its base first, then its services.
    pub(crate) deckies: BTreeMap<String, Vec<Service>>,
    pub(crate) network: Network,
}

pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) body: ContainerCreateBody,
}

impl Project {
    /// What a host's agent has made.
    pub(crate) async fn of(docker: &Docker, host: &str) -> Result<Self> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{HOST_LABEL}={host}")])]);
        let networks = docker
            .list_networks(Some(ListNetworksOptions {
                filters: Some(filters.clone()),
            }))
            .await?;
        let mut network = networks.into_iter().next().context("the fleet has no network")?;
        network.labels = None;
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..Default::default()
        };
        let mut deckies: BTreeMap<String, Vec<Service>> = BTreeMap::new();
        for summary in docker.list_containers(Some(options)).await? {
            let id = summary.id.context("a container without an id")?;
            let (decky, service) = service_of(docker.inspect_container(&id, None).await?)?;
            deckies.entry(decky).or_default().push(service);
        }
        for services in deckies.values_mut() {
            services.sort_by_key(|service| (!service.is_base(), service.name.clone()));
            ensure!(
                services.first().is_some_and(Service::is_base),
                "a decky without a base"
            );
        }
        Ok(Self { deckies, network })
    }

    /// The same as one Compose document.
    pub(crate) fn compose(&self) -> Result<Value> {
        let mut services = Map::new();
        for (decky, parts) in &self.deckies {
            for part in parts {
                services.insert(key(decky, &part.name), part.compose(decky)?);
            }
        }
        let pool = self
            .network
            .ipam
            .as_ref()
            .and_then(|ipam| ipam.config.as_ref()?.first());
        let pool = pool.context("the network has no pool")?;
        Ok(json!({
            "services": services,
            "networks": {"lan": {
                "driver": self.network.driver,
                "driver_opts": self.network.options,
                "ipam": {"config": [{"subnet": pool.subnet, "gateway": pool.gateway}]},
            }},
        }))
    }

    /// Fails when something of a peer is left on the engine.
    pub(crate) async fn expect_nothing(&self, docker: &Docker) -> Result<()> {
        let filters = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..Default::default()
        };
        let left = docker.list_containers(Some(options)).await?;
        ensure!(left.is_empty(), "{} containers are left", left.len());
        Ok(())
    }
}

impl Service {
    pub(crate) fn is_base(&self) -> bool {
        self.name == "base"
    }

    fn compose(&self, decky: &str) -> Result<Value> {
        // By way of JSON: the engine's words are then all that this knows.
        let body = serde_json::to_value(&self.body)?;
        let host = &body["HostConfig"];
        let mut service = json!({
            "image": body["Image"],
            "environment": body["Env"],
            "user": body["User"],
            "labels": {LABEL: ""},
            "cap_drop": host["CapDrop"],
            "security_opt": host["SecurityOpt"],
            "read_only": host["ReadonlyRootfs"],
            "mem_limit": host["Memory"],
            "pids_limit": host["PidsLimit"],
            "restart": host["RestartPolicy"]["Name"],
            "init": host["Init"],
        });
        let mut set = |name: &str, value: &Value| {
            let empty =
                value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == "" || value == 0;
            if !empty {
                service[name] = value.clone();
            }
        };
        set("command", &body["Cmd"]);
        set("entrypoint", &body["Entrypoint"]);
        set("stop_signal", &body["StopSignal"]);
        if let Some(sysctls) = host["Sysctls"].as_object().filter(|sysctls| !sysctls.is_empty()) {
            set("sysctls", &Value::Object(sysctls.clone()));
        }
        if let Some(seconds) = body["StopTimeout"].as_i64() {
            set("stop_grace_period", &Value::from(format!("{seconds}s")));
        }
        let mounts = host["Tmpfs"].as_object().into_iter().flatten();
        let mounts: Vec<Value> = mounts
            .map(|(path, options)| Value::from(format!("{path}:{}", options.as_str().unwrap_or_default())))
            .collect();
        set("tmpfs", &Value::from(mounts));
        if host["LogConfig"]["Type"].is_string() {
            service["logging"] =
                json!({"driver": host["LogConfig"]["Type"], "options": host["LogConfig"]["Config"]});
        }
        if self.is_base() {
            service["hostname"] = body["Hostname"].clone();
            let endpoint = self.endpoint().context("a base without a network")?;
            let address = endpoint
                .ipam_config
                .as_ref()
                .and_then(|config| config.ipv4_address.clone());
            service["networks"] = json!({"lan": {"ipv4_address": address}});
            service["mac_address"] = json!(endpoint.mac_address);
        } else {
            service["network_mode"] = Value::from(format!("service:{}", key(decky, "base")));
        }
        if let Value::Object(map) = &mut service {
            map.retain(|_, value| !value.is_null());
        }
        Ok(service)
    }

    pub(crate) fn endpoint(&self) -> Option<&EndpointSettings> {
        self.body
            .networking_config
            .as_ref()?
            .endpoints_config
            .as_ref()?
            .values()
            .next()
    }
}

/// The name of a decky's part in one document of all deckies.
fn key(decky: &str, service: &str) -> String {
    format!("{decky}-{service}")
}

fn service_of(container: ContainerInspectResponse) -> Result<(String, Service)> {
    let config = container.config.context("a container without a configuration")?;
    let labels = config.labels.clone().unwrap_or_default();
    let label = |name: &str| {
        labels
            .get(name)
            .cloned()
            .with_context(|| format!("no label {name}"))
    };
    let mut host_config = container
        .host_config
        .context("a container without a host configuration")?;
    // Set for each contender.
    host_config.network_mode = None;
    let endpoints: HashMap<String, EndpointSettings> = container
        .network_settings
        .and_then(|settings| settings.networks)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, seen)| {
            let settings = EndpointSettings {
                ipam_config: seen.ipam_config,
                mac_address: seen.mac_address,
                ..EndpointSettings::default()
            };
            (name, settings)
        })
        .collect();
    let body = ContainerCreateBody {
        image: config.image,
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        env: config.env,
        labels: Some(HashMap::from([(LABEL.to_owned(), String::new())])),
        hostname: config.hostname,
        user: config.user,
        working_dir: config.working_dir,
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        host_config: Some(host_config),
        networking_config: (!endpoints.is_empty()).then_some(NetworkingConfig {
            endpoints_config: Some(endpoints),
        }),
        ..ContainerCreateBody::default()
    };
    let decky = label(STACK_LABEL)?;
    Ok((
        decky,
        Service {
            name: label(SERVICE_LABEL)?,
            body,
        },
    ))
}
