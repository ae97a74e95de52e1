//! What a merged document may not say: attributes that do not exist or are refused, references to nothing, contradictions.

use std::collections::{BTreeMap, BTreeSet};

use super::super::attributes::{Branch, Support};
use super::sink::Sink;
use super::tree::{Kind, Trail, Tree};

/// Compares every attribute with the table.
pub(super) fn attributes(document: &Tree, sink: &mut Sink) {
    walk(document, Branch::root(), &Trail::Root, sink);
}

fn walk(tree: &Tree, branch: &Branch, trail: &Trail<'_>, sink: &mut Sink) {
    if sink.is_full() {
        return;
    }
    match &tree.kind {
        Kind::Map(map) => {
            for (key, value) in map {
                if key.starts_with("x-") && (branch.names_attributes() || branch.key(key).is_none()) {
                    continue;
                }
                let trail = trail.key(key);
                let Some(inner) = branch.key(key) else {
                    if branch.names_attributes() {
                        sink.fail(value.at, &trail, unknown(key, branch));
                    }
                    continue;
                };
                if let Some(Support::Refused(reason)) = inner.support() {
                    sink.refuse(value.at, &trail, reason);
                } else if value.is_null() && !may_be_null(&trail) {
                    sink.fail(value.at, &trail, "has no value: give it one, or remove it");
                } else {
                    walk(value, inner, &trail, sink);
                }
            }
        }
        Kind::List(list) => {
            if let Some(inner) = branch.item() {
                for (i, item) in list.iter().enumerate() {
                    walk(item, inner, &trail.item(i), sink);
                }
            }
        }
        _ => {}
    }
}

/// The places where nothing is a value: a command that is the image's, a resource that is all defaults.
fn may_be_null(trail: &Trail<'_>) -> bool {
    match trail.keys()[..] {
        ["networks" | "volumes", _]
        | ["services", _, "command" | "entrypoint" | "deploy"]
        | ["services", _, "networks", _] => true,
        // Values of mappings with free keys are no attributes.
        ["services", _, "environment" | "ulimits" | "labels", _, ..]
        | ["services", _, "build", "args", _, ..] => true,
        _ => false,
    }
}

