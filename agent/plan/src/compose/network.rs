//! How a service is attached to networks, and the networks that a document declares.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use decnet_wire::ids::MacAddress;
use ipnet::IpNet;

use super::mounts::external;
use super::read::{Node, Problems};
use crate::step::{Ipam, Pool};

/// A service's way to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// `network_mode: none`.
    None,
    /// `network_mode: host`.
    Host,
    /// `network_mode: bridge`: the engine's default network.
    Bridge,
    /// `network_mode: service:NAME`.
    Service(String),
    /// `network_mode: container:NAME`.
    Container(String),
    /// `networks`, by their key in the document.
    Networks(BTreeMap<String, Attachment>),
}

/// What one entry of a service's `networks` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
    pub mac: Option<MacAddress>,
    pub aliases: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// The network of the highest one is attached first.
    pub priority: i64,
    pub gw_priority: i64,
    pub interface_name: Option<String>,
}

/// An entry of the top-level `networks`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopNetwork {
    /// The name on the engine, where the document says it.
    pub name: Option<String>,
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv6: bool,
    pub enable_ipv4: Option<bool>,
    pub labels: BTreeMap<String, String>,
}

/// Reads `network_mode` and `networks`, of which a service has at most one.
pub(super) fn parse_attachment(
    mode: Option<Node<'_>>,
    networks: Option<Node<'_>>,
    problems: &mut Problems,
) -> Option<NetworkMode> {
    match (mode, networks) {
        (Some(node), None) => parse_mode(node, problems),
        (None, Some(node)) => {
            let networks = parse_networks(node, problems)?;
            (!networks.is_empty()).then_some(NetworkMode::Networks(networks))
        }
        (Some(node), Some(networks)) => {
            if networks
                .entries(problems)
                .is_some_and(|networks| networks.is_empty())
            {
                return parse_mode(node, problems);
            }
            problems.add(&node.path, "cannot stand beside networks");
            None
        }
        (None, None) => None,
    }
}

fn parse_mode(node: Node<'_>, problems: &mut Problems) -> Option<NetworkMode> {
    node.parsed(problems, |text| match text.split_once(':') {
        None if text == "none" => Ok(NetworkMode::None),
        None if text == "host" => Ok(NetworkMode::Host),
        None if text == "bridge" || text == "default" => Ok(NetworkMode::Bridge),
        Some(("service", name)) if !name.is_empty() => Ok(NetworkMode::Service(name.to_owned())),
        Some(("container", name)) if !name.is_empty() => Ok(NetworkMode::Container(name.to_owned())),
        _ => Err(format!(
            "{text:?} is not supported: use none, host, bridge, service:NAME or container:NAME"
        )),
    })
}

fn parse_networks(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, Attachment>> {
    let path = node.path.clone();
    let mut networks = BTreeMap::new();
    if node.value.is_array() {
        for name in node.texts(problems)? {
            if networks.insert(name, Attachment::default()).is_some() {
                problems.add(&path, "names a network twice");
            }
        }
    } else {
        for (name, node) in node.entries(problems)? {
            let attachment = if node.value.is_null() {
                Attachment::default()
            } else {
                Attachment::parse(node, problems)
            };
            networks.insert(name, attachment);
        }
    }
    Some(networks)
}

impl Attachment {
    fn parse(node: Node<'_>, p: &mut Problems) -> Self {
        let Some(mut map) = node.mapping(p) else {
            return Self::default();
        };
        let link_local = map.take("link_local_ips").and_then(|node| node.items(p));
        let attachment = Self {
            address: map.parsed("ipv4_address", p, |text| {
                text.parse::<Ipv4Addr>().map_err(|_| "must be an IPv4 address")
            }),
            address6: map.parsed("ipv6_address", p, |text| {
                text.parse::<Ipv6Addr>().map_err(|_| "must be an IPv6 address")
            }),
            link_local: link_local
                .unwrap_or_default()
                .into_iter()
                .filter_map(|node| node.parsed(p, address))
                .collect(),
            mac: map.parsed("mac_address", p, mac),
            aliases: map.texts("aliases", p),
            driver_opts: map.filled("driver_opts", p),
            priority: map.number("priority", p).unwrap_or_default(),
            gw_priority: map.number("gw_priority", p).unwrap_or_default(),
            interface_name: map.text("interface_name", p),
        };
        map.finish(p);
        attachment
    }
}

impl TopNetwork {
    pub(super) fn parse(node: Node<'_>, p: &mut Problems) -> Option<Self> {
        if node.value.is_null() {
            return Some(Self::default());
        }
        let mut map = node.mapping(p)?;
        let (external, external_name) = external(map.take("external"), p);
        let network = Self {
            name: map.text("name", p).or(external_name),
            external,
            driver: map
                .text("driver", p)
                .filter(|driver| !driver.is_empty() && driver != "default"),
            driver_opts: map.filled("driver_opts", p),
            ipam: map
                .take("ipam")
                .and_then(|node| parse_ipam(node, p))
                .unwrap_or_default(),
            internal: map.flag("internal", p).unwrap_or_default(),
            attachable: map.flag("attachable", p).unwrap_or_default(),
            enable_ipv6: map.flag("enable_ipv6", p).unwrap_or_default(),
            enable_ipv4: map.flag("enable_ipv4", p),
            labels: map.filled("labels", p),
        };
        map.finish(p);
        Some(network)
    }
}

fn parse_ipam(node: Node<'_>, p: &mut Problems) -> Option<Ipam> {
    let mut map = node.mapping(p)?;
    let mut pools = Vec::new();
    for node in map
        .take("config")
        .and_then(|node| node.items(p))
        .unwrap_or_default()
    {
        let Some(mut pool) = node.mapping(p) else { continue };
        let net = pool.parsed("subnet", p, subnet).map(|net| net.trunc());
        let ip_range = pool.parsed("ip_range", p, subnet);
        let gateway = pool.parsed("gateway", p, address);
        let mut aux_addresses = BTreeMap::new();
        if let Some(node) = pool.take("aux_addresses") {
            for (name, node) in node.entries(p).unwrap_or_default() {
                if let Some(address) = node.parsed(p, address) {
                    aux_addresses.insert(name, address);
                }
            }
        }
        if let (Some(subnet), Some(gateway)) = (net, gateway)
            && !subnet.contains(&gateway)
        {
            p.add(
                pool.path(),
                format_args!("the gateway {gateway} is outside {subnet}"),
            );
        }
        pool.finish(p);
        pools.push(Pool {
            subnet: net,
            ip_range,
            gateway,
            aux_addresses,
        });
    }
    let ipam = Ipam {
        driver: map.text("driver", p).filter(|driver| !driver.is_empty()),
        options: map.filled("options", p),
        pools,
    };
    map.finish(p);
    Some(ipam)
}

fn subnet(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .map_err(|_| "must be a subnet such as 10.0.0.0/24 or fd00::/64")
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "must be an address")
}

pub(super) fn mac(text: &str) -> Result<MacAddress, decnet_wire::ids::ParseError> {
    text.to_ascii_lowercase().replace('-', ":").parse()
}
