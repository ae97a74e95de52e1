//! Volumes, mounts, configs and secrets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::read::{Node, Origin, Problems};
use super::units;

/// One entry of a service's `volumes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceMount {
    /// Absolute, without `.`, `..` or a slash at the end.
    pub target: String,
    pub source: MountSource,
    pub read_only: bool,
    pub consistency: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    Bind {
        /// Absolute.
        path: String,
        create_host_path: bool,
        propagation: Option<String>,
        selinux: Option<String>,
        recursive: Option<String>,
    },
    Volume {
        /// A key of the document's `volumes`; none for an anonymous one.
        key: Option<String>,
        nocopy: bool,
        subpath: Option<String>,
        labels: BTreeMap<String, String>,
        /// `z` or `Z`, which only the short form can say.
        selinux: Option<String>,
    },
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        mode: Option<u32>,
    },
    Image {
        image: String,
        subpath: Option<String>,
    },
}

/// One entry of `volumes_from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVolumes {
    /// A service, or a container that is not of the project.
    pub from: String,
    pub foreign: bool,
    pub read_only: bool,
}

/// One entry of a service's `configs` or `secrets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    pub source: String,
    pub target: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// An entry of the top-level `volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopVolume {
    pub name: Option<String>,
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// An entry of the top-level `configs` or `secrets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopFile {
    /// An absolute path of this machine.
    Path(String),
    Content(String),
}

pub(super) fn service_mounts(node: Node<'_>, problems: &mut Problems) -> Option<Vec<ServiceMount>> {
    let mut all: Vec<ServiceMount> = Vec::new();
    for node in node.items(problems)? {
        let path = node.path.clone();
        let mount = match node.value {
            Value::Object(_) => long(node, problems),
            _ => node.parsed(problems, short),
        };
        let Some(mut mount) = mount else { continue };
        match clean(&mount.target) {
            Some(target) => mount.target = target,
            None => {
                problems.add(
                    &path,
                    format_args!("{:?} is no absolute path to mount at", mount.target),
                );
                continue;
            }
        }
        if let MountSource::Bind { path: source, .. } = &mount.source
            && !source.starts_with('/')
        {
            problems.add(
                &path,
                format_args!("{source:?} must be an absolute path here: only Compose files have others"),
            );
            continue;
        }
        if all.iter().any(|other| other.target == mount.target) {
            problems.add(&path, format_args!("{} is mounted twice", mount.target));
            continue;
        }
        all.push(mount);
    }
    Some(all)
}

/// `[SOURCE:]TARGET[:OPTIONS]` (Compose Specification, "volumes", "short syntax").
fn short(text: &str) -> Result<ServiceMount, &'static str> {
    const RULE: &str = "must be [SOURCE:]TARGET[:OPTIONS]";
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(RULE);
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(RULE),
    };
    let (mut read_only, mut nocopy, mut propagation, mut selinux) = (false, false, None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => nocopy = true,
            "z" | "Z" => selinux = Some(option.to_owned()),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                propagation = Some(option.to_owned());
            }
            // They mean nothing on Linux, and the engine's binds have no place for them.
            "consistent" | "cached" | "delegated" => {}
            _ => {
                return Err(
                    "an option must be ro, rw, z, Z, nocopy, consistent, cached, delegated or a propagation",
                );
            }
        }
    }
    let source = match source {
        Some(path) if path.starts_with(['/', '.', '~']) => MountSource::Bind {
            path: path.to_owned(),
            create_host_path: true,
            propagation,
            selinux,
            recursive: None,
        },
        key => MountSource::Volume {
            key: key.map(str::to_owned),
            nocopy,
            subpath: None,
            labels: BTreeMap::new(),
            selinux,
        },
    };
    Ok(ServiceMount {
        target: target.to_owned(),
        source,
        read_only,
        consistency: None,
    })
}

/// `{selinux: …}` and nothing else.
fn is_label(options: &Value) -> bool {
    let options = options.as_object();
    options.is_some_and(|options| options.len() == 1 && options.contains_key("selinux"))
}