fn unknown(key: &str, branch: &Branch) -> String {
    let close = branch.attributes().min_by_key(|known| distance(key, known));
    match close.filter(|known| distance(key, known) <= 1 + key.len() / 4) {
        Some(known) => format!("there is no such attribute: did you mean {known}?"),
        None => "there is no such attribute: remove it, or let its name start with x-".to_owned(),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.iter().enumerate() {
            let left = row.get(j).copied().unwrap_or_default();
            let Some(cell) = row.get_mut(j + 1) else { break };
            let above = *cell;
            *cell = (diagonal + usize::from(x != *y)).min(left + 1).min(above + 1);
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Takes the services out that no active profile names, and says which they were. A service without profiles is always
/// active, and `*` stands for all profiles.
pub(super) fn profiles(document: &mut Tree, active: &[String]) -> BTreeSet<String> {
    let mut inactive = BTreeSet::new();
    let Some(services) = document.get_mut("services").and_then(Tree::as_map_mut) else {
        return inactive;
    };
    services.retain(|name, service| {
        let mut own = service.items("profiles").filter_map(Tree::as_text).peekable();
        let keep =
            own.peek().is_none() || own.any(|own| active.iter().any(|active| active == own || active == "*"));
        if !keep {
            inactive.insert(name.clone());
        }
        keep
    });
    inactive
}

/// References and contradictions, among the active services.
pub(super) fn references(document: &mut Tree, inactive: &BTreeSet<String>, sink: &mut Sink) {
    let services: BTreeSet<String> = document
        .entries("services")
        .map(|(name, _)| name.clone())
        .collect();
    let mut names: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for section in ["networks", "volumes", "configs", "secrets"] {
        let keys = document.entries(section).map(|(name, _)| name.clone());
        names.insert(section, keys.collect());
    }
    let known = |section: &str, name: &str| names.get(section).is_some_and(|names| names.contains(name));
    let root = Trail::Root;
    let section = root.key("services");
    for (name, service) in document.entries("services") {
        let trail = section.key(name);
        one_service(service, &trail, &services, inactive, &known, sink);
    }
    // What waits for a service that is not active, and may, does not wait.
    for (_, service) in document.entries_mut("services") {
        if let Some(map) = service.get_mut("depends_on").and_then(Tree::as_map_mut) {
            map.retain(|name, _| services.contains(name));
        }
        if let Some(map) = service.as_map_mut()
            && map
                .get("depends_on")
                .and_then(Tree::as_map)
                .is_some_and(BTreeMap::is_empty)
        {
            map.remove("depends_on");
        }
    }
    if let Some(cycle) = cycle(document) {
        let place = section.key(cycle.first().map_or("", String::as_str));
        let at = document
            .get("services")
            .and_then(|s| s.get(cycle.first()?))
            .map_or_else(Default::default, |s| s.at);
        sink.fail(
            at,
            &place.key("depends_on"),
            format!("the services wait for each other: {}", cycle.join(", ")),
        );
    }
}

fn one_service(
    service: &Tree,
    trail: &Trail<'_>,
    services: &BTreeSet<String>,
    inactive: &BTreeSet<String>,
    known: &dyn Fn(&str, &str) -> bool,
    sink: &mut Sink,
) {
    if service.get("image").is_none() && service.get("build").is_none() && service.get("provider").is_none() {
        sink.fail(service.at, trail, "has neither image nor build: give it one");
    }
    if let Some(build) = service.get("build")
        && let (Some(inline), Some(_)) = (build.get("dockerfile_inline"), build.get("dockerfile"))
    {
        let trail = trail.key("build");
        sink.fail(
            inline.at,
            &trail.key("dockerfile_inline"),
            "cannot stand beside dockerfile: remove one",
        );
    }
    if let (Some(mode), Some(_)) = (service.get("network_mode"), service.get("networks")) {
        sink.fail(
            mode.at,
            &trail.key("network_mode"),
            "cannot stand beside networks: remove one",
        );
    }
    for (network, entry) in service.entries("networks") {
        if service.get("network_mode").is_none() && !known("networks", network) {
            let problem = format!("there is no network {network}: add it to the top-level networks");
            let trail = trail.key("networks");
            sink.fail(entry.at, &trail.key(network), problem);
        }
    }
    for (other, entry) in service.entries("depends_on") {
        if services.contains(other) {
            continue;
        }
        let required = !matches!(entry.get("required").map(|r| &r.kind), Some(Kind::Bool(false)));
        let problem = match (inactive.contains(other), required) {
            (true, false) => continue,
            (true, true) => {
                format!("the service {other} is in no active profile: activate one with --profile")
            }
            (false, _) => format!("there is no service {other}"),
        };
        let trail = trail.key("depends_on");
        sink.fail(entry.at, &trail.key(other), problem);
    }
    let mounts = trail.key("volumes");
    for (i, mount) in service.items("volumes").enumerate() {
        if let (Some("volume"), Some(source)) = (mount.get_text("type"), mount.get_text("source"))
            && !known("volumes", source)
        {
            let problem = format!(
                "there is no volume {source}: add it to the top-level volumes, or write ./{source} for a folder"
            );
            sink.fail(mount.at, &mounts.item(i), problem);
        }
        if mount.get_text("type") == Some("bind") && mount.get("source").is_none() {
            sink.fail(mount.at, &mounts.item(i), "needs a source: the path on the host");
        }
    }
    for section in ["configs", "secrets"] {
        let list = trail.key(section);
        for (i, item) in service.items(section).enumerate() {
            if let Some(source) = item.get_text("source")
                && !known(section, source)
            {
                let problem = format!(
                    "there is no {} {source}: add it to the top-level {section}",
                    &section[..6]
                );
                sink.fail(item.at, &list.item(i), problem);
            }
        }
    }
    if let Some(check) = service.get("healthcheck")
        && let Some(test) = check.get("test")
        && let Some(first) = test.as_list().and_then(<[Tree]>::first)
        && !matches!(first.as_text(), Some("CMD" | "CMD-SHELL" | "NONE"))
    {
        let trail = trail.key("healthcheck");
        sink.fail(
            test.at,
            &trail.key("test"),
            "must start with CMD, CMD-SHELL or NONE, or be one text",
        );
    }
    mounted_once(service, trail, sink);
    doubled(service, trail, sink);
}

/// No two mounts on one path.
fn mounted_once(service: &Tree, trail: &Trail<'_>, sink: &mut Sink) {
    let mut targets: BTreeMap<&str, String> = BTreeMap::new();
    let tmpfs = service.items("tmpfs").filter_map(|item| {
        let text = item.as_text()?;
        Some((
            item.at,
            "tmpfs",
            text.split_once(':').map_or(text, |(path, _)| path),
        ))
    });
    let volumes = service
        .items("volumes")
        .filter_map(|item| Some((item.at, "volumes", item.get_text("target")?)));
    let (mut tmpfs_count, mut volumes_count) = (0, 0);
    for (at, key, target) in tmpfs.chain(volumes) {
        let count = if key == "tmpfs" {
            &mut tmpfs_count
        } else {
            &mut volumes_count
        };
        let list = trail.key(key);
        let item = list.item(*count);
        *count += 1;
        if let Some(first) = targets.get(target) {
            sink.fail(
                at,
                &item,
                format!("{target} is mounted already by {first}: remove one"),
            );
        } else {
            targets.insert(target, item.to_string());
        }
    }
}

/// The same limit in two places with two values, and a fixed name for several containers.
fn doubled(service: &Tree, trail: &Trail<'_>, sink: &mut Sink) {
    let deploy = |path: &[&str]| {
        path.iter()
            .try_fold(service.get("deploy")?, |tree, key| tree.get(key))
    };
    for (key, path) in [
        ("cpus", &["resources", "limits", "cpus"][..]),
        ("mem_limit", &["resources", "limits", "memory"]),
        ("mem_reservation", &["resources", "reservations", "memory"]),
        ("pids_limit", &["resources", "limits", "pids"]),
        ("scale", &["replicas"]),
    ] {
        let parent = path.get(..path.len() - 1).unwrap_or_default();
        let (Some(here), Some(_)) = (service.get(key), deploy(parent)) else {
            continue;
        };
        // Compose compares with nothing as well, where the limits are there and this one is not.
        if key == "scale" && deploy(path).is_none() {
            continue;
        }
        if deploy(path) != Some(here) {
            let problem = format!("is another value than deploy.{}: keep one", path.join("."));
            sink.fail(here.at, &trail.key(key), problem);
        }
    }
    let count = service.get("scale").or_else(|| deploy(&["replicas"]));
    if let Some(count) = count
        && let Kind::Int(number) = count.kind
    {
        if number < 0 {
            sink.fail(count.at, &trail.key("scale"), "must be 0 or more");
        } else if number > 1
            && let Some(name) = service.get("container_name")
        {
            let problem = format!("names one container, but there are to be {number}: remove it");
            sink.fail(name.at, &trail.key("container_name"), problem);
        }
    }
}

/// Services that wait for each other in a ring.
fn cycle(document: &Tree) -> Option<Vec<String>> {
    let edges: BTreeMap<&str, Vec<&str>> = document
        .entries("services")
        .map(|(name, service)| {
            (
                name.as_str(),
                service
                    .entries("depends_on")
                    .map(|(name, _)| name.as_str())
                    .collect(),
            )
        })
        .collect();
    // Takes away who waits for nobody that is left; who is left then waits in a ring, or for one.
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waited_for: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, to) in &edges {
        let known = to.iter().filter(|to| edges.contains_key(*to));
        waiting.insert(name, known.clone().count());
        for to in known {
            waited_for.entry(to).or_default().push(name);
        }
    }
    let mut free: Vec<&str> = waiting
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(name, _)| *name)
        .collect();
    let mut left: BTreeSet<&str> = edges.keys().copied().collect();
    while let Some(name) = free.pop() {
        left.remove(name);
        for other in waited_for.get(name).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(other) {
                *count -= 1;
                if *count == 0 {
                    free.push(other);
                }
            }
        }
    }
    let mut path: Vec<&str> = vec![left.first().copied()?];
    let mut places: BTreeMap<&str, usize> = BTreeMap::from([(*path.first()?, 0)]);
    loop {
        let next = edges
            .get(path.last()?)?
            .iter()
            .copied()
            .find(|to| left.contains(to))?;
        if let Some(start) = places.insert(next, path.len()) {
            let ring = path.get(start..)?.iter().chain(std::iter::once(&next));
            return Some(ring.map(|name| (*name).to_owned()).collect());
        }
        path.push(next);
    }
}

