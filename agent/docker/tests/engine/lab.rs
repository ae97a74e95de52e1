//! One host on the machine's own engine: a LAN on a veth pair, images, and everything gone at the end.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
};
use decnet_docker::host::Way;
use decnet_docker::{BlobSource, Builder, Engine, EngineError};
use decnet_plan::desired::Desired;
use decnet_plan::labels;
use decnet_plan::planner::{describe, plan};
use decnet_plan::policy::Policy;
use decnet_plan::step::{ContainerSpec, Plan, Step};
use decnet_wire::bundle::{BlobKind, Network, NetworkDriver};
use decnet_wire::ids::{Digest, HostId, StackName};
use decnet_wire::observed::{Observed, ObservedContainer};
use futures_util::FutureExt;
use futures_util::future::join_all;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::image::{Image, image, sha256};

pub(crate) const SOCKET: &str = "/var/run/docker.sock";

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) engine: Engine,
    pub(crate) docker: Docker,
    pub(crate) host: HostId,
    /// Unique on the machine, and the prefix of every name.
    pub(crate) tag: String,
    pub(crate) images: Vec<Image>,
    /// Other blobs than image archives.
    pub(crate) blobs: Vec<Vec<u8>>,
    links: Vec<String>,
}

/// Numbers that no two labs of a process share.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let engine = Engine::connect(Path::new(SOCKET))
            .await
            .unwrap_or_else(|error| panic!("missing: a Docker Engine at {SOCKET}: {error}"));
        let docker = Docker::connect_with_unix(SOCKET, 60, bollard::API_DEFAULT_VERSION)
            .unwrap()
            .negotiate_version()
            .await
            .unwrap();
        let tag = format!("dt{:x}x{}", std::process::id(), number());
        let image = image(&format!("decnet-test/{tag}:1"), &json!({}));
        let host = HostId::new(Uuid::new_v4());
        Self {
            engine,
            docker,
            host,
            tag,
            images: vec![image],
            blobs: Vec::new(),
            links: Vec::new(),
        }
    }

    /// One whose namespaces are closed in this way.
    pub(crate) async fn closing_with(way: Way) -> Self {
        let mut lab = Self::new().await;
        lab.engine = lab.engine.clone().closing_with(way);
        lab
    }

    /// One whose images are made by this builder.
    pub(crate) async fn building_with(builder: Builder) -> Self {
        let mut lab = Self::new().await;
        lab.engine = lab.engine.clone().building_with(builder);
        lab
    }

    pub(crate) fn add_image(&mut self, version: &str, extra: &Value) -> String {
        let reference = format!("decnet-test/{}:{version}", self.tag);
        self.images.push(image(&reference, extra));
        reference
    }

    pub(crate) fn reference(&self) -> String {
        format!("decnet-test/{}:1", self.tag)
    }

    pub(crate) fn bridge(&self) -> Network {
        let subnet = subnet();
        let name = format!("{}-b{}", self.tag, number()).parse().unwrap();
        Network {
            name,
            driver: NetworkDriver::Bridge,
            parent: None,
            subnet,
            gateway: None,
            subnet6: None,
            gateway6: None,
            host_address: None,
            mode: None,
        }
    }

    /// A macvlan network on a new veth pair.
    pub(crate) fn macvlan(&mut self) -> Network {
        let link = format!("dt{:x}.{}", std::process::id(), number());
        let peer = format!("{link}p");
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]);
        self.links.push(link.clone());
        ip(&["link", "set", &link, "up"]);
        ip(&["link", "set", &peer, "up"]);
        Network {
            name: format!("{}-m{}", self.tag, number()).parse().unwrap(),
            driver: NetworkDriver::Macvlan,
            parent: Some(link.parse().unwrap()),
            subnet: subnet(),
            gateway: None,
            subnet6: None,
            gateway6: None,
            host_address: None,
            mode: None,
        }
    }

    /// A link that a test gives another name.
    pub(crate) fn renamed(&mut self, from: &str, to: &str) {
        for link in self.links.iter_mut().filter(|link| *link == from) {
            to.clone_into(link);
        }
    }

    /// A service as every decky has it.
    pub(crate) fn service(&self, more: &Value) -> Value {
        let mut service = json!({
            "image": self.reference(),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "restart": "unless-stopped",
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            service[key] = value.clone();
        }
        service
    }

    /// A base at the `n`th address of the network, and services in its namespace.
    pub(crate) fn decky(&self, network: &Network, n: u8, services: &[(&str, Value)]) -> Value {
        let mut endpoint = json!({"ipv4_address": address(network, n).to_string()});
        if network.driver == NetworkDriver::Macvlan {
            endpoint["mac_address"] = json!(mac(n));
        }
        let mut all =
            json!({"base": self.service(&json!({"networks": {"lan": endpoint}, "hostname": "decoy"}))});
        for (name, more) in services {
            let mut service = self.service(more);
            service["network_mode"] = json!("service:base");
            all[*name] = service;
        }
        json!({"networks": {"lan": {"external": true, "name": network.name.as_str()}}, "services": all})
    }

    pub(crate) fn stack(&self, name: &str) -> StackName {
        format!("{}-{name}", self.tag).parse().unwrap()
    }

    pub(crate) fn desire(&self, networks: &[&Network], stacks: &[(&str, Value)]) -> Desired {
        let networks: Vec<_> = networks.iter().map(|network| (*network).clone()).collect();
        let blobs: Vec<_> = self.images.iter().map(|image| image.blob.clone()).collect();
        let stacks: Vec<_> = stacks
            .iter()
            .map(|(name, value)| (self.stack(name), value))
            .collect();
        Desired::new(
            self.host,
            &networks,
            &blobs,
            stacks.iter().map(|(name, value)| (name, *value)),
        )
        .unwrap_or_else(|errors| panic!("the test's own documents are wrong: {errors:?}"))
    }

    pub(crate) async fn observe(&self) -> Observed {
        self.engine.observe(self.host).await.unwrap()
    }

    pub(crate) async fn plan(&self, desired: &Desired) -> Plan {
        plan(desired, &self.observe().await, &Policy::built_in())
    }

    /// Runs a plan's steps, each as soon as those before it are done. Returns what failed.
    pub(crate) async fn run(&self, plan: &Plan) -> Vec<EngineError> {
        let failures = std::sync::Mutex::new(Vec::new());
        let mut steps = Vec::new();
        for planned in &plan.steps {
            let before: Vec<_> = planned
                .after
                .iter()
                .map(|other| futures_util::future::Shared::clone(&steps[*other]))
                .collect();
            let failures = &failures;
            let step = async move {
                if join_all(before).await.contains(&false) {
                    return false;
                }
                match self.engine.apply(&planned.step, self).await {
                    Ok(()) => true,
                    Err(error) => {
                        failures.lock().unwrap().push(error);
                        false
                    }
                }
            };
            steps.push(step.boxed().shared());
        }
        join_all(steps).await;
        failures.into_inner().unwrap()
    }

    /// Plans and applies once, and insists that nothing fails and nothing is left.
    pub(crate) async fn converge(&self, desired: &Desired) -> Plan {
        let plan = self.plan(desired).await;
        let failures = self.run(&plan).await;
        assert!(failures.is_empty(), "{failures:#?}\n{}", lines(&plan));
        let next = self.plan(desired).await;
        assert!(
            next.is_settled(),
            "left:\n{}\nafter:\n{}",
            lines(&next),
            lines(&plan)
        );
        plan
    }

    /// A container on no network, as the engine is to have it.
    pub(crate) fn spec(&self, name: &str) -> ContainerSpec {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        ContainerSpec {
            name: format!("{}-{name}", self.tag),
            image: vec![self.images[0].id.clone()],
            labels: BTreeMap::from([
                label(labels::HOST, &self.host.to_string()),
                label(labels::STACK, &self.tag),
                label(labels::SERVICE, name),
                label(labels::HASH, name),
            ]),
            ..ContainerSpec::default()
        }
    }

    pub(crate) async fn apply(&self, step: &Step) -> Result<(), EngineError> {
        self.engine.apply(step, self).await
    }

    pub(crate) async fn load(&self) {
        for image in &self.images {
            let BlobKind::ImageArchive { reference, image_ids } = &image.blob.kind else {
                panic!("an image archive");
            };
            let step = Step::LoadImage {
                blob: image.blob.digest.clone(),
                size: image.blob.size,
                reference: reference.clone(),
                image_ids: image_ids.clone(),
            };
            self.apply(&step).await.unwrap();
        }
    }

    /// Creates a container and gives what the engine says of it.
    pub(crate) async fn create(&self, spec: &ContainerSpec) -> ContainerInspectResponse {
        self.apply(&create(spec))
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        self.inspect(&spec.name).await
    }

    pub(crate) async fn inspect(&self, name: &str) -> ContainerInspectResponse {
        self.docker.inspect_container(name, None).await.unwrap()
    }

    pub(crate) fn name(&self, stack: &str, service: &str) -> String {
        format!("{}-{stack}-{service}-1", self.tag)
    }

    pub(crate) async fn container(&self, stack: &str, service: &str) -> ObservedContainer {
        let name = self.name(stack, service);
        let containers = self.observe().await.containers;
        containers
            .into_iter()
            .find(|container| container.name == name)
            .unwrap_or_else(|| panic!("no container {name}"))
    }
}

