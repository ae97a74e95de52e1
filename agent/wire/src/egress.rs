//! Where a decky may call: a protocol, an address or network, and ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `udp/192.0.2.1:53`: a protocol, an address or network, and a port or range of ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    pub protocol: Protocol,
    /// Its host bits are zero.
    pub net: IpNet,
    /// The first and the last port; none for ICMP.
    pub ports: Option<(u16, u16)>,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    /// ICMP to an IPv4 address, ICMPv6 to an IPv6 address.
    Icmp,
}

const RULE: &str = "must be a destination such as udp/192.0.2.1:53, tcp/203.0.113.0/24:443-445, tcp/[2001:db8::1]:25 or icmp/192.0.2.1";

impl FromStr for Destination {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (protocol, rest) = text.split_once('/').ok_or(RULE)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            _ => return Err(RULE),
        };
        let (net, ports) = match protocol {
            Protocol::Icmp => (rest.trim_start_matches('[').trim_end_matches(']'), None),
            Protocol::Tcp | Protocol::Udp => {
                let (net, ports) = rest.rsplit_once(':').ok_or(RULE)?;
                let net = match net.strip_prefix('[') {
                    Some(net) => net.strip_suffix(']').ok_or(RULE)?,
                    None if net.contains(':') => return Err(RULE),
                    None => net,
                };
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(RULE);
                let ports = (port(first)?, port(last)?);
                if ports.0 > ports.1 {
                    return Err(RULE);
                }
                (net, Some(ports))
            }
        };
        let net = if net.contains('/') {
            net.parse::<IpNet>().map_err(|_| RULE)?
        } else {
            net.parse::<IpAddr>().map(IpNet::from).map_err(|_| RULE)?
        };
        if net != net.trunc() {
            return Err("has bits set behind its prefix");
        }
        Ok(Self { protocol, net, ports })
    }
}

impl Destination {
    /// Whether whatever is meant by `other` is meant by this one as well.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let ports = match (self.ports, other.ports) {
            (None, None) => true,
            (Some((first, last)), Some((from, to))) => first <= from && to <= last,
            _ => false,
        };
        self.protocol == other.protocol && self.net.contains(&other.net) && ports
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        };
        let single = self.net.prefix_len() == self.net.max_prefix_len();
        let net = if single {
            self.net.addr().to_string()
        } else {
            self.net.to_string()
        };
        match (self.net, self.ports) {
            (_, None) => write!(f, "{protocol}/{net}"),
            (IpNet::V4(_), Some((first, last))) if first == last => write!(f, "{protocol}/{net}:{first}"),
            (IpNet::V4(_), Some((first, last))) => write!(f, "{protocol}/{net}:{first}-{last}"),
            (IpNet::V6(_), Some((first, last))) if first == last => write!(f, "{protocol}/[{net}]:{first}"),
            (IpNet::V6(_), Some((first, last))) => write!(f, "{protocol}/[{net}]:{first}-{last}"),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_read_back_as_they_are_written() {
        for text in [
            "udp/192.0.2.1:53",
            "tcp/203.0.113.0/24:443-445",
            "tcp/[2001:db8::1]:25",
            "tcp/[2001:db8::/32]:25-26",
            "icmp/192.0.2.1",
            "icmp/2001:db8::1",
            "tcp/0.0.0.0/0:1-65535",
        ] {
            assert_eq!(
                text.parse::<Destination>().map(|read| read.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for bad in [
            "",
            "udp",
            "udp/",
            "udp/192.0.2.1",
            "udp/192.0.2.1:0",
            "udp/192.0.2.1:70000",
            "tcp/192.0.2.1:9-8",
            "sctp/192.0.2.1:53",
            "udp/dns.example:53",
            "udp/2001:db8::1:53",
            "udp/[2001:db8::1:53",
            "udp/192.0.2.1/24:53",
            "icmp/192.0.2.1:7",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_destination_contains_what_lies_within_it_and_nothing_else() {
        let read = |text: &str| text.parse::<Destination>().unwrap();
        for (outer, inner, expected) in [
            ("udp/192.0.2.1:53", "udp/192.0.2.1:53", true),
            ("tcp/192.0.2.0/24:1-100", "tcp/192.0.2.7:80", true),
            ("tcp/192.0.2.0/24:1-100", "tcp/192.0.2.0/25:80-100", true),
            ("tcp/192.0.2.0/24:1-100", "tcp/192.0.2.0/23:80", false),
            ("tcp/192.0.2.0/24:1-100", "tcp/192.0.2.7:80-101", false),
            ("tcp/192.0.2.0/24:1-100", "udp/192.0.2.7:80", false),
            ("tcp/0.0.0.0/0:1-65535", "tcp/[2001:db8::1]:80", false),
            ("icmp/192.0.2.0/24", "icmp/192.0.2.1", true),
        ] {
            assert_eq!(read(outer).contains(&read(inner)), expected, "{outer} {inner}");
        }
    }
}