fn long(node: Node<'_>, p: &mut Problems) -> Option<ServiceMount> {
    const TYPE: &str = "must be bind, volume, tmpfs or image";
    let path = node.path.clone();
    let mut map = node.mapping(p)?;
    let kind = map.text("type", p);
    let source = map.text("source", p).filter(|source| !source.is_empty());
    let target = map.text("target", p);
    let read_only = map.flag("read_only", p).unwrap_or_default();
    let consistency = map.text("consistency", p);
    let options = ["bind", "volume", "tmpfs", "image"].map(|key| (key, map.take(key)));
    map.finish(p);
    let kind = kind.unwrap_or_else(|| "volume".to_owned());
    let mut own = None;
    let mut label = None;
    for (key, node) in options {
        match node {
            Some(node) if key == kind => own = node.mapping(p),
            // The loader writes an empty mapping beside some short forms.
            Some(node) if node.value.as_object().is_some_and(serde_json::Map::is_empty) => {}
            // The short form's label stands here for a volume as well.
            Some(node) if kind == "volume" && is_label(node.value) => {
                label = node.value["selinux"].as_str().map(str::to_owned);
            }
            Some(node) => p.add(
                &node.path,
                format_args!("a mount of type {kind} has no such options"),
            ),
            None => {}
        }
    }
    let source = match (kind.as_str(), source) {
        ("bind", Some(path)) => {
            let mut bind = MountSource::Bind {
                path,
                create_host_path: own.is_some(),
                propagation: None,
                selinux: None,
                recursive: None,
            };
            if let (
                Some(map),
                MountSource::Bind {
                    create_host_path,
                    propagation,
                    selinux,
                    recursive,
                    ..
                },
            ) = (&mut own, &mut bind)
            {
                *create_host_path = map.flag("create_host_path", p).unwrap_or(true);
                *propagation = map.text("propagation", p);
                *selinux = map.text("selinux", p);
                *recursive = map.text("recursive", p);
            }
            bind
        }
        ("volume", key) => MountSource::Volume {
            key,
            nocopy: own
                .as_mut()
                .and_then(|map| map.flag("nocopy", p))
                .unwrap_or_default(),
            subpath: own.as_mut().and_then(|map| map.text("subpath", p)),
            labels: own
                .as_mut()
                .map(|map| map.filled("labels", p))
                .unwrap_or_default(),
            selinux: label,
        },
        ("tmpfs", _) => MountSource::Tmpfs {
            size: own
                .as_mut()
                .and_then(|map| map.parsed("size", p, units::bytes))
                .filter(|size| *size > 0),
            mode: own
                .as_mut()
                .and_then(|map| map.number::<u32>("mode", p))
                .filter(|mode| *mode > 0),
        },
        ("image", Some(image)) => MountSource::Image {
            image,
            subpath: own.as_mut().and_then(|map| map.text("subpath", p)),
        },
        ("bind" | "image", None) => {
            p.add(&path, "needs a source");
            return None;
        }
        _ => {
            p.add(&path, format_args!("type: {kind:?}: {TYPE}"));
            return None;
        }
    };
    if let Some(own) = own {
        own.finish(p);
    }
    let Some(target) = target else {
        p.add(&path, "needs a target");
        return None;
    };
    Some(ServiceMount {
        target,
        source,
        read_only,
        consistency,
    })
}

