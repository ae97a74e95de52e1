//! What the engine has.
//!
//! | module | what it does |
//! | --- | --- |
//! | `seen` | one container, made of what the engine says of it |
//! | `observer` | remembers, and asks only about what may have changed |
//! | `namespace` | whether a container is in the network namespace that it is to share |
//! | `process` | whether a container's process is still the one that was seen |
//! | `interfaces` | the host's network interfaces |

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, ListNetworksOptions};
use decnet_plan::labels;
use decnet_wire::ids::HostId;
use decnet_wire::observed::{Observed, ObservedContainer, ObservedImage, ObservedNetwork};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::engine::{CALLS, LOOK};
use crate::error::is_absent;
use crate::{Engine, EngineError};

mod interfaces;
mod namespace;
mod observer;
mod process;
mod seen;

pub use observer::Observer;
pub(crate) use seen::{label, name_of, restarts, to_state};
use seen::{Seen, to_containers};

impl Engine {
    /// Every object that carries this host's label, all images, and the host's interfaces; sorted by name. An object
    /// that carries the label but not the others that we set is left out and logged: it is not of our making.
    ///
    /// # Errors
    /// The engine does not answer, or the interfaces cannot be listed.
    pub async fn observe(&self, host: HostId) -> Result<Observed, EngineError> {
        let (images, networks, containers) =
            tokio::try_join!(self.images(), self.networks(host), self.containers(host, How::Inspect))?;
        Ok(Observed {
            images,
            networks,
            containers,
            interfaces: interfaces::list()?,
        })
    }

    /// The same, quicker, for whoever looks once and remembers nothing: a container that runs, in a network namespace
    /// that can be seen from here, is taken as the list has it. The list does not tell how often the engine has
    /// restarted a container, so that [`ObservedContainer::restarts`] is 0 for these.
    ///
    /// # Errors
    /// As of [`Self::observe`].
    pub async fn glance(&self, host: HostId) -> Result<Observed, EngineError> {
        let (images, networks, containers) =
            tokio::try_join!(self.images(), self.networks(host), self.containers(host, How::List))?;
        Ok(Observed {
            images,
            networks,
            containers,
            interfaces: interfaces::list()?,
        })
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

    async fn networks(&self, host: HostId) -> Result<Vec<ObservedNetwork>, EngineError> {
        let options = ListNetworksOptions {
            filters: Some(of_host(host)),
        };
        let list = self
            .call(
                LOOK,
                || "list networks".to_owned(),
                self.docker.list_networks(Some(options)),
            )
            .await?;
        let mut networks: Vec<_> = list
            .into_iter()
            .filter_map(|network| {
                let hash = network
                    .labels
                    .unwrap_or_default()
                    .remove(labels::HASH)
                    .unwrap_or_default();
                Some(ObservedNetwork {
                    id: network.id?,
                    name: network.name?,
                    hash,
                })
            })
            .collect();
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(networks)
    }

    async fn list(&self, host: HostId) -> Result<Vec<ContainerSummary>, EngineError> {
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
        let containers = to_containers(&all);
        self.remember(host, &containers);
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

    fn remember(&self, host: HostId, containers: &[ObservedContainer]) {
        let pairs = containers
            .iter()
            .map(|container| (container.name.as_str(), container.id.as_str()));
        self.known.containers_are(&host.to_string(), pairs);
    }

    pub(crate) async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        let what = || format!("inspect container {container}");
        self.call(LOOK, what, self.docker.inspect_container(container, None))
            .await
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
