//! What the engine has.
//!
//! | module | what it does |
//! | --- | --- |
//! | `seen` | one container, made of what the engine says of it |
//! | `observer` | remembers, and asks only about what may have changed |
//! | `namespace` | whether a container is in the network namespace that it is to share |
//! | `process` | whether a container's process is still the one that was seen |
//! | `volumes` | the engine's named volumes |
//! | `interfaces` | the host's network interfaces |
//! | `reach` | whether a decky reaches the LAN that its host reaches |

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions};
use decnet_plan::labels;
use decnet_wire::bundle::NetworkDriver;
use decnet_wire::ids::HostId;
use decnet_wire::observed::{
    Feature, ForeignNetwork, Observed, ObservedContainer, ObservedImage, ObservedNetwork,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::engine::{CALLS, LOOK};
use crate::error::is_absent;
use crate::host::{EgressCounters, lock};
use crate::{Engine, EngineError};

mod interfaces;
mod namespace;
mod observer;
mod process;
mod reach;
mod seen;
mod volumes;

pub use interfaces::list as interfaces;
pub use observer::Observer;
use seen::{Seen, to_containers};
pub(crate) use seen::{label, name_of, restarts, sandbox, to_state};

impl Engine {
    /// Every object that carries this host's label, all images, and the host's interfaces; sorted by name. An object
    /// that carries the label but not the others that we set is left out and logged: it is not of our making.
    ///
    /// # Errors
    /// The engine does not answer, or the interfaces cannot be listed.
    pub async fn observe(&self, host: HostId) -> Result<Observed, EngineError> {
        let (observed, lacks) = tokio::join!(self.look(host, How::Inspect), self.lacks());
        let mut observed = observed?;
        observed.lacks = lacks;
        Ok(observed)
    }

    /// The same, quicker, for whoever looks once and remembers nothing: a container of a project that stands alone
    /// which runs, in a network namespace that can be seen from here, is taken as the list has it. The list does not
    /// tell how often the engine has restarted a container, so that [`ObservedContainer::restarts`] is 0 for these.
    /// What the kernel lacks is left out: [`Self::lacks`] tells it to whoever has something to do.
    ///
    /// # Errors
    /// As of [`Self::observe`].
    pub async fn glance(&self, host: HostId) -> Result<Observed, EngineError> {
        self.look(host, How::List).await
    }

    async fn look(&self, host: HostId, how: How) -> Result<Observed, EngineError> {
        let (images, networks, containers, volumes) = tokio::try_join!(
            self.images(),
            self.networks(host, how),
            self.containers(host, how),
            self.volumes(host)
        )?;
        Ok(Observed {
            images,
            networks: networks.told(|id| containers.iter().any(|container| container.id == id)),
            foreign_networks: networks.foreign,
            containers,
            volumes,
            interfaces: interfaces::list()?,
            lacks: self.is_too_old_for(),
        })
    }

    /// What this host's kernel and this engine lack. Trying takes a thread of its own, and some milliseconds when it is
    /// not known yet.
    pub async fn lacks(&self) -> Vec<Feature> {
        let tried = tokio::task::spawn_blocking(crate::host::lacks).await;
        let mut lacks = tried.unwrap_or_default();
        lacks.extend(self.is_too_old_for());
        lacks
    }

    /// What this engine lacks, which costs nothing to tell.
    fn is_too_old_for(&self) -> Vec<Feature> {
        let l3s = self.api_at_least(1, 42);
        if l3s { Vec::new() } else { vec![Feature::IpvlanL3s] }
    }

    /// What the closed namespaces of this host's running containers have counted, by the container's name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn egress(&self, host: HostId) -> Result<BTreeMap<String, EgressCounters>, EngineError> {
        let listed = self
            .list(host)
            .await?
            .into_iter()
            .filter_map(|container| container.id);
        let seen = self.inspect_all(listed.collect()).await?;
        let owners = seen::owners(&seen);
        let read = move || namespace::in_each_of(&owners, lock::counters);
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let counters = |(id, counters): (String, Result<Option<EgressCounters>, _>)| {
            Some((seen.get(&id)?.name()?.to_owned(), counters.ok()??))
        };
        Ok(read.into_iter().filter_map(counters).collect())
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
        self.known.images_are(&images);
        Ok(images)
    }

    /// This host's networks, and those of others that sit on an interface.
    async fn networks(&self, host: HostId, how: How) -> Result<Networks, EngineError> {
        let list = self
            .call(
                LOOK,
                || "list networks".to_owned(),
                self.docker.list_networks(None),
            )
            .await?;
        let host = host.to_string();
        let mut networks = Networks::default();
        for network in list {
            let mut found = network.labels.clone().unwrap_or_default();
            if found.get(labels::HOST) != Some(&host) {
                networks.foreign.extend(to_foreign(&network));
            } else if let (Some(id), Some(name)) = (network.id, network.name) {
                let hash = found.remove(labels::HASH).unwrap_or_default();
                let attached = match how {
                    How::Inspect => self.attached(&id).await?,
                    How::List => HashMap::new(),
                };
                let network = ObservedNetwork {
                    id,
                    name,
                    hash,
                    guests: Vec::new(),
                };
                networks.own.push((network, attached));
            }
        }
        networks
            .own
            .sort_by(|(a, _), (b, _)| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        networks.foreign.sort();
        Ok(networks)
    }

    /// The running containers that are attached to a network: ids and names. None when it is gone.
    async fn attached(&self, network: &str) -> Result<HashMap<String, String>, EngineError> {
        let what = || format!("inspect network {network}");
        let call = self.call(LOOK, what, self.docker.inspect_network(network, None));
        match call.await {
            Ok(found) => Ok(found
                .containers
                .into_iter()
                .flatten()
                .map(|(id, endpoint)| (id, endpoint.name.unwrap_or_default()))
                .collect()),
            Err(error) if is_absent(&error) => Ok(HashMap::new()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn list(&self, host: HostId) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(of_host(host)),
            ..Default::default()
        };
        self.call(
            LOOK,
            || "list containers".to_owned(),
            self.docker.list_containers(Some(options)),
        )
        .await
    }

    async fn containers(&self, host: HostId, how: How) -> Result<Vec<ObservedContainer>, EngineError> {
        let since = self.known.moment();
        let list = self.list(host).await?;
        let (mut all, mut ids) = (HashMap::new(), Vec::new());
        for container in list {
            let Some(id) = container.id.clone() else { continue };
            match (how, Seen::of_running(&container)) {
                (How::List, Some(seen)) => {
                    all.insert(id, seen);
                }
                _ => ids.push(id),
            }
        }
        all.extend(self.inspect_all(ids).await?);
        read_locks(&mut all).await;
        let containers = to_containers(&all);
        self.remember(host, since, &containers);
        Ok(containers)
    }

    /// Without those that have gone since they were listed. Nothing of an answer is kept but what is observed: a
    /// thousand whole answers are tens of megabytes.
    async fn inspect_all(&self, ids: Vec<String>) -> Result<HashMap<String, Seen>, EngineError> {
        stream::iter(ids)
            .map(|id| async move {
                match self.inspect(&id).await {
                    Ok(container) => Ok(Some((id, Seen::of(&container)))),
                    Err(error) if is_absent(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(CALLS)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// `since`: [`Known::moment`](crate::known::Known::moment) before the engine was asked.
    fn remember(&self, host: HostId, since: u64, containers: &[ObservedContainer]) {
        let pairs = containers
            .iter()
            .map(|container| (container.name.as_str(), container.id.as_str()));
        self.known.containers_are(&host.to_string(), since, pairs);
    }

    pub(crate) async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        let what = || format!("inspect container {container}");
        self.call(LOOK, what, self.docker.inspect_container(container, None))
            .await
    }
}

/// The engine's networks.
#[derive(Debug, Clone, Default)]
struct Networks {
    /// This host's, each with the running containers on it: ids and names.
    own: Vec<(ObservedNetwork, HashMap<String, String>)>,
    foreign: Vec<ForeignNetwork>,
}

impl Networks {
    /// Leaves out containers that have gone.
    fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        for (_, attached) in &mut self.own {
            attached.retain(|id, _| !gone(id));
        }
    }

    /// This host's networks as they are told. `is_ours` knows the ids of this host's containers.
    fn told(&self, is_ours: impl Fn(&str) -> bool) -> Vec<ObservedNetwork> {
        let told = |(network, attached): &(ObservedNetwork, HashMap<String, String>)| {
            let strangers = attached.iter().filter(|(id, _)| !is_ours(id));
            let mut guests: Vec<String> = strangers.map(|(_, name)| name.clone()).collect();
            guests.sort();
            ObservedNetwork {
                guests,
                ..network.clone()
            }
        };
        self.own.iter().map(told).collect()
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

/// Fills in what the namespaces of running containers are closed with.
async fn read_locks(all: &mut HashMap<String, Seen>) {
    let owners = seen::owners(all);
    if owners.is_empty() {
        return;
    }
    let read = move || namespace::in_each_of(&owners, lock::rules);
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    for (id, rules) in read {
        if let Some(seen) = all.get_mut(&id) {
            seen.closed_with(rules.ok().flatten());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// Every container is inspected.
    Inspect,
    /// Those that run are taken as the list has them, where that is enough.
    List,
}

fn of_host(host: HostId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{}={host}", labels::HOST)])])
}
