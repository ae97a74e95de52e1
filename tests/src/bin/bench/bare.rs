//! The bare loop: what the engine itself needs, and nothing else.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions, StopContainerOptions};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::project::{LABEL, Project, Service};

/// A name of this run's own: an engine that cannot let a network go is no obstacle to the next run.
static NETWORK: LazyLock<String> = LazyLock::new(|| format!("decnet-bench-lan-{}", std::process::id()));

/// The number of deckies at once with which `up` takes the least time.
pub(crate) async fn fastest(docker: &Docker, project: &Project) -> Result<usize> {
    let mut best = (Duration::MAX, 1);
    for at_once in [4, 8, 16] {
        let took = up(docker, project, at_once).await?;
        down(docker, project, at_once).await?;
        best = best.min((took, at_once));
    }
    Ok(best.1)
}

/// The network, then each decky's base and services in turn.
pub(crate) async fn up(docker: &Docker, project: &Project, at_once: usize) -> Result<Duration> {
    let begun = Instant::now();
    let request = NetworkCreateRequest {
        name: NETWORK.clone(),
        driver: project.network.driver.clone(),
        ipam: project.network.ipam.clone(),
        options: project.network.options.clone(),
        labels: Some(HashMap::from([(LABEL.to_owned(), String::new())])),
        ..NetworkCreateRequest::default()
    };
    docker
        .create_network(request)
        .await
        .context("create the network")?;
    stream::iter(&project.deckies)
        .map(|(decky, services)| decky_up(docker, decky, services))
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    Ok(begun.elapsed())
}

/// The same backwards: services, base, network.
pub(crate) async fn down(docker: &Docker, project: &Project, at_once: usize) -> Result<Duration> {
    let begun = Instant::now();
    stream::iter(&project.deckies)
        .map(|(decky, services)| decky_down(docker, decky, services))
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    docker
        .remove_network(&NETWORK)
        .await
        .context("remove the network")?;
    Ok(begun.elapsed())
}

async fn decky_up(docker: &Docker, decky: &str, services: &[Service]) -> Result<()> {
    for service in services {
        let name = name(decky, service);
        let mut body = service.body.clone();
        let mut mac = None;
        let host = body.host_config.get_or_insert_default();
        if service.is_base() {
            host.network_mode = Some(NETWORK.clone());
            let endpoint = service.endpoint().context("a base without a network")?.clone();
            mac.clone_from(&endpoint.mac_address);
            let endpoints = HashMap::from([(NETWORK.clone(), endpoint)]);
            body.networking_config.get_or_insert_default().endpoints_config = Some(endpoints);
        } else {
            host.network_mode = Some(format!("container:{}", base_name(decky)));
            body.hostname = None;
        }
        let creating = with_mac(docker, &body, mac)?;
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        creating
            .create_container(Some(options), body)
            .await
            .with_context(|| format!("create {name}"))?;
        docker
            .start_container(&name, None)
            .await
            .with_context(|| format!("start {name}"))?;
    }
    Ok(())
}

async fn decky_down(docker: &Docker, decky: &str, services: &[Service]) -> Result<()> {
    for service in services.iter().rev() {
        let name = name(decky, service);
        let stop = StopContainerOptions {
            t: Some(10),
            signal: None,
        };
        docker
            .stop_container(&name, Some(stop))
            .await
            .with_context(|| format!("stop {name}"))?;
        let remove = RemoveContainerOptions {
            v: true,
            ..RemoveContainerOptions::default()
        };
        docker
            .remove_container(&name, Some(remove))
            .await
            .with_context(|| format!("remove {name}"))?;
    }
    Ok(())
}

/// Before API 1.44 the MAC is the container's own field, which the client's types do not have any more.
fn with_mac(
    docker: &Docker,
    body: &bollard::models::ContainerCreateBody,
    mac: Option<String>,
) -> Result<Docker> {
    let (Some(mac), true) = (mac, docker.client_version().minor_version < 44) else {
        return Ok(docker.clone());
    };
    let mut whole = serde_json::to_value(body)?;
    whole["MacAddress"] = json!(mac);
    let bytes = bytes::Bytes::from(serde_json::to_vec(&whole)?);
    Ok(docker.clone().with_request_modifier(move |mut request| {
        *request.body_mut() = bollard::body_full(bytes.clone());
        request
    }))
}

fn name(decky: &str, service: &Service) -> String {
    format!("bench-{decky}-{}", service.name)
}

fn base_name(decky: &str) -> String {
    format!("bench-{decky}-base")
}
