//! What a document does not say but means: defaults, the default network, implied dependencies, names on the engine.

use std::collections::BTreeMap;

use super::tree::{At, Kind, Map, Tree};

/// Defaults of one model, be it the whole or an included one, before its paths are resolved.
pub(super) fn defaults(document: &mut Tree) {
    for (_, service) in document.entries_mut("services") {
        if let Some(build) = service.get_mut("build") {
            if build.get_text("context") == Some("")
                && let Some(map) = build.as_map_mut()
            {
                map.remove("context");
            }
            fill(build, "context", |at| Tree::text(at, "."));
        }
        for (_, dependency) in service.entries_mut("depends_on") {
            fill(dependency, "condition", |at| Tree::text(at, "service_started"));
            fill(dependency, "required", yes);
        }
        for file in list(service, "env_file") {
            fill(file, "required", yes);
        }
        for port in list(service, "ports") {
            fill(port, "protocol", |at| Tree::text(at, "tcp"));
            fill(port, "mode", |at| Tree::text(at, "ingress"));
        }
        for secret in list(service, "secrets") {
            let target = format!("/run/secrets/{}", secret.get_text("source").unwrap_or_default());
            fill(secret, "target", |at| Tree::text(at, target));
        }
    }
}

/// Values of one model that come from its environment: variables named without a value.
pub(super) fn environment(document: &mut Tree, environment: &BTreeMap<String, String>) {
    for (_, service) in document.entries_mut("services") {
        inherit(service, "environment", environment);
        if let Some(build) = service.get_mut("build") {
            inherit(build, "args", environment);
        }
    }
    for section in ["configs", "secrets"] {
        for (_, object) in document.entries_mut(section) {
            let value = object
                .get_text("environment")
                .and_then(|name| environment.get(name))
                .cloned();
            if let (Some(value), Some(map)) = (value, object.as_map_mut()) {
                let at = map.get("environment").map_or_else(At::default, |node| node.at);
                map.insert(VALUE.to_owned(), Tree::text(at, value));
            }
        }
    }
}

/// Where the value of an object's variable waits until the attributes are checked: `content` is one that a config may
/// have and a secret may not.
const VALUE: &str = "x-value";

fn inherit(tree: &mut Tree, key: &str, environment: &BTreeMap<String, String>) {
    for (name, value) in tree.get_mut(key).and_then(Tree::as_map_mut).into_iter().flatten() {
        if value.is_null()
            && let Some(found) = environment.get(name)
        {
            value.kind = Kind::Text(found.clone());
        }
    }
}

/// The whole document, once all files are in it.
pub(super) fn document(document: &mut Tree, project: &str) {
    let mut uses_default = false;
    for (_, service) in document.entries_mut("services") {
        uses_default |= networks(service);
        dependencies(service);
        if let Some(build) = service.get_mut("build") {
            if build.get("dockerfile_inline").is_none() {
                fill(build, "dockerfile", |at| Tree::text(at, "Dockerfile"));
            }
            if let Some(arguments) = build.get_mut("args").and_then(Tree::as_map_mut) {
                // An argument that nothing gives a value to is not given to the build.
                arguments.retain(|_, value| !value.is_null());
            }
        }
        if let Some(policy) = service.get_mut("pull_policy")
            && policy.as_text() == Some("if_not_present")
        {
            policy.kind = Kind::Text("missing".to_owned());
        }
        for mount in list(service, "volumes") {
            if let Some(Kind::Text(target)) = mount.get_mut("target").map(|target| &mut target.kind) {
                *target = super::paths::clean(target);
            }
        }
        // Null says nothing, but in these, where it is a value.
        if let Some(map) = service.as_map_mut() {
            map.retain(|_, value| !value.is_null());
        }
    }
    let at = document.at;
    if let Some(map) = document.as_map_mut() {
        map.retain(|_, value| !value.is_null());
        if uses_default {
            let networks = map.entry("networks".to_owned()).or_insert_with(|| Tree::map(at));
            let at = networks.at;
            if let Some(networks) = networks.as_map_mut() {
                networks
                    .entry("default".to_owned())
                    .or_insert_with(|| Tree::new(at, Kind::Null));
            }
        }
        map.insert("name".to_owned(), Tree::text(at, project));
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        for (key, resource) in document.entries_mut(section) {
            if resource.is_null() {
                *resource = Tree::map(resource.at);
            }
            if let Some(map) = resource.as_map_mut()
                && let Some(value) = map.remove(VALUE)
            {
                map.insert("content".to_owned(), value);
            }
            let external = matches!(resource.get("external").map(|e| &e.kind), Some(Kind::Bool(true)));
            let name = if external {
                key.clone()
            } else {
                format!("{project}_{key}")
            };
            fill(resource, "name", |at| Tree::text(at, name));
        }
    }
}

