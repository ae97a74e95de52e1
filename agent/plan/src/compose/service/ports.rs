//! `ports` and `expose`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::compose::read::{Node, Problems};
use crate::compose::units;
use crate::step::Port;

/// Ports of the container alone.
pub(super) fn expose(node: Node<'_>, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let items = node.items(problems)?;
    Some(
        items
            .into_iter()
            .filter_map(|node| node.parsed(problems, units::ports))
            .flatten()
            .collect(),
    )
}

/// The short and the long form, in the order of the document, each once.
pub(super) fn ports(node: Node<'_>, problems: &mut Problems) -> Option<Vec<Port>> {
    let mut all: Vec<Port> = Vec::new();
    let mut known = BTreeSet::new();
    for node in node.items(problems)? {
        let found = match node.value {
            Value::Object(_) => long(node, problems).into_iter().collect(),
            _ => node.parsed(problems, short).unwrap_or_default(),
        };
        for port in found {
            if known.insert(port.clone()) {
                all.push(port);
            }
        }
    }
    Some(all)
}

fn long(node: Node<'_>, problems: &mut Problems) -> Option<Port> {
    let path = node.path.clone();
    let mut map = node.mapping(problems)?;
    let target = map.number::<u16>("target", problems).filter(|port| *port > 0);
    let port = Port {
        target: target.unwrap_or_default(),
        protocol: map
            .parsed("protocol", problems, protocol)
            .unwrap_or_else(|| "tcp".to_owned()),
        host_ip: map.parsed("host_ip", problems, host_ip),
        published: map
            .parsed("published", problems, published)
            .filter(|published| !published.is_empty()),
    };
    // The name is for people; the modes differ in a swarm alone, and the protocol of the application in a mesh.
    for key in ["name", "mode", "app_protocol"] {
        map.take(key);
    }
    map.finish(problems);
    if target.is_none() {
        problems.add(&path, "needs a target port from 1 to 65535");
    }
    target.map(|_| port)
}

/// `[[HOST_IP:][PUBLISHED]:]TARGET[/PROTOCOL]` with ranges (Compose Specification, "ports", "short syntax").
fn short(text: &str) -> Result<Vec<Port>, &'static str> {
    const RULE: &str = "must be a port such as 8080:80, 127.0.0.1:53:53/udp or 9000-9005:9000-9005";
    let (rest, name) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(&name.to_ascii_lowercase())?;
    let (rest, target) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (ip, publish) = match rest.rsplit_once(':') {
        Some((ip, publish)) => (ip, publish),
        None => ("", rest),
    };
    let ip = match ip {
        "" => None,
        ip => Some(host_ip(ip)?),
    };
    let (first, last) = units::port_range(target).ok_or(RULE)?;
    let count = last - first;
    let published = match publish {
        "" => None,
        publish => Some(units::port_range(publish).ok_or(RULE)?),
    };
    let host = |offset: u16| -> Result<Option<String>, &'static str> {
        Ok(match published {
            None => None,
            Some((low, high)) if high - low == count => Some((low + offset).to_string()),
            // One port of the container on any one of a range.
            Some((low, high)) if count == 0 => Some(format!("{low}-{high}")),
            Some(_) => return Err("both ranges must have as many ports"),
        })
    };
    (0..=count)
        .map(|offset| {
            Ok(Port {
                target: first + offset,
                protocol: protocol.clone(),
                host_ip: ip.clone(),
                published: host(offset)?,
            })
        })
        .collect()
}

fn protocol(text: &str) -> Result<String, &'static str> {
    match text {
        "tcp" | "udp" | "sctp" => Ok(text.to_owned()),
        _ => Err("must be tcp, udp or sctp"),
    }
}

fn host_ip(text: &str) -> Result<String, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text)
        .parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .map_err(|_| "must be an address of this machine")
}

fn published(text: &str) -> Result<String, &'static str> {
    const RULE: &str = "must be a port such as 8080, or a range such as 8080-8090";
    if text.is_empty() {
        return Ok(String::new());
    }
    match units::port_range(text).ok_or(RULE)? {
        (first, last) if first == last => Ok(first.to_string()),
        (first, last) => Ok(format!("{first}-{last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, published: Option<&str>, target: u16, protocol: &str) -> Port {
        Port {
            target,
            protocol: protocol.to_owned(),
            host_ip: host_ip.map(str::to_owned),
            published: published.map(str::to_owned),
        }
    }

    #[test]
    fn short_ports_read_as_compose_reads_them() {
        for (text, expected) in [
            ("80", vec![port(None, None, 80, "tcp")]),
            ("8080:80/UDP", vec![port(None, Some("8080"), 80, "udp")]),
            (
                "127.0.0.1:53:53/udp",
                vec![port(Some("127.0.0.1"), Some("53"), 53, "udp")],
            ),
            ("127.0.0.1::80", vec![port(Some("127.0.0.1"), None, 80, "tcp")]),
            ("[::1]:81:80", vec![port(Some("::1"), Some("81"), 80, "tcp")]),
            ("8000-8010:80", vec![port(None, Some("8000-8010"), 80, "tcp")]),
            (
                "9000-9001:80-81",
                vec![
                    port(None, Some("9000"), 80, "tcp"),
                    port(None, Some("9001"), 81, "tcp"),
                ],
            ),
        ] {
            assert_eq!(short(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "0",
            "a:80",
            "80:",
            "1.2.3:80:80",
            "9000-9002:80-81",
            "80/http",
            "70000",
        ] {
            assert!(short(bad).is_err(), "{bad}");
        }
    }
}
