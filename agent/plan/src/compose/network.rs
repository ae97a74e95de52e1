//! How a service is attached to networks, and the networks that a document refers to.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use decnet_wire::ids::MacAddress;

use super::read::{Node, Problems};

/// A service's way to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// `network_mode: none`.
    None,
    /// `network_mode: service:NAME`.
    Service(String),
    /// `networks`, by their key in the document.
    Networks(BTreeMap<String, Attachment>),
}

/// What one entry of a service's `networks` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    pub address: Option<Ipv4Addr>,
    pub mac: Option<MacAddress>,
    pub aliases: Vec<String>,
}

/// An entry of the top-level `networks`: always external.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopNetwork {
    /// The network's name on the engine.
    pub name: String,
}

/// Reads `network_mode` and `networks`, of which a service has exactly one.
pub(super) fn parse_attachment(
    path: &str,
    mode: Option<Node<'_>>,
    networks: Option<Node<'_>>,
    problems: &mut Problems,
) -> Option<NetworkMode> {
    match (mode, networks) {
        (Some(node), None) => parse_mode(node, problems),
        (None, Some(node)) => parse_networks(node, problems).map(NetworkMode::Networks),
        (Some(node), Some(_)) => {
            problems.add(&node.path, "cannot stand beside networks");
            None
        }
        (None, None) => {
            problems.add(
                path,
                "needs networks or network_mode: there is no default network",
            );
            None
        }
    }
}

fn parse_mode(node: Node<'_>, problems: &mut Problems) -> Option<NetworkMode> {
    let path = node.path.clone();
    let text = node.text(problems)?;
    match text.split_once(':') {
        None if text == "none" => Some(NetworkMode::None),
        Some(("service", service)) if !service.is_empty() => Some(NetworkMode::Service(service.to_owned())),
        _ => {
            problems.add(
                &path,
                format_args!("{text:?} is not supported: use none or service:NAME"),
            );
            None
        }
    }
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
    if networks.is_empty() {
        problems.add(&path, "names no network: use network_mode: none");
    }
    Some(networks)
}

impl Attachment {
    fn parse(node: Node<'_>, problems: &mut Problems) -> Self {
        let Some(mut map) = node.mapping(problems) else {
            return Self::default();
        };
        let attachment = Self {
            address: map.take("ipv4_address").and_then(|node| {
                node.parsed(problems, |text| {
                    text.parse::<Ipv4Addr>().map_err(|_| "must be an IPv4 address")
                })
            }),
            mac: map.take("mac_address").and_then(|node| {
                node.parsed(problems, |text| {
                    text.to_ascii_lowercase().replace('-', ":").parse::<MacAddress>()
                })
            }),
            aliases: map
                .take("aliases")
                .and_then(|node| node.texts(problems))
                .unwrap_or_default(),
        };
        map.finish(problems);
        attachment
    }
}

impl TopNetwork {
    pub(super) fn parse(key: &str, node: Node<'_>, problems: &mut Problems) -> Option<Self> {
        const RULE: &str = "only external networks are supported: write external: true";
        if node.value.is_null() {
            problems.add(&node.path, RULE);
            return None;
        }
        let mut map = node.mapping(problems)?;
        let external = match map.take("external") {
            Some(node) => node.boolean(problems)?,
            None => false,
        };
        if !external {
            problems.add(map.path(), RULE);
            return None;
        }
        let name = match map.take("name") {
            Some(node) => node.text(problems)?,
            None => key.to_owned(),
        };
        map.finish(problems);
        Some(Self { name })
    }
}
