//! `build`: how an image is made.

use std::collections::BTreeMap;

use decnet_wire::bundle::CONTEXT_PREFIX;
use serde_json::Value;

use super::read::{Node, Origin, Problems};
use super::{resources, service, units};
use crate::step::{Dockerfile, Ulimit};

/// As the document has it; paths are absolute once the loader has been over it.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// An absolute path, a URL, or `blob:sha256:…`.
    pub context: String,
    pub dockerfile: Dockerfile,
    pub args: BTreeMap<String, Option<String>>,
    pub target: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub tags: Vec<String>,
    pub network: Option<String>,
    /// As `name:address`, sorted.
    pub extra_hosts: Vec<String>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub no_cache: bool,
    pub pull: bool,
    pub additional_contexts: BTreeMap<String, String>,
}

impl Build {
    pub(super) fn parse(node: Node<'_>, p: &mut Problems) -> Option<Self> {
        let path = node.path.clone();
        if let Value::String(_) = node.value {
            let context = node.text(p)?;
            return Self::checked(Self::of(context), &path, p);
        }
        let mut map = node.mapping(p)?;
        let mut build = Self::of(map.text("context", p).unwrap_or_else(|| ".".to_owned()));
        let (file, inline) = (map.text("dockerfile", p), map.text("dockerfile_inline", p));
        match (file, inline) {
            (Some(_), Some(_)) => p.add(&path, "has either dockerfile or dockerfile_inline"),
            (Some(path), None) => build.dockerfile = Dockerfile::Path { path },
            (None, Some(text)) => build.dockerfile = Dockerfile::Inline { text },
            (None, None) => {}
        }
        build.args = map
            .take("args")
            .and_then(|node| node.pairs(p))
            .unwrap_or_default();
        build.target = map.text("target", p);
        build.labels = map.filled("labels", p);
        build.cache_from = map.texts("cache_from", p);
        build.cache_to = map.texts("cache_to", p);
        build.tags = map.texts("tags", p);
        build.network = map.text("network", p);
        build.extra_hosts = map
            .take("extra_hosts")
            .and_then(|node| service::extra_hosts(node, p))
            .unwrap_or_default();
        build.shm_size = map.parsed("shm_size", p, units::bytes);
        build.ulimits = map
            .take("ulimits")
            .and_then(|node| resources::ulimits(node, p))
            .unwrap_or_default();
        build.no_cache = map.flag("no_cache", p).unwrap_or_default();
        build.pull = map.flag("pull", p).unwrap_or_default();
        build.additional_contexts = map.required("additional_contexts", p);
        map.finish(p);
        Self::checked(build, &path, p)
    }

    fn of(context: String) -> Self {
        Self {
            context,
            dockerfile: Dockerfile::Path {
                path: "Dockerfile".to_owned(),
            },
            args: BTreeMap::new(),
            target: None,
            labels: BTreeMap::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            tags: Vec::new(),
            network: None,
            extra_hosts: Vec::new(),
            shm_size: None,
            ulimits: BTreeMap::new(),
            no_cache: false,
            pull: false,
            additional_contexts: BTreeMap::new(),
        }
    }

    /// A relative path starts from the file's folder, which only the loader knows.
    fn checked(build: Self, path: &str, p: &mut Problems) -> Option<Self> {
        let blob = build.context.starts_with(CONTEXT_PREFIX);
        let absolute = build.context.starts_with('/') || is_remote(&build.context) || blob;
        if p.origin == Origin::Written && !absolute {
            p.add(
                path,
                "a relative context is not supported here: only Compose files have it",
            );
            return None;
        }
        Some(build)
    }
}

/// Whether the builder fetches the context by itself: a Git repository or an archive (Docker's rule for `PATH | URL`).
pub(crate) fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"]
        .iter()
        .any(|prefix| context.starts_with(prefix))
}
