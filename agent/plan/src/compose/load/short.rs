//! The short forms of ports, mounts and devices.

use super::tree::{At, Kind, Map, Tree};

/// One published or exposed port, or a range that the engine may choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    host_ip: Option<String>,
    target: u16,
    /// A port or `first-last`.
    published: Option<String>,
    protocol: String,
}

/// No more ports than there are.
const MAX_RANGE: usize = 65_536;

/// `[[IP:][PUBLISHED]:]TARGET[/PROTOCOL]`, with ranges: one entry for each port of the target's range.
pub(super) fn ports(text: &str) -> Result<Vec<Port>, String> {
    const RULE: &str =
        "is no port: write TARGET, PUBLISHED:TARGET or IP:PUBLISHED:TARGET, with /udp behind it if so";
    let (addresses, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("has the protocol {protocol:?}: use tcp, udp or sctp"));
    }
    let (front, target) = match addresses.rsplit_once(':') {
        Some((front, target)) => (Some(front), target),
        None => (None, addresses),
    };
    let (ip, published) = match front.map(|front| front.rsplit_once(':').ok_or(front)) {
        None => (None, ""),
        Some(Err(published)) => (None, published),
        Some(Ok((ip, published))) => (Some(ip), published),
    };
    let host_ip = match ip {
        None | Some("") => None,
        Some(ip) => {
            let bare = ip
                .strip_prefix('[')
                .and_then(|ip| ip.strip_suffix(']'))
                .unwrap_or(ip);
            bare.parse::<std::net::IpAddr>()
                .map_err(|_| format!("has the address {ip:?}, which is no IP address"))?;
            Some(bare.to_owned())
        }
    };
    let (first, last) = range(target).ok_or(RULE)?;
    let count = usize::from(last - first) + 1;
    if count > MAX_RANGE {
        return Err(RULE.to_owned());
    }
    let published: Vec<Option<String>> = if published.is_empty() {
        vec![None; count]
    } else {
        let (low, high) = range(published).ok_or(RULE)?;
        match usize::from(high - low) + 1 {
            same if same == count => (low..=high).map(|port| Some(port.to_string())).collect(),
            _ if count == 1 => vec![Some(format!("{low}-{high}"))],
            other => {
                return Err(format!(
                    "publishes {other} ports for {count}: give both ranges one length"
                ));
            }
        }
    };
    let ports = (first..=last).zip(published).map(|(target, published)| Port {
        host_ip: host_ip.clone(),
        target,
        published,
        protocol: protocol.clone(),
    });
    Ok(ports.collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u16>().ok().filter(|port| *port > 0),
        false => None,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

impl Port {
    pub(super) fn tree(self, at: At) -> Tree {
        let text = |text: String| Tree::text(at, text);
        let mut map = Map::from([
            ("mode".to_owned(), text("ingress".to_owned())),
            ("target".to_owned(), Tree::new(at, Kind::Int(self.target.into()))),
            ("protocol".to_owned(), text(self.protocol)),
        ]);
        map.extend(
            self.published
                .map(|published| ("published".to_owned(), text(published))),
        );
        map.extend(self.host_ip.map(|ip| ("host_ip".to_owned(), text(ip))));
        Tree::new(at, Kind::Map(map))
    }
}

/// `[SOURCE:]TARGET[:OPTION,…]`; a source that starts with `.`, `/` or `~` is a path, any other a volume's name.
pub(super) fn mount(text: &str, at: At) -> Result<Tree, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err("has too many colons: write it as a mapping"),
    };
    if parts.iter().any(|part| part.is_empty()) {
        return Err("has nothing between its colons: write SOURCE:TARGET, or TARGET alone");
    }
    let mut map = Map::from([("target".to_owned(), Tree::text(at, super::paths::clean(target)))]);
    let mut put = |key: &str, kind| map.insert(key.to_owned(), Tree::new(at, kind));
    let mut inner = Map::new();
    let is_bind = source.is_some_and(|source| source.starts_with(['.', '/', '~']));
    for option in options.split(',') {
        let (key, kind) = match option {
            "ro" => {
                put("read_only", Kind::Bool(true));
                continue;
            }
            "z" | "Z" if is_bind => ("selinux", Kind::Text(option.to_owned())),
            "z" | "Z" => {
                // Compose keeps the label under bind for a volume as well.
                let label = Tree::new(at, Kind::Text(option.to_owned()));
                put("bind", Kind::Map(Map::from([("selinux".to_owned(), label)])));
                continue;
            }
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" if is_bind => {
                ("propagation", Kind::Text(option.to_owned()))
            }
            "nocopy" if !is_bind => ("nocopy", Kind::Bool(true)),
            // What Compose reads over: the default, Docker Desktop's hints, and what is not for this type.
            "" | "rw" | "cached" | "delegated" | "consistent" | "nocopy" => continue,
            _ => return Err("has an option that is not known: use ro, rw, z, Z, nocopy or a propagation"),
        };
        inner.insert(key.to_owned(), Tree::new(at, kind));
    }
    if let Some(source) = source {
        put("source", Kind::Text(source.to_owned()));
    }
    if is_bind {
        // Compose Specification, "Short syntax" of volumes: a missing folder is made.
        inner.insert("create_host_path".to_owned(), Tree::new(at, Kind::Bool(true)));
        put("bind", Kind::Map(inner));
        put("type", Kind::Text("bind".to_owned()));
    } else {
        put("volume", Kind::Map(inner));
        put("type", Kind::Text("volume".to_owned()));
    }
    Ok(Tree::new(at, Kind::Map(map)))
}