pub(crate) fn create(spec: &ContainerSpec) -> Step {
    Step::CreateContainer {
        container: Box::new(spec.clone()),
        staged: None,
        inherit: None,
    }
}

pub(crate) fn start(name: &str, settle_ms: u64) -> Step {
    Step::StartContainer {
        name: name.to_owned(),
        settle_ms,
        fallback: Vec::new(),
    }
}

impl BlobSource for Lab {
    async fn open(&self, digest: &Digest) -> io::Result<tokio::fs::File> {
        let image = self.images.iter().find(|image| image.blob.digest == *digest);
        let other = || self.blobs.iter().find(|bytes| sha256(bytes) == *digest);
        let bytes = image.map(|image| &image.bytes).or_else(other);
        let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such blob"))?;
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, bytes)?;
        io::Seek::rewind(&mut file)?;
        Ok(tokio::fs::File::from_std(file))
    }
}

impl Drop for Lab {
    /// Runs after a failure as well. A runtime cannot be entered from within another, hence the thread.
    fn drop(&mut self) {
        let (docker, host) = (self.docker.clone(), self.host);
        let mut images: Vec<_> = self.images.iter().map(|image| image.id.clone()).collect();
        images.push(self.tag.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(clean_up(&docker, host, &images));
        });
        let cleaned = thread.join();
        for link in &self.links {
            let _ = Command::new("ip").args(["link", "del", link]).status();
        }
        if cleaned.is_err() && !std::thread::panicking() {
            panic!("the lab could not be cleaned up");
        }
    }
}