/// What the top-level resources may not say.
pub(super) fn resources(document: &Tree, sink: &mut Sink) {
    let root = Trail::Root;
    for (section, sources) in [
        ("networks", &[][..]),
        ("volumes", &[]),
        ("configs", &["file", "environment", "content"]),
        ("secrets", &["file", "environment"]),
    ] {
        let list = root.key(section);
        for (name, resource) in document.entries(section) {
            let trail = list.key(name);
            if matches!(resource.get("external").map(|e| &e.kind), Some(Kind::Bool(true))) {
                for (key, value) in resource.as_map().into_iter().flatten() {
                    if !matches!(key.as_str(), "name" | "external")
                        && !key.starts_with("x-")
                        && !value.is_null()
                    {
                        sink.fail(
                            value.at,
                            &trail.key(key),
                            "cannot stand beside external: remove one",
                        );
                    }
                }
                continue;
            }
            if sources.is_empty() || resource.get("driver").is_some() {
                continue;
            }
            // Where a variable gives it, the content is that variable's.
            let variable = resource.get("environment").is_some();
            match sources
                .iter()
                .filter(|source| resource.get(source).is_some() && !(variable && **source == "content"))
                .count()
            {
                0 => sink.fail(
                    resource.at,
                    &trail,
                    format!("needs one of {}", sources.join(", ")),
                ),
                1 => {}
                _ => sink.fail(
                    resource.at,
                    &trail,
                    format!("needs only one of {}", sources.join(", ")),
                ),
            }
        }
    }
}