/// `SOURCE[:TARGET[:PERMISSIONS]]`.
pub(super) fn device(text: &str, at: At) -> Result<Tree, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ => return Err("has too many colons: write it as a mapping"),
    };
    let target = if target.is_empty() { source } else { target };
    if source.is_empty() {
        return Err("names no device");
    }
    let entries = [
        ("source", source),
        ("target", target),
        ("permissions", permissions),
    ];
    let map = entries.map(|(key, value)| (key.to_owned(), Tree::text(at, value)));
    Ok(Tree::new(at, Kind::Map(Map::from(map))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let show = |port: Port| {
            let (ip, published) = (
                port.host_ip.unwrap_or_default(),
                port.published.unwrap_or_default(),
            );
            format!("{ip}|{published}|{}|{}", port.target, port.protocol)
        };
        ports(text).map(|ports| ports.into_iter().map(show).collect())
    }

    #[test]
    fn ports_read_as_compose_reads_them() {
        for (text, expected) in [
            ("80", &["||80|tcp"][..]),
            ("80/udp", &["||80|udp"]),
            ("8080:80", &["|8080|80|tcp"]),
            ("3000-3001", &["||3000|tcp", "||3001|tcp"]),
            ("9090-9091:8080-8081/UDP", &["|9090|8080|udp", "|9091|8081|udp"]),
            ("9090-9099:80", &["|9090-9099|80|tcp"]),
            ("127.0.0.1:8001:8001", &["127.0.0.1|8001|8001|tcp"]),
            ("127.0.0.1::80", &["127.0.0.1||80|tcp"]),
            ("[::1]:6:7", &["::1|6|7|tcp"]),
            ("::1:6:7", &["::1|6|7|tcp"]),
            (":80", &["||80|tcp"]),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "", "x", "80/icmp", "0", "65536", "2-1", "1-2:3-5", "a:1:2", "1:", "+80", "1:2:3:4x",
        ] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_told_apart_by_their_source() {
        let kind = |text: &str| {
            let mount = mount(text, At::default()).unwrap();
            let (kind, source) = (mount.get_text("type"), mount.get_text("source"));
            format!(
                "{} {} {}",
                kind.unwrap(),
                source.unwrap_or("-"),
                mount.get_text("target").unwrap()
            )
        };
        assert_eq!(kind("/data"), "volume - /data");
        assert_eq!(kind("data:/data/:ro"), "volume data /data");
        assert_eq!(kind("./a:/b"), "bind ./a /b");
        assert_eq!(kind("~/a:/b:z,ro"), "bind ~/a /b");
        assert_eq!(kind("/a:/b:rshared"), "bind /a /b");
        for bad in ["", ":", "a:", ":b", "a:b:c:d", "a:/b:rx"] {
            assert!(mount(bad, At::default()).is_err(), "{bad}");
        }
    }
}
