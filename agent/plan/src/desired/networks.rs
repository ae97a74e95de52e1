//! Networks as the engine is to have them, and how containers are attached to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use decnet_wire::bundle::{Network, NetworkDriver};
use decnet_wire::ids::HostId;
use ipnet::IpNet;

use super::normalise::{Context, Found, Kind, replicas};
use super::{DocumentError, hash};
use crate::compose::{self, Attachment, Project, Service};
use crate::labels;
use crate::step::{Endpoint, Ipam, NetworkMode, NetworkSpec, Pool};

/// The key of the network that a project's services join where they name none.
const DEFAULT: &str = "default";

/// The bundle's networks by their name on the engine.
pub(super) fn of_bundle(
    host: HostId,
    networks: &[Network],
    errors: &mut Vec<DocumentError>,
) -> BTreeMap<String, NetworkSpec> {
    let mut specs = BTreeMap::new();
    for network in networks {
        let path = format!("networks.{}", network.name);
        let mut fail = |problem: &str| errors.push(DocumentError::new(None, &*path, problem));
        match (network.driver, &network.parent) {
            (NetworkDriver::Bridge, Some(_)) => fail("a bridge has no parent interface"),
            (NetworkDriver::Macvlan | NetworkDriver::Ipvlan, None) => fail("needs a parent interface"),
            _ => {}
        }
        let gateway = network.gateway;
        if gateway.is_some_and(|gateway| !network.subnet.contains(&gateway)) {
            fail("the gateway is outside the subnet");
        }
        let pool = |subnet: IpNet, gateway: Option<IpAddr>| Pool {
            subnet: Some(subnet),
            gateway,
            ..Pool::default()
        };
        let mut pools = vec![pool(network.subnet.trunc().into(), gateway.map(Into::into))];
        match (network.subnet6, network.gateway6) {
            (None, None) => {}
            (None, Some(_)) => fail("has a gateway for IPv6 and no subnet for it"),
            (Some(subnet), Some(gateway)) if !subnet.contains(&gateway) => {
                fail("the gateway for IPv6 is outside the subnet");
            }
            (Some(subnet), gateway) => pools.push(pool(subnet.trunc().into(), gateway.map(Into::into))),
        }
        let spec = NetworkSpec {
            name: network.name.as_str().to_owned(),
            driver: network.driver.as_str().to_owned(),
            driver_opts: driver_opts(network),
            ipam: Ipam {
                driver: Some("default".to_owned()),
                pools,
                ..Ipam::default()
            },
            enable_ipv6: network.subnet6.is_some(),
            ..NetworkSpec::default()
        };
        if specs.insert(spec.name.clone(), labelled(host, spec)).is_some() {
            errors.push(DocumentError::new(
                None,
                path,
                "there are two networks of that name",
            ));
        }
    }
    specs
}

fn driver_opts(network: &Network) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    if let Some(parent) = &network.parent {
        options.insert("parent".to_owned(), parent.as_str().to_owned());
    }
    if let Some((key, mode)) = network.mode_option() {
        options.insert(key.to_owned(), mode.to_owned());
    }
    options
}

fn labelled(host: HostId, mut spec: NetworkSpec) -> NetworkSpec {
    spec.labels.insert(labels::HOST.to_owned(), host.to_string());
    let hash = hash::of(&spec);
    spec.labels.insert(labels::HASH.to_owned(), hash);
    spec
}

/// The networks that a project makes: those that a service joins and that are not external.
pub(super) fn of_project(
    context: Context<'_>,
    project: &Project,
    errors: &mut Vec<DocumentError>,
) -> BTreeMap<String, NetworkSpec> {
    let mut specs = BTreeMap::new();
    for (key, network) in &project.networks {
        let mut fail = |problem: String| {
            let path = format!("networks.{key}");
            errors.push(DocumentError::new(Some(context.stack), path, problem));
        };
        if let Some(label) = network
            .labels
            .keys()
            .find(|label| label.starts_with(labels::PREFIX))
        {
            fail(format!(
                "{label}: labels that start with {} are reserved",
                labels::PREFIX
            ));
        }
        if matches!(context.kind, Kind::Bundle { .. }) && !network.external {
            fail("only external networks are supported: write external: true".to_owned());
        }
    }
    if matches!(context.kind, Kind::Bundle { .. }) {
        return specs;
    }
    let default = compose::TopNetwork::default();
    for service in project.services.values().filter(|service| replicas(service) > 0) {
        for key in keys(service) {
            let network = project.networks.get(key).or((key == DEFAULT).then_some(&default));
            let Some(network) = network.filter(|network| !network.external) else {
                continue;
            };
            let spec = NetworkSpec {
                name: engine_name(context, key, network),
                driver: network.driver.clone().unwrap_or_else(|| "bridge".to_owned()),
                driver_opts: network.driver_opts.clone(),
                ipam: network.ipam.clone(),
                internal: network.internal,
                attachable: network.attachable,
                enable_ipv6: network.enable_ipv6,
                enable_ipv4: network.enable_ipv4,
                labels: network.labels.clone(),
            };
            specs.insert(spec.name.clone(), labelled(context.host, spec));
        }
    }
    specs
}

fn keys(service: &Service) -> Vec<&str> {
    match &service.network {
        None => vec![DEFAULT],
        Some(compose::NetworkMode::Networks(attachments)) => attachments.keys().map(String::as_str).collect(),
        Some(_) => Vec::new(),
    }
}

