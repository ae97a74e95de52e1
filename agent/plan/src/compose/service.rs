//! One entry of `services`.

use std::collections::{BTreeMap, BTreeSet};

use super::egress::{self, Egress};
use super::network::{NetworkMode, parse_attachment};
use super::read::{Node, Problems};
use super::{units, words};
use crate::step::RestartPolicy;

/// A service as its document has it; absent attributes are None or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    pub image: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub hostname: Option<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// None only in a document that has problems.
    pub network: Option<NetworkMode>,
    pub depends_on: BTreeMap<String, Condition>,
    pub restart: RestartPolicy,
    /// Without the `CAP_` prefix, in upper case.
    pub cap_add: BTreeSet<String>,
    /// Without the `CAP_` prefix, in upper case.
    pub cap_drop: BTreeSet<String>,
    pub security_opt: BTreeSet<String>,
    pub sysctls: BTreeMap<String, String>,
    pub read_only: bool,
    pub init: Option<bool>,
    /// Mount point to mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes.
    pub mem_limit: Option<u64>,
    pub pids_limit: Option<i64>,
    /// Billionths of a core.
    pub nano_cpus: Option<i64>,
    /// As `25/tcp`.
    pub expose: BTreeSet<String>,
    pub log_driver: Option<String>,
    pub log_options: BTreeMap<String, String>,
    /// What it may call; none without an `x-decnet` extension.
    pub egress: Option<Egress>,
    pub stop_signal: Option<String>,
    /// Milliseconds.
    pub stop_grace_period: Option<u64>,
}

/// What a dependency must have reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    /// Its health check says healthy. Every start waits for that where there is a health check, so both
    /// conditions order starts in the same way.
    Healthy,
}

impl Service {
    pub(super) fn parse(node: Node<'_>, problems: &mut Problems) -> Self {
        let mut service = Self::default();
        let Some(mut map) = node.mapping(problems) else {
            return service;
        };
        let p = problems;

        service.image = map.take("image").and_then(|node| node.text(p));
        if service.image.as_deref().is_none_or(str::is_empty) {
            p.add(map.path(), "needs an image");
        }
        service.command = map.take("command").and_then(|node| command_line(node, p));
        service.entrypoint = map.take("entrypoint").and_then(|node| command_line(node, p));
        service.environment = map
            .take("environment")
            .and_then(|node| node.pairs(p))
            .unwrap_or_default();
        service.labels = map
            .take("labels")
            .and_then(|node| node.pairs(p))
            .map(filled)
            .unwrap_or_default();
        service.hostname = map.take("hostname").and_then(|node| node.parsed(p, hostname));
        service.user = map.take("user").and_then(|node| node.scalar(p));
        service.working_dir = map.take("working_dir").and_then(|node| node.parsed(p, absolute));

        let (mode, networks) = (map.take("network_mode"), map.take("networks"));
        service.network = parse_attachment(map.path(), mode, networks, p);
        service.depends_on = map
            .take("depends_on")
            .and_then(|node| depends_on(node, p))
            .unwrap_or_default();
        service.egress = map.take("x-decnet").and_then(|node| egress::parse(node, p));
        service.restart = map
            .take("restart")
            .and_then(|node| node.parsed(p, restart))
            .unwrap_or_default();

        service.cap_add = map
            .take("cap_add")
            .and_then(|node| capabilities(node, p))
            .unwrap_or_default();
        service.cap_drop = map
            .take("cap_drop")
            .and_then(|node| capabilities(node, p))
            .unwrap_or_default();
        service.security_opt = map
            .take("security_opt")
            .and_then(|node| node.texts(p))
            .map(|list| list.into_iter().map(security_option).collect())
            .unwrap_or_default();
        service.sysctls = map
            .take("sysctls")
            .and_then(|node| required_pairs(node, p))
            .unwrap_or_default();
        service.read_only = map
            .take("read_only")
            .and_then(|node| node.boolean(p))
            .unwrap_or_default();
        service.init = map.take("init").and_then(|node| node.boolean(p));
        service.tmpfs = map
            .take("tmpfs")
            .and_then(|node| tmpfs(node, p))
            .unwrap_or_default();
        service.mem_limit = map
            .take("mem_limit")
            .and_then(|node| node.parsed(p, units::bytes));
        service.pids_limit = map.take("pids_limit").and_then(|node| node.parsed(p, pids));
        service.nano_cpus = map.take("cpus").and_then(|node| node.parsed(p, units::nano_cpus));
        service.expose = map
            .take("expose")
            .and_then(|node| expose(node, p))
            .unwrap_or_default();
        if let Some(node) = map.take("logging") {
            service.parse_logging(node, p);
        }
        service.stop_signal = map
            .take("stop_signal")
            .and_then(|node| node.parsed(p, stop_signal));
        service.stop_grace_period = map
            .take("stop_grace_period")
            .and_then(|node| node.parsed(p, units::duration_ms));
        map.finish(p);
        service
    }

