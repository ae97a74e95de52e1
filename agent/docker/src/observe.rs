//! What the engine has.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, EndpointSettings};
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions};
use decnet_plan::labels;
use decnet_wire::bundle::NetworkDriver;
use decnet_wire::ids::HostId;
use decnet_wire::observed::{
    Attachment, ContainerState, ForeignNetwork, KernelFeature, Observed, ObservedContainer, ObservedImage,
    ObservedNetwork,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::engine::{CALLS, LOOK};
use crate::error::is_absent;
use crate::host::{EgressCounters, lock};
use crate::{Engine, EngineError};

mod interfaces;
mod namespace;
mod reach;

pub use interfaces::list as interfaces;

impl Engine {
    /// Every object that carries this host's label, all images, and the host's interfaces; sorted by name. An object
    /// that carries the label but not the others that we set is left out and logged: it is not of our making.
    ///
    /// # Errors
    /// The engine does not answer, or the interfaces cannot be listed.
    pub async fn observe(&self, host: HostId) -> Result<Observed, EngineError> {
        let (images, (networks, foreign_networks), containers, lacks) =
            tokio::try_join!(self.images(), self.networks(host), self.containers(host), lacks())?;
        Ok(Observed {
            images,
            networks,
            containers,
            interfaces: interfaces::list()?,
            foreign_networks,
            lacks,
        })
    }

    /// What the closed namespaces of this host's running containers have counted, by the container's name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn egress(&self, host: HostId) -> Result<BTreeMap<String, EgressCounters>, EngineError> {
        let inspected = self.inspect_all(host).await?;
        let owners = namespace::owners(&inspected);
        let read = move || namespace::in_each_of(&owners, lock::counters);
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let mut by_id: HashMap<_, _> = read.into_iter().collect();
        let counters = |container: &ContainerInspectResponse| {
            let counters = by_id.remove(container.id.as_deref()?)?.ok()??;
            Some((name_of(container).to_owned(), counters))
        };
        Ok(inspected.iter().filter_map(counters).collect())
    }

    async fn images(&self) -> Result<Vec<ObservedImage>, EngineError> {
        let options = ListImagesOptions::default();
        let list = self
            .call(
                LOOK,
                || "list images".to_owned(),
                self.docker.list_images(Some(options)),
            )
            .await?;
        let mut images: Vec<_> = list
            .into_iter()
            .map(|image| {
                let mut references = image.repo_tags;
                references.extend(image.repo_digests);
                // The engine's word for an image without a name.
                references.retain(|reference| !reference.contains("<none>"));
                references.sort();
                ObservedImage {
                    id: image.id,
                    references,
                }
            })
            .collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    /// This host's networks, and those of others that sit on an interface.
    async fn networks(
        &self,
        host: HostId,
    ) -> Result<(Vec<ObservedNetwork>, Vec<ForeignNetwork>), EngineError> {
        let list = self
            .call(
                LOOK,
                || "list networks".to_owned(),
                self.docker.list_networks(None),
            )
            .await?;
        let host = host.to_string();
        let (mut networks, mut foreign) = (Vec::new(), Vec::new());
        for network in list {
            let mut found = network.labels.clone().unwrap_or_default();
            if found.get(labels::HOST) != Some(&host) {
                foreign.extend(to_foreign(&network));
            } else if let (Some(id), Some(name)) = (network.id, network.name) {
                let hash = found.remove(labels::HASH).unwrap_or_default();
                networks.push(ObservedNetwork { id, name, hash });
            }
        }
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        foreign.sort();
        Ok((networks, foreign))
    }

    async fn inspect_all(&self, host: HostId) -> Result<Vec<ContainerInspectResponse>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(of_host(host)),
            ..Default::default()
        };
        let list = self
            .call(
                LOOK,
                || "list containers".to_owned(),
                self.docker.list_containers(Some(options)),
            )
            .await?;
        let ids = list.into_iter().filter_map(|container| container.id);
        stream::iter(ids)
            .map(|id| async move {
                match self.inspect(&id).await {
                    // Removed since it was listed.
                    Err(error) if is_absent(&error) => Ok(None),
                    other => other.map(Some),
                }
            })
            .buffer_unordered(CALLS)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    async fn containers(&self, host: HostId) -> Result<Vec<ObservedContainer>, EngineError> {
        let inspected = self.inspect_all(host).await?;
        let by_id: HashMap<_, _> = inspected
            .iter()
            .filter_map(|container| Some((container.id.as_deref()?, container)))
            .collect();
        let mut containers: Vec<_> = inspected
            .iter()
            .filter_map(|container| to_observed(container, &by_id))
            .collect();
        let mut locks = locks(&inspected).await;
        for container in &mut containers {
            container.lock = locks.remove(&container.id);
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    pub(crate) async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        let what = || format!("inspect container {container}");
        self.call(LOOK, what, self.docker.inspect_container(container, None))
            .await
    }
}

/// A network that has a part in an interface; None for one that has not.
fn to_foreign(network: &bollard::models::Network) -> Option<ForeignNetwork> {
    let driver = match network.driver.as_deref()? {
        "macvlan" => NetworkDriver::Macvlan,
        "ipvlan" => NetworkDriver::Ipvlan,
        _ => return None,
    };
    let parent = network.options.as_ref()?.get("parent")?.parse().ok()?;
    Some(ForeignNetwork {
        name: network.name.clone()?,
        driver,
        parent,
    })
}

/// What the namespaces of running containers are closed with, by the container's id.
async fn locks(containers: &[ContainerInspectResponse]) -> HashMap<String, String> {
    let owners = namespace::owners(containers);
    let read = move || {
        let read = namespace::in_each_of(&owners, lock::rules);
        read.into_iter()
            .filter_map(|(id, rules)| Some((id, rules.ok()??)))
            .collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Trying takes a thread of its own, and some milliseconds when it is not known yet.
async fn lacks() -> Result<Vec<KernelFeature>, EngineError> {
    let tried = tokio::task::spawn_blocking(crate::host::lacks).await;
    Ok(tried.unwrap_or_default())
}

fn of_host(host: HostId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{}={host}", labels::HOST)])])
}

/// The container's name without the engine's leading slash.
pub(crate) fn name_of(container: &ContainerInspectResponse) -> &str {
    container
        .name
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches('/')
}

pub(crate) fn label<'a>(container: &'a ContainerInspectResponse, name: &str) -> Option<&'a str> {
    container
        .config
        .as_ref()?
        .labels
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

fn to_observed(
    container: &ContainerInspectResponse,
    all: &HashMap<&str, &ContainerInspectResponse>,
) -> Option<ObservedContainer> {
    let name = name_of(container).to_owned();
    let Some(stack) = label(container, labels::STACK).and_then(|stack| stack.parse().ok()) else {
        tracing::warn!(
            container = name,
            "carries this host's label and no valid stack label: left alone"
        );
        return None;
    };
    let mode = container
        .host_config
        .as_ref()
        .and_then(|config| config.network_mode.as_deref());
    let owner = mode.and_then(|mode| mode.strip_prefix("container:"));
    let joined = owner.filter(|owner| match all.get(owner) {
        Some(owner) => namespace::is_current(container, owner),
        None => true,
    });
    let settings = container.network_settings.as_ref();
    let mut attachments: Vec<_> = settings
        .and_then(|settings| settings.networks.as_ref())
        .into_iter()
        .flatten()
        .filter(|(network, _)| *network != "none")
        .map(|(network, endpoint)| to_attachment(network, endpoint))
        .collect();
    attachments.sort_by(|a, b| a.network.cmp(&b.network));
    let expose = label(container, labels::EXPOSE).unwrap_or_default();
    Some(ObservedContainer {
        id: container.id.clone()?,
        name,
        stack,
        service: label(container, labels::SERVICE).unwrap_or_default().to_owned(),
        hash: label(container, labels::HASH).unwrap_or_default().to_owned(),
        image: container.image.clone().unwrap_or_default(),
        state: to_state(container),
        restarts: restarts(container),
        joined: joined.map(str::to_owned),
        lock: None,
        warnings: Vec::new(),
        expose: expose
            .split(',')
            .filter(|port| !port.is_empty())
            .map(str::to_owned)
            .collect(),
        attachments,
    })
}

pub(crate) fn restarts(container: &ContainerInspectResponse) -> u32 {
    container
        .restart_count
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or_default()
}

pub(crate) fn to_state(container: &ContainerInspectResponse) -> ContainerState {
    use ContainerStateStatusEnum as Status;
    let state = container.state.as_ref();
    let code = state.and_then(|state| state.exit_code).unwrap_or_default();
    match state.and_then(|state| state.status) {
        Some(Status::CREATED | Status::EMPTY) | None => ContainerState::Created,
        // One that is being stopped still runs; the next look sees it exited.
        Some(Status::RUNNING | Status::STOPPING) => ContainerState::Running,
        Some(Status::PAUSED) => ContainerState::Paused,
        Some(Status::RESTARTING) => ContainerState::Restarting { code },
        Some(Status::REMOVING) => ContainerState::Removing,
        Some(Status::EXITED) => ContainerState::Exited { code },
        Some(Status::DEAD) => ContainerState::Dead,
    }
}

/// The engine tells the address in use while the container runs, and the one asked for always.
fn to_attachment(network: &str, endpoint: &EndpointSettings) -> Attachment {
    let asked = endpoint
        .ipam_config
        .as_ref()
        .and_then(|config| config.ipv4_address.as_ref());
    let address = [endpoint.ip_address.as_ref(), asked]
        .into_iter()
        .flatten()
        .find_map(|address| address.parse::<Ipv4Addr>().ok());
    let network_id = endpoint.network_id.clone().filter(|id| !id.is_empty());
    let mac = endpoint.mac_address.as_deref().and_then(|mac| mac.parse().ok());
    Attachment {
        network: network.to_owned(),
        network_id,
        address,
        mac,
    }
}
