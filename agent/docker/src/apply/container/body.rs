//! What a container is, in the engine's words.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, NetworkingConfig,
};
use decnet_plan::step::{ContainerSpec, Endpoint, Healthcheck, Link, NetworkMode};

use super::{Resolved, host};

/// An engine's option that Compose's `interface_name` stands for.
const INTERFACE_NAME: &str = "com.docker.network.endpoint.ifname";

pub(super) fn to_body(spec: &ContainerSpec, resolved: &Resolved) -> ContainerCreateBody {
    let networking = spec.endpoints().first().map(|endpoint| {
        let settings = to_endpoint(spec, endpoint, resolved);
        NetworkingConfig {
            endpoints_config: Some(HashMap::from([(endpoint.network.clone(), settings)])),
        }
    });
    // The engine refuses ports for a container that joins another's network namespace.
    let joins = matches!(
        spec.network,
        NetworkMode::Container { .. } | NetworkMode::Foreign { .. }
    );
    ContainerCreateBody {
        image: Some(resolved.image.clone()),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone().map(reset_if_empty),
        env: Some(spec.environment.iter().map(to_variable).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin_open),
        // As Compose asks, attached to it or not.
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_timeout_s.map(i64::from),
        healthcheck: spec.healthcheck.as_ref().map(to_health),
        exposed_ports: (!joins).then(|| exposed(spec)),
        networking_config: networking,
        host_config: Some(host::to_host_config(spec, resolved)),
        ..ContainerCreateBody::default()
    }
}

/// What is exposed and what is published; the engine knows a published port only beside an exposed one.
fn exposed(spec: &ContainerSpec) -> Vec<String> {
    let published = spec.ports.iter().map(host::port_name);
    let mut all: Vec<String> = spec.expose.iter().cloned().chain(published).collect();
    all.sort();
    all.dedup();
    all
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

fn to_health(check: &Healthcheck) -> HealthConfig {
    let nanoseconds =
        |ms: Option<u64>| ms.map(|ms| i64::try_from(u128::from(ms) * 1_000_000).unwrap_or(i64::MAX));
    HealthConfig {
        test: check.test.clone(),
        interval: nanoseconds(check.interval_ms),
        timeout: nanoseconds(check.timeout_ms),
        start_period: nanoseconds(check.start_period_ms),
        start_interval: nanoseconds(check.start_interval_ms),
        retries: check.retries.map(i64::from),
    }
}

pub(super) fn to_endpoint(
    spec: &ContainerSpec,
    endpoint: &Endpoint,
    resolved: &Resolved,
) -> EndpointSettings {
    let asked = EndpointIpamConfig {
        ipv4_address: endpoint.address.map(|address| address.to_string()),
        ipv6_address: endpoint.address6.map(|address| address.to_string()),
        link_local_ips: (!endpoint.link_local.is_empty())
            .then(|| endpoint.link_local.iter().map(ToString::to_string).collect()),
    };
    let mut options: HashMap<String, String> = endpoint.driver_opts.clone().into_iter().collect();
    if let Some(name) = &endpoint.interface_name {
        options.insert(INTERFACE_NAME.to_owned(), name.clone());
    }
    let mac = endpoint.mac.filter(|_| resolved.endpoint_macs);
    EndpointSettings {
        ipam_config: (asked != EndpointIpamConfig::default()).then_some(asked),
        mac_address: mac.map(|mac| mac.to_string()),
        aliases: Some(endpoint.aliases.clone()),
        links: links(spec),
        driver_opts: (!options.is_empty()).then_some(options),
        gw_priority: (endpoint.gw_priority != 0).then_some(endpoint.gw_priority),
        ..EndpointSettings::default()
    }
}

/// As `container:name`; none where there are none.
pub(super) fn links(spec: &ContainerSpec) -> Option<Vec<String>> {
    let to_text = |Link { container, alias, .. }: &Link| format!("{container}:{alias}");
    (!spec.links.is_empty()).then(|| spec.links.iter().map(to_text).collect())
}
