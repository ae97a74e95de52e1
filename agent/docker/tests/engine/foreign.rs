//! What carries no label of this host's is never touched, whatever its name and wherever it is attached; and nothing of
//! ours is stopped before what it is to give way to can be had.

use bollard::models::{
    ContainerCreateBody, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptions};
use decnet_docker::EngineError;
use decnet_wire::bundle::NetworkMode;
use decnet_wire::observed::ContainerState;
use serde_json::json;

use crate::lab::{Lab, lines};

/// A container of somebody else, which runs when `starts`.
struct Theirs {
    lab_docker: bollard::Docker,
    id: String,
}

impl Theirs {
    async fn create(lab: &Lab, name: &str, starts: bool) -> Self {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let body = ContainerCreateBody {
            image: Some(lab.reference()),
            ..ContainerCreateBody::default()
        };
        let id = lab.docker.create_container(Some(options), body).await.unwrap().id;
        if starts {
            lab.docker.start_container(&id, None).await.unwrap();
        }
        Self {
            lab_docker: lab.docker.clone(),
            id,
        }
    }

    async fn remove(self) {
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        self.lab_docker
            .remove_container(&self.id, Some(options))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_container_and_a_network_of_our_names_without_our_label_stay_as_they_are() {
    let lab = Lab::new().await;
    lab.load().await;
    let lan = lab.bridge();
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]);
    let name = lab.name("web", "base");
    let theirs = Theirs::create(&lab, &name, true).await;
    let before = lab.inspect(&theirs.id).await;
    let plan = lab.plan(&desired).await;
    let failures = lab.run(&plan).await;
    let [error @ EngineError::Foreign { .. }] = failures.as_slice() else {
        panic!("{failures:?}");
    };
    assert!(error.to_string().contains(&name), "{error}");
    // Nothing is wanted any more: it is not taken for a leftover.
    lab.converge(&lab.desire(&[], &[("web", json!({"services": {}}))]))
        .await;
    let after = lab.inspect(&theirs.id).await;
    assert_eq!(
        (before.name, before.state.unwrap().started_at),
        (after.name, after.state.unwrap().started_at)
    );
    theirs.remove().await;

    let request = NetworkCreateRequest {
        name: lan.name.as_str().to_owned(),
        ..NetworkCreateRequest::default()
    };
    let network = lab.docker.create_network(request).await.unwrap().id;
    let plan = lab.plan(&desired).await;
    let failures = lab.run(&plan).await;
    assert!(
        failures
            .iter()
            .any(|error| matches!(error, EngineError::Foreign { .. })),
        "{failures:?}"
    );
    lab.docker.inspect_network(&network, None).await.unwrap();
    lab.docker.remove_network(&network).await.unwrap();
    lab.converge(&desired).await;
}

#[tokio::test]
async fn a_strangers_container_on_our_network_is_let_be_and_nobody_is_stopped_for_it() {
    let mut lab = Lab::new().await;
    lab.load().await;
    let lan = lab.macvlan();
    let document = lab.decky(&lan, 5, &[("ssh", json!({}))]);
    let desired = lab.desire(&[&lan], &[("web", document.clone())]);
    lab.converge(&desired).await;
    let theirs = Theirs::create(&lab, &format!("{}-theirs", lab.tag), true).await;
    let request = NetworkConnectRequest {
        container: theirs.id.clone(),
        ..NetworkConnectRequest::default()
    };
    lab.docker
        .connect_network(lan.name.as_str(), request)
        .await
        .unwrap();
    let before = lab.observe().await;
    assert_eq!(before.networks[0].guests, [format!("{}-theirs", lab.tag)]);
    assert!(lab.plan(&desired).await.is_settled());

    let mut other = lan.clone();
    other.mode = Some(NetworkMode::Private);
    let next = lab.desire(&[&other], &[("web", document)]);
    let plan = lab.plan(&next).await;
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    assert!(lines(&plan).contains("-theirs"), "{}", lines(&plan));
    lab.run(
        &lab.plan(&lab.desire(&[], &[("web", json!({"services": {}}))]))
            .await,
    )
    .await;
    let left = lab.observe().await;
    assert!(left.containers.is_empty());
    assert_eq!(
        left.networks, before.networks,
        "the network that they are on is gone"
    );
    let seen = lab.inspect(&theirs.id).await;
    assert_eq!(seen.state.and_then(|state| state.running), Some(true));

    let request = NetworkDisconnectRequest {
        container: theirs.id.clone(),
        force: Some(true),
    };
    lab.docker
        .disconnect_network(lan.name.as_str(), request)
        .await
        .unwrap();
    lab.converge(&next).await;
    theirs.remove().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_had_stops_nothing() {
    let mut lab = Lab::new().await;
    let lan = lab.bridge();
    let document = lab.decky(&lan, 5, &[("ssh", json!({}))]);
    lab.converge(&lab.desire(&[&lan], &[("web", document.clone())]))
        .await;
    let before = lab.observe().await.containers;
    let wanted = lab.add_image("2", &json!({"Labels": {"version": "2"}}));
    // The blob is there and is no archive.
    if let Some(image) = lab.images.last_mut() {
        image.bytes.truncate(100);
    }
    let mut next = document;
    for service in ["base", "ssh"] {
        next["services"][service]["image"] = json!(wanted);
    }
    let plan = lab.plan(&lab.desire(&[&lan], &[("web", next)])).await;
    assert!(lines(&plan).contains("stop container"), "{}", lines(&plan));
    let failures = lab.run(&plan).await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(lab.observe().await.containers, before);
}

#[tokio::test]
async fn whoever_waits_for_health_does_not_start_before_it() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let check = |test: &[&str]| {
        json!({
            "healthcheck": {"test": test, "interval": "200ms", "retries": 1},
            "expose": [22],
        })
    };
    let waits = json!({"depends_on": {"ssh": {"condition": "service_healthy"}}});
    let document = |test: &[&str]| lab.decky(&lan, 5, &[("ssh", check(test)), ("http", waits.clone())]);
    let ill = lab.desire(
        &[&lan],
        &[("web", document(&["CMD", "/decoy", "exit", "1", "0"]))],
    );
    let plan = lab.plan(&ill).await;
    let failures = lab.run(&plan).await;
    assert!(
        failures[0].to_string().contains(&lab.name("web", "ssh")),
        "{failures:?}"
    );
    assert_eq!(lab.container("web", "http").await.state, ContainerState::Created);
    let well = lab.desire(&[&lan], &[("web", document(&["CMD", "/decoy", "true"]))]);
    lab.converge(&well).await;
    assert!(lab.container("web", "http").await.state.is_running());
}