async fn clean_up(docker: &Docker, host: HostId, images: &[String]) {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{}={host}", labels::HOST)])]);
    let (tag, images) = images.split_last().unwrap();
    let options = ListContainersOptions {
        all: true,
        filters: Some(filters.clone()),
        ..Default::default()
    };
    for container in docker.list_containers(Some(options)).await.unwrap() {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            link: false,
        };
        let _ = docker
            .remove_container(&container.id.unwrap(), Some(options))
            .await;
    }
    for network in docker
        .list_networks(Some(ListNetworksOptions {
            filters: Some(filters.clone()),
        }))
        .await
        .unwrap()
    {
        let _ = docker.remove_network(&network.id.unwrap()).await;
    }
    let volumes = docker.list_volumes(None::<ListVolumesOptions>).await.unwrap();
    let volumes = volumes.volumes.unwrap_or_default().into_iter();
    for volume in volumes.filter(|volume| volume.name.starts_with(tag.as_str())) {
        let _ = docker
            .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
            .await;
    }
    let named = docker.list_images(None::<ListImagesOptions>).await.unwrap();
    let named = named
        .into_iter()
        .flat_map(|image| [image.repo_tags, image.repo_digests].concat());
    let named: Vec<String> = named.filter(|name| name.contains(&format!("/{tag}"))).collect();
    for image in named.iter().chain(images) {
        let options = RemoveImageOptions {
            force: true,
            ..Default::default()
        };
        let _ = docker.remove_image(image, Some(options), None).await;
    }
}

pub(crate) fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "missing: iproute2 and the right to make links (run as root): ip {arguments:?}: {status:?}"
    );
}

/// A /26 of 10.128.0.0/9: sixteen for each process that runs at a time.
fn subnet() -> Ipv4Net {
    let (process, n) = (std::process::id(), number() % 64);
    let block = ((process % 2048) * 64 + n) % (1 << 17);
    let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + block * 64;
    Ipv4Net::new(Ipv4Addr::from(base), 26).unwrap()
}

pub(crate) fn address(network: &Network, n: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.subnet.network()) + u32::from(n))
}

pub(crate) fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

pub(crate) fn lines(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|planned| describe(&planned.step));
    let blocked = plan
        .blocked
        .iter()
        .map(|blocked| format!("blocked: {}", blocked.reason));
    steps.chain(blocked).collect::<Vec<_>>().join("\n")
}