/// A path as the engine writes it: absolute, without empty parts, `.` and `..`. None for a relative one.
fn clean(path: &str) -> Option<String> {
    let rest = path.strip_prefix('/')?;
    let mut parts = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// `/run` or `/run:mode=755,size=1m`.
pub(super) fn tmpfs(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, String>> {
    let path = node.path.clone();
    let mut mounts = BTreeMap::new();
    for text in node.text_or_texts(problems)? {
        let (point, options) = text.split_once(':').unwrap_or((&text, ""));
        if !point.starts_with('/') {
            problems.add(&path, format_args!("{point:?} must be an absolute path"));
        } else if mounts.insert(point.to_owned(), options.to_owned()).is_some() {
            problems.add(&path, format_args!("{point} is mounted twice"));
        }
    }
    Some(mounts)
}

/// `SERVICE[:ro|rw]` or `container:NAME[:ro|rw]`.
pub(super) fn volumes_from(node: Node<'_>, problems: &mut Problems) -> Option<Vec<SharedVolumes>> {
    let items = node.items(problems)?;
    let parse = |text: &str| {
        let (foreign, rest) = match text.strip_prefix("container:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (from, mode) = rest.split_once(':').unwrap_or((rest, "rw"));
        if from.is_empty() || !matches!(mode, "ro" | "rw") {
            return Err("must be SERVICE or container:NAME, with :ro or :rw behind");
        }
        Ok(SharedVolumes {
            from: from.to_owned(),
            foreign,
            read_only: mode == "ro",
        })
    };
    Some(
        items
            .into_iter()
            .filter_map(|node| node.parsed(problems, parse))
            .collect(),
    )
}

pub(super) fn file_references(node: Node<'_>, p: &mut Problems) -> Option<Vec<FileReference>> {
    let mut all = Vec::new();
    for node in node.items(p)? {
        let path = node.path.clone();
        let mut reference = FileReference {
            source: String::new(),
            target: None,
            uid: None,
            gid: None,
            mode: None,
        };
        if let Value::Object(_) = node.value {
            let Some(mut map) = node.mapping(p) else { continue };
            reference.source = map.text("source", p).unwrap_or_default();
            reference.target = map.text("target", p).filter(|target| !target.is_empty());
            reference.uid = map.number("uid", p);
            reference.gid = map.number("gid", p);
            reference.mode = map.parsed("mode", p, mode);
            map.finish(p);
        } else if let Some(source) = node.text(p) {
            reference.source = source;
        }
        if reference.source.is_empty() {
            p.add(&path, "needs a source");
        } else {
            all.push(reference);
        }
    }
    Some(all)
}

/// A number, which YAML reads as octal where it is written so, or octal digits in a text.
fn mode(text: &str) -> Result<u32, &'static str> {
    let octal = text
        .strip_prefix("0o")
        .or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    match octal {
        Some(digits) => u32::from_str_radix(digits, 8),
        None => text.parse(),
    }
    .map_err(|_| "must be permission bits such as 0440")
}

impl TopVolume {
    pub(super) fn parse(node: Node<'_>, p: &mut Problems) -> Option<Self> {
        if node.value.is_null() {
            return Some(Self::default());
        }
        let mut map = node.mapping(p)?;
        let (external, external_name) = external(map.take("external"), p);
        let volume = Self {
            name: map.text("name", p).or(external_name),
            external,
            driver: map.text("driver", p).filter(|driver| !driver.is_empty()),
            driver_opts: map.filled("driver_opts", p),
            labels: map.filled("labels", p),
        };
        map.finish(p);
        Some(volume)
    }
}

impl TopFile {
    pub(super) fn parse(node: Node<'_>, p: &mut Problems) -> Option<Self> {
        let path = node.path.clone();
        let mut map = node.mapping(p)?;
        map.take("name");
        let file = map.text("file", p);
        let content = map.text("content", p);
        if content.is_none() {
            map.resolved_by_loader("environment", p);
        } else {
            map.take("environment");
        }
        map.finish(p);
        match (file, content) {
            (Some(file), None) if p.origin == Origin::Written && !file.starts_with('/') => {
                p.add(
                    &path,
                    "a relative file is not supported here: only Compose files have it",
                );
                None
            }
            (Some(file), None) => Some(Self::Path(file)),
            (None, Some(content)) => Some(Self::Content(content)),
            (Some(_), Some(_)) => {
                p.add(&path, "has either file or content");
                None
            }
            (None, None) => {
                p.add(&path, "needs file, content or environment");
                None
            }
        }
    }
}

/// `external: true`, or the old form with the name in it.
pub(super) fn external(node: Option<Node<'_>>, p: &mut Problems) -> (bool, Option<String>) {
    let Some(node) = node else { return (false, None) };
    if !node.value.is_object() {
        return (node.boolean(p).unwrap_or_default(), None);
    }
    let Some(mut map) = node.mapping(p) else {
        return (true, None);
    };
    let name = map.text("name", p);
    map.finish(p);
    (true, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_mounts_read_as_compose_reads_them() {
        let bind = short("/a:/b:ro,z,rslave").unwrap();
        assert!(bind.read_only);
        assert!(matches!(
            bind.source,
            MountSource::Bind { path, create_host_path: true, propagation: Some(p), selinux: Some(s), .. }
                if path == "/a" && p == "rslave" && s == "z"
        ));
        let named = short("data:/b:nocopy").unwrap();
        assert!(matches!(
            named.source,
            MountSource::Volume { key: Some(key), nocopy: true, .. } if key == "data"
        ));
        assert!(matches!(
            short("/b").unwrap().source,
            MountSource::Volume { key: None, .. }
        ));
        for bad in ["", "a:", ":/b", "a:/b:sideways", "a:/b:ro:rw"] {
            assert!(short(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets_are_written_as_the_engine_writes_them() {
        assert_eq!(clean("/a//b/./c/../").as_deref(), Some("/a/b"));
        assert_eq!(clean("/"), Some("/".to_owned()));
        assert_eq!(clean("a"), None);
    }

    #[test]
    fn modes_are_octal_where_they_are_written_so() {
        for (text, bits) in [("0440", 0o440), ("0o440", 0o440), ("288", 0o440), ("0", 0)] {
            assert_eq!(mode(text), Ok(bits), "{text}");
        }
    }
}