/// Takes out the networks, volumes, configs and secrets that no active service uses.
pub(super) fn unused(document: &mut Tree) {
    let mut used: BTreeSet<(&str, String)> = BTreeSet::new();
    for (_, service) in document.entries("services") {
        used.extend(
            service
                .entries("networks")
                .map(|(name, _)| ("networks", name.clone())),
        );
        let build = service.get("build");
        for section in ["configs", "secrets", "volumes"] {
            let items = service
                .items(section)
                .chain(build.into_iter().flat_map(|build| build.items(section)));
            for item in items {
                if section == "volumes" && item.get_text("type") != Some("volume") {
                    continue;
                }
                used.extend(item.get_text("source").map(|source| (section, source.to_owned())));
            }
        }
    }
    let Some(map) = document.as_map_mut() else { return };
    for section in ["networks", "volumes", "configs", "secrets"] {
        if let Some(resources) = map.get_mut(section).and_then(Tree::as_map_mut) {
            resources.retain(|name, _| used.contains(&(section, name.clone())));
            if resources.is_empty() {
                map.remove(section);
            }
        }
    }
}

/// A config or secret of an active service whose variable has no value.
pub(super) fn contents(document: &Tree, sink: &mut Sink) {
    let root = Trail::Root;
    for section in ["configs", "secrets"] {
        let list = root.key(section);
        for (name, object) in document.entries(section) {
            if let (Some(variable), None) = (object.get("environment"), object.get("content")) {
                let trail = list.key(name);
                let problem = format!(
                    "the variable {} must be set",
                    variable.as_text().unwrap_or_default()
                );
                sink.fail(variable.at, &trail.key("environment"), problem);
            }
        }
    }
}