/// A service that says nothing of networks is on the default one. Whether it is, or says so itself.
fn networks(service: &mut Tree) -> bool {
    if service.get("network_mode").is_some()
        || service.get("provider").is_some()
        || service.as_map().is_none()
    {
        return false;
    }
    let at = service.at;
    let Some(map) = service.as_map_mut() else {
        return false;
    };
    let networks = map.entry("networks".to_owned()).or_insert_with(|| Tree::map(at));
    if networks.is_null() {
        *networks = Tree::map(networks.at);
    }
    let at = networks.at;
    let Some(networks) = networks.as_map_mut() else {
        return false;
    };
    if networks.is_empty() {
        networks.insert("default".to_owned(), Tree::new(at, Kind::Null));
    }
    networks.contains_key("default")
}

/// Who shares a namespace, a link or volumes with another service waits for it.
fn dependencies(service: &mut Tree) {
    let mut implied: Vec<(String, At, bool)> = Vec::new();
    for link in service.items("links") {
        if let Some(text) = link.as_text() {
            let name = match text.split_once(':') {
                Some((name, alias)) if !alias.contains(':') => name,
                _ => text,
            };
            implied.push((name.to_owned(), link.at, true));
        }
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(mode) = service.get(key)
            && let Some(name) = mode.as_text().and_then(|mode| mode.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), mode.at, true));
        }
    }
    for from in service.items("volumes_from") {
        if let Some(text) = from.as_text().filter(|text| !text.starts_with("container:")) {
            let name = text.split_once(':').map_or(text, |(name, _)| name);
            implied.push((name.to_owned(), from.at, false));
        }
    }
    if implied.is_empty() {
        return;
    }
    let at = service.at;
    let Some(map) = service.as_map_mut() else { return };
    let depends_on = map
        .entry("depends_on".to_owned())
        .or_insert_with(|| Tree::map(at));
    if depends_on.is_null() {
        *depends_on = Tree::map(depends_on.at);
    }
    let Some(depends_on) = depends_on.as_map_mut() else {
        return;
    };
    for (name, at, restart) in implied {
        depends_on.entry(name).or_insert_with(|| {
            let restart = restart.then(|| ("restart", yes(at)));
            let entries = [
                ("condition", Tree::text(at, "service_started")),
                ("required", yes(at)),
            ];
            let entries = entries.into_iter().chain(restart);
            let map: Map = entries.map(|(key, value)| (key.to_owned(), value)).collect();
            Tree::new(at, Kind::Map(map))
        });
    }
}

fn yes(at: At) -> Tree {
    Tree::new(at, Kind::Bool(true))
}

fn fill(tree: &mut Tree, key: &str, value: impl FnOnce(At) -> Tree) {
    let at = tree.at;
    if let Some(map) = tree.as_map_mut()
        && map.get(key).is_none_or(Tree::is_null)
    {
        map.insert(key.to_owned(), value(at));
    }
}

fn list<'a>(tree: &'a mut Tree, key: &str) -> impl Iterator<Item = &'a mut Tree> {
    tree.get_mut(key)
        .and_then(Tree::as_list_mut)
        .into_iter()
        .flatten()
}