    fn parse_logging(&mut self, node: Node<'_>, problems: &mut Problems) {
        let Some(mut map) = node.mapping(problems) else {
            return;
        };
        self.log_driver = map.take("driver").and_then(|node| node.text(problems));
        self.log_options = map
            .take("options")
            .and_then(|node| required_pairs(node, problems))
            .unwrap_or_default();
        map.finish(problems);
    }
}

fn command_line(node: Node<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    if node.value.is_array() {
        node.texts(problems)
    } else {
        node.parsed(problems, words::split)
    }
}

fn depends_on(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, Condition>> {
    if node.value.is_array() {
        return Some(
            node.texts(problems)?
                .into_iter()
                .map(|name| (name, Condition::Started))
                .collect(),
        );
    }
    let mut all = BTreeMap::new();
    for (name, node) in node.entries(problems)? {
        let Some(mut map) = node.mapping(problems) else {
            continue;
        };
        let condition = map.take("condition").and_then(|node| {
            node.parsed(problems, |text| match text {
                "service_started" => Ok(Condition::Started),
                "service_healthy" => Ok(Condition::Healthy),
                _ => Err("must be service_started or service_healthy"),
            })
        });
        map.finish(problems);
        all.insert(name, condition.unwrap_or(Condition::Started));
    }
    Some(all)
}

/// Compose Specification, "restart".
fn restart(text: &str) -> Result<RestartPolicy, &'static str> {
    const RULE: &str = "must be no, always, unless-stopped, on-failure or on-failure:N";
    match text.split_once(':') {
        None => match text {
            "no" => Ok(RestartPolicy::No),
            "always" => Ok(RestartPolicy::Always),
            "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
            "on-failure" => Ok(RestartPolicy::OnFailure { retries: 0 }),
            _ => Err(RULE),
        },
        Some(("on-failure", retries)) => retries
            .parse()
            .map(|retries| RestartPolicy::OnFailure { retries })
            .map_err(|_| RULE),
        Some(_) => Err(RULE),
    }
}

fn capabilities(node: Node<'_>, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let list = node.texts(problems)?;
    let plain = |name: String| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
    };
    Some(list.into_iter().map(plain).collect())
}

/// The engine takes three spellings of the one option that decoys use; they become one.
fn security_option(text: String) -> String {
    match text.as_str() {
        "no-new-privileges" | "no-new-privileges=true" => "no-new-privileges:true".to_owned(),
        _ => text,
    }
}

/// `/run` or `/run:mode=755,size=1m`.
fn tmpfs(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, String>> {
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

fn expose(node: Node<'_>, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let items = node.items(problems)?;
    Some(
        items
            .into_iter()
            .filter_map(|node| node.parsed(problems, units::ports))
            .flatten()
            .collect(),
    )
}

/// Pairs of which each must have a value.
fn required_pairs(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, String>> {
    let path = node.path.clone();
    let mut all = BTreeMap::new();
    for (key, value) in node.pairs(problems)? {
        match value {
            Some(value) => {
                all.insert(key, value);
            }
            None => problems.add(&path, format_args!("{key} needs a value")),
        }
    }
    Some(all)
}

fn filled(pairs: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect()
}

fn pids(text: &str) -> Result<i64, &'static str> {
    text.parse::<i64>()
        .ok()
        .filter(|n| *n == -1 || *n > 0)
        .ok_or("must be a number above 0, or -1 for no limit")
}

fn absolute(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("must be an absolute path")
    }
}

/// RFC 1123 §2.1, and 63 bytes at most, as Linux has it (`HOST_NAME_MAX` is 64 with its NUL).
fn hostname(text: &str) -> Result<String, &'static str> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("must be a host name of at most 63 letters, digits, '-' and '.'")
    }
}

fn stop_signal(text: &str) -> Result<String, &'static str> {
    let known = text.len() <= 16 && !text.is_empty();
    if known
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'))
    {
        Ok(text.to_owned())
    } else {
        Err("must be a signal such as SIGTERM")
    }
}