fn engine_name(context: Context<'_>, key: &str, network: &compose::TopNetwork) -> String {
    match &network.name {
        Some(name) => name.clone(),
        None if network.external => key.to_owned(),
        None => format!("{}_{key}", context.stack),
    }
}

pub(super) fn has_endpoints(mode: &NetworkMode) -> bool {
    matches!(mode, NetworkMode::Networks { .. })
}

/// The container's network mode.
pub(super) fn mode(
    context: Context<'_>,
    project: &Project,
    name: &str,
    service: &Service,
    container: &str,
    found: &mut Found,
) -> Option<NetworkMode> {
    let attachments = match &service.network {
        Some(compose::NetworkMode::None) => return Some(NetworkMode::None),
        Some(compose::NetworkMode::Host) => return Some(NetworkMode::Host),
        Some(compose::NetworkMode::Bridge) => return Some(NetworkMode::Bridge),
        Some(compose::NetworkMode::Container(name)) => {
            return Some(NetworkMode::Foreign { name: name.clone() });
        }
        Some(compose::NetworkMode::Service(owner)) => {
            return joined(context, project, service, owner, found);
        }
        Some(compose::NetworkMode::Networks(attachments)) => attachments.clone(),
        None if matches!(context.kind, Kind::Bundle { .. }) => {
            let problem = "needs networks or network_mode: there is no default network";
            found.push(("networks", problem.to_owned()));
            return None;
        }
        None => BTreeMap::from([(DEFAULT.to_owned(), Attachment::default())]),
    };
    let own = [container, name];
    let mut endpoints = Vec::new();
    for (key, attachment) in &attachments {
        match endpoint(context, project, key, attachment, &own) {
            Ok(endpoint) => endpoints.push((-attachment.priority, endpoint)),
            Err(problem) => found.push(("networks", format!("{key}: {problem}"))),
        }
    }
    // Among equals, the network of the container's own MAC comes first: an older engine sets no other.
    endpoints.sort_by_key(|(priority, endpoint)| (*priority, endpoint.mac.is_none()));
    let mut endpoints: Vec<Endpoint> = endpoints.into_iter().map(|(_, endpoint)| endpoint).collect();
    if let (Some(mac), Some(first)) = (service.mac, endpoints.first_mut()) {
        match first.mac {
            Some(other) if other != mac => {
                found.push(("mac_address", format!("network {} says {other}", first.network)));
            }
            _ => first.mac = Some(mac),
        }
    }
    Some(NetworkMode::Networks { endpoints })
}

fn joined(
    context: Context<'_>,
    project: &Project,
    service: &Service,
    owner: &str,
    found: &mut Found,
) -> Option<NetworkMode> {
    let other = project.services.get(owner);
    if let Some(compose::NetworkMode::Service(_)) = other.and_then(|other| other.network.as_ref()) {
        found.push((
            "network_mode",
            format!("{owner} has no network of its own to share"),
        ));
    }
    // The engine refuses these for a container that lives in another's network namespace.
    if service.hostname.is_some() {
        found.push(("hostname", format!("belongs to {owner}, whose network it shares")));
    }
    if !service.sysctls.is_empty() {
        found.push(("sysctls", format!("belong to {owner}, whose network it shares")));
    }
    if !service.ports.is_empty() {
        found.push(("ports", format!("belong to {owner}, whose network it shares")));
    }
    let name = match other.and_then(|other| other.container_name.clone()) {
        Some(name) => name,
        None => format!("{}-{owner}-1", context.stack),
    };
    Some(NetworkMode::Container { name })
}

fn endpoint(
    context: Context<'_>,
    project: &Project,
    key: &str,
    attachment: &Attachment,
    own: &[&str; 2],
) -> Result<Endpoint, String> {
    let default = compose::TopNetwork::default();
    let network = match (project.networks.get(key), context.kind) {
        (Some(network), _) => network,
        (None, Kind::Project) if key == DEFAULT => &default,
        (None, _) => return Err("is not among the document's networks".to_owned()),
    };
    let name = engine_name(context, key, network);
    let mut aliases: Vec<String> = Vec::new();
    match context.kind {
        Kind::Bundle { networks, .. } => {
            let spec = networks
                .get(&name)
                .ok_or_else(|| format!("{name} is not a network of this bundle"))?;
            if spec.driver == NetworkDriver::Ipvlan.as_str() && attachment.mac.is_some() {
                return Err("an ipvlan network shares its parent's MAC: remove mac_address".to_owned());
            }
            aliases.extend(attachment.aliases.iter().cloned());
            aliases.sort();
            aliases.dedup();
        }
        Kind::Project => {
            let all = own.iter().map(|name| (*name).to_owned());
            for alias in all.chain(attachment.aliases.iter().cloned()) {
                if !aliases.contains(&alias) {
                    aliases.push(alias);
                }
            }
        }
    }
    Ok(Endpoint {
        network: name,
        address: attachment.address,
        address6: attachment.address6,
        link_local: attachment.link_local.clone(),
        mac: attachment.mac,
        aliases,
        driver_opts: attachment.driver_opts.clone(),
        gw_priority: attachment.gw_priority,
        interface_name: attachment.interface_name.clone(),
    })
}
