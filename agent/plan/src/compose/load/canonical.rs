//! Short forms to long ones, in one document, before it meets others.
//!
//! Lists of `NAME=value` become mappings, one text becomes a list of one, `80:80` becomes a mapping with `target` and
//! `published`. Defaults are not filled in here: an entry of a later file may leave an attribute to an earlier one.

use super::short;
use super::sink::{Sink, TOO_LARGE};
use super::tree::{At, Kind, Map, Trail, Tree};

/// Rewrites a value in place; what does not fit is reported and becomes null.
type Rule = fn(&mut Tree, &Trail<'_>, &mut Sink);

const SERVICE: [(&str, Rule); 28] = [
    ("annotations", labels),
    ("build", build),
    ("cap_add", texts),
    ("cap_drop", texts),
    ("configs", file_references),
    ("depends_on", depends_on),
    ("deploy", deploy),
    ("devices", devices),
    ("dns", dns),
    ("dns_opt", texts),
    ("dns_search", one_or_many),
    ("env_file", env_file),
    ("environment", environment),
    ("expose", texts_or_numbers),
    ("extends", extends),
    ("extra_hosts", extra_hosts),
    ("gpus", gpus),
    ("group_add", texts_or_numbers),
    ("label_file", one_or_many),
    ("labels", labels),
    ("networks", names),
    ("ports", ports),
    ("profiles", texts),
    ("secrets", file_references),
    ("sysctls", labels),
    ("tmpfs", one_or_many),
    ("ulimits", mapping),
    ("volumes", volumes),
];

const BUILD: [(&str, Rule); 9] = [
    ("additional_contexts", labels),
    ("args", environment),
    ("cache_from", one_or_many),
    ("cache_to", one_or_many),
    ("extra_hosts", extra_hosts),
    ("labels", labels),
    ("secrets", file_references),
    ("tags", texts),
    ("ulimits", mapping),
];

/// A whole document.
pub(super) fn document(tree: &mut Tree, sink: &mut Sink) {
    let root = Trail::Root;
    if tree.as_map().is_none() {
        let problem = format!("a Compose file is a mapping with services, not {}", tree.what());
        sink.fail(tree.at, &root, problem);
        *tree = Tree::map(tree.at);
    }
    each(tree, "services", &root, sink, |service, trail, sink| {
        if !service.is_null() {
            rules(service, trail, sink, &SERVICE);
        }
    });
    for section in ["networks", "volumes", "configs", "secrets"] {
        each(tree, section, &root, sink, resource);
    }
    if let Some(include) = tree.get_mut("include") {
        self::include(include, &root.key("include"), sink);
    }
}

/// Every entry of a section of the document.
fn each(
    tree: &mut Tree,
    section: &str,
    root: &Trail<'_>,
    sink: &mut Sink,
    rule: impl Fn(&mut Tree, &Trail<'_>, &mut Sink),
) {
    let trail = root.key(section);
    let Some(node) = tree.get_mut(section) else { return };
    mapping(node, &trail, sink);
    for (name, value) in node.as_map_mut().into_iter().flatten() {
        rule(value, &trail.key(name), sink);
    }
}

fn rules(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink, rules: &[(&str, Rule)]) {
    mapping(tree, trail, sink);
    for (key, rule) in rules {
        if let Some(value) = tree.get_mut(key) {
            rule(value, &trail.key(key), sink);
        }
    }
}

/// Reports a value of the wrong kind and takes it out of the way.
fn wrong(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink, wanted: &str) {
    let hint = match (wanted, tree.scalar()) {
        ("text", Some(_)) => ": put it in quotes",
        _ => "",
    };
    let problem = format!("must be {wanted}, not {}{hint}", tree.what());
    sink.fail(tree.at, trail, problem);
    tree.kind = Kind::Null;
}

fn mapping(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    if tree.as_map().is_none() {
        wrong(tree, trail, sink, "a mapping");
    }
}

fn build(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    if let Kind::Text(context) = &tree.kind {
        let context = Tree::text(tree.at, context.clone());
        tree.kind = Kind::Map(Map::from([("context".to_owned(), context)]));
    }
    rules(tree, trail, sink, &BUILD);
}

fn deploy(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    rules(tree, trail, sink, &[("labels", labels)]);
    let reservations = tree
        .get_mut("resources")
        .and_then(|tree| tree.get_mut("reservations"));
    if let Some(devices) = reservations.and_then(|tree| tree.get_mut("devices")) {
        let (resources, reservations) = (trail.key("resources"), "reservations");
        let trail = resources.key(reservations);
        let trail = trail.key("devices");
        device_requests(devices, &trail, sink);
        // A driver is found by them (Compose Specification, "devices").
        for (i, request) in devices.as_list().unwrap_or_default().iter().enumerate() {
            if request.items("capabilities").next().is_none() {
                sink.fail(request.at, &trail.item(i), "needs capabilities, such as [gpu]");
            }
        }
    }
}

/// `all`, or requests, which ask for `gpu` whatever else they ask for.
fn gpus(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    let at = tree.at;
    if tree.as_text() == Some("all") {
        let count = Map::from([("count".to_owned(), Tree::text(at, "all"))]);
        tree.kind = Kind::List(vec![Tree::new(at, Kind::Map(count))]);
    }
    if tree.as_list().is_none() {
        return wrong(tree, trail, sink, "all, or a list of mappings");
    }
    device_requests(tree, trail, sink);
}

fn device_requests(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| {
        rules(item, trail, sink, &[("options", labels)]);
        if item.get("count").is_some() && item.items("device_ids").next().is_some() {
            sink.fail(item.at, trail, "has both count and device_ids: keep one");
        }
    });
}

/// `NAME=value` entries or a mapping; a name alone says that the value comes from around, and stays null.
fn environment(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    pairs(tree, trail, sink, true);
}

/// `NAME=value` entries or a mapping; a name alone has the empty value.
fn labels(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    pairs(tree, trail, sink, false);
}

fn pairs(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink, inherits: bool) {
    let absent = |at| match inherits {
        true => Tree::new(at, Kind::Null),
        false => Tree::text(at, ""),
    };
    match &mut tree.kind {
        Kind::Map(map) => {
            for (key, value) in map {
                let mark = value.mark;
                *value = match value.scalar() {
                    Some(text) => Tree::text(value.at, text),
                    None if value.is_null() => absent(value.at),
                    None => {
                        wrong(value, &trail.key(key), sink, "text, a number, or true or false");
                        continue;
                    }
                };
                value.mark = mark;
            }
        }
        Kind::List(list) => {
            let mut map = Map::new();
            for (i, item) in list.iter().enumerate() {
                let Some(text) = item.as_text() else {
                    let problem = format!(
                        "must be text such as NAME=value, not {}: put it in quotes",
                        item.what()
                    );
                    sink.fail(item.at, &trail.item(i), problem);
                    continue;
                };
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Tree::text(item.at, value)),
                    None => (text, absent(item.at)),
                };
                if inherits && key.ends_with(char::is_whitespace) {
                    sink.fail(
                        item.at,
                        &trail.item(i),
                        format!("{key:?} ends with a space: remove it"),
                    );
                }
                map.insert(key.to_owned(), value);
            }
            tree.kind = Kind::Map(map);
        }
        _ => wrong(tree, trail, sink, "a mapping or a list of NAME=value"),
    }
}

fn one_or_many(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    if let Kind::Text(text) = &tree.kind {
        tree.kind = Kind::List(vec![Tree::text(tree.at, text.clone())]);
    }
    texts(tree, trail, sink);
}

/// An empty server, such as of a variable that is not set, is none.
fn dns(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    one_or_many(tree, trail, sink);
    if let Some(list) = tree.as_list_mut() {
        list.retain(|item| item.as_text() != Some(""));
    }
}

fn texts(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| {
        if item.as_text().is_none() {
            wrong(item, trail, sink, "text");
        }
    });
}

fn texts_or_numbers(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| match item.kind {
        Kind::Text(_) => {}
        Kind::Int(_) | Kind::Float(_) => item.kind = Kind::Text(item.scalar().unwrap_or_default()),
        _ => wrong(item, trail, sink, "text or a number"),
    });
}

/// Applies a rule to each item of a list, and drops what it reported.
fn items(
    tree: &mut Tree,
    trail: &Trail<'_>,
    sink: &mut Sink,
    rule: impl Fn(&mut Tree, &Trail<'_>, &mut Sink),
) {
    let Some(list) = tree.as_list_mut() else {
        return wrong(tree, trail, sink, "a list");
    };
    for (i, item) in list.iter_mut().enumerate() {
        rule(item, &trail.item(i), sink);
    }
    list.retain(|item| !item.is_null());
}

/// A list of names as a mapping from name to nothing.
fn names(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    named(tree, trail, sink, |at| Tree::new(at, Kind::Null));
}

fn depends_on(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    named(tree, trail, sink, |at| {
        let condition = Tree::text(at, "service_started");
        let required = Tree::new(at, Kind::Bool(true));
        let map = Map::from([
            ("condition".to_owned(), condition),
            ("required".to_owned(), required),
        ]);
        Tree::new(at, Kind::Map(map))
    });
    for (name, entry) in tree.as_map_mut().into_iter().flatten() {
        mapping(entry, &trail.key(name), sink);
    }
}

fn named(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink, entry: impl Fn(At) -> Tree) {
    if tree.as_list().is_some() {
        texts(tree, trail, sink);
        let list = tree.as_list().unwrap_or_default();
        let map = list
            .iter()
            .filter_map(|item| Some((item.as_text()?.to_owned(), entry(item.at))));
        tree.kind = Kind::Map(map.collect());
    }
    if tree.as_map().is_none() {
        wrong(tree, trail, sink, "a mapping or a list of names");
    }
}

fn extends(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    match &tree.kind {
        Kind::Text(service) => {
            let service = Tree::text(tree.at, service.clone());
            tree.kind = Kind::Map(Map::from([("service".to_owned(), service)]));
        }
        Kind::Map(_) => {}
        _ => wrong(
            tree,
            trail,
            sink,
            "the name of a service, or a mapping with service and file",
        ),
    }
}

fn env_file(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    if let Kind::Text(_) = tree.kind {
        tree.kind = Kind::List(vec![Tree::new(tree.at, tree.kind.clone())]);
    }
    items(tree, trail, sink, |item, trail, sink| match &mut item.kind {
        Kind::Text(path) => {
            let path = Tree::text(item.at, std::mem::take(path));
            item.kind = Kind::Map(Map::from([("path".to_owned(), path)]));
        }
        Kind::Map(map) => {
            if map.get("path").is_none_or(|path| path.as_text().is_none()) {
                sink.fail(item.at, trail, "needs a path");
            }
        }
        _ => wrong(
            item,
            trail,
            sink,
            "a path, or a mapping with path, required and format",
        ),
    });
}

fn file_references(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| match &mut item.kind {
        Kind::Text(source) => {
            let source = Tree::text(item.at, std::mem::take(source));
            item.kind = Kind::Map(Map::from([("source".to_owned(), source)]));
        }
        Kind::Map(map) => {
            if map.get("source").is_none_or(|source| source.as_text().is_none()) {
                sink.fail(item.at, trail, "needs a source");
            }
        }
        _ => wrong(item, trail, sink, "a name, or a mapping with source and target"),
    });
}

/// `HOST=ADDRESS` or `HOST:ADDRESS` entries, or a mapping to one address or a list of them: a list of `HOST=ADDRESS`.
fn extra_hosts(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    let mut hosts: Vec<Tree> = Vec::new();
    let mut add = |at, host: &str, address: &str, trail: &Trail<'_>, sink: &mut Sink| {
        let address = address
            .strip_prefix('[')
            .and_then(|a| a.strip_suffix(']'))
            .unwrap_or(address);
        let is_address = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
        if host.is_empty() || host.contains([':', '=']) || !is_address {
            sink.fail(
                at,
                trail,
                "must be a host name and an IP address or host-gateway, such as db=10.0.0.7",
            );
            return;
        }
        hosts.push(Tree::text(at, format!("{host}={address}")));
    };
    match &tree.kind {
        Kind::Map(map) => {
            for (host, value) in map {
                let trail = trail.key(host);
                match &value.kind {
                    Kind::Text(address) => add(value.at, host, address, &trail, sink),
                    Kind::List(list) => {
                        for (i, item) in list.iter().enumerate() {
                            add(
                                item.at,
                                host,
                                item.as_text().unwrap_or_default(),
                                &trail.item(i),
                                sink,
                            );
                        }
                    }
                    _ => add(value.at, host, "", &trail, sink),
                }
            }
        }
        Kind::List(list) => {
            for (i, item) in list.iter().enumerate() {
                let trail = trail.item(i);
                let text = item.as_text().unwrap_or_default();
                let (host, addresses) = text
                    .split_once('=')
                    .or_else(|| text.split_once(':'))
                    .unwrap_or_default();
                for address in addresses.split(',') {
                    add(item.at, host, address, &trail, sink);
                }
            }
        }
        _ => return wrong(tree, trail, sink, "a mapping or a list of HOST=ADDRESS"),
    }
    tree.kind = Kind::List(hosts);
}

/// What one port of a range becomes: a mapping with up to five entries.
const PORT_NODES: usize = 6;

fn ports(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    let Some(list) = tree.as_list_mut() else {
        return wrong(tree, trail, sink, "a list");
    };
    let mut ports = Vec::new();
    for (i, mut item) in std::mem::take(list).into_iter().enumerate() {
        let trail = trail.item(i);
        let text = match &mut item.kind {
            Kind::Map(map) => {
                if let Some(published) = map.get_mut("published")
                    && let Kind::Int(port) = published.kind
                {
                    published.kind = Kind::Text(port.to_string());
                }
                if map.get("target").is_none_or(Tree::is_null) {
                    sink.fail(item.at, &trail, "needs a target: the port inside the container");
                }
                ports.push(item);
                continue;
            }
            Kind::Text(text) => text.clone(),
            Kind::Int(port) => port.to_string(),
            _ => {
                wrong(
                    &mut item,
                    &trail,
                    sink,
                    "text such as \"8080:80\", a number or a mapping",
                );
                continue;
            }
        };
        match short::ports(&text) {
            Ok(parsed) if sink.budget.take(parsed.len().saturating_mul(PORT_NODES), 0) => {
                ports.extend(parsed.into_iter().map(|port| port.tree(item.at)));
            }
            Ok(_) => sink.fail(item.at, &trail, TOO_LARGE),
            Err(problem) => sink.fail(item.at, &trail, format!("{text:?} {problem}")),
        }
    }
    *list = ports;
}

/// Puts the long form of a text in its place, or reports why there is none and takes it out of the way.
fn written_out(
    item: &mut Tree,
    trail: &Trail<'_>,
    sink: &mut Sink,
    long: fn(&str, At) -> Result<Tree, &'static str>,
) {
    let Kind::Text(text) = &item.kind else { return };
    match long(text, item.at) {
        Ok(tree) => *item = tree,
        Err(problem) => {
            sink.fail(item.at, trail, format!("{text:?} {problem}"));
            item.kind = Kind::Null;
        }
    }
}

fn volumes(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| match &item.kind {
        Kind::Map(map) => {
            let target = map.get("target").and_then(Tree::as_text);
            if target.is_none_or(str::is_empty) {
                sink.fail(item.at, trail, "needs a target: the path inside the container");
            }
        }
        Kind::Text(_) => written_out(item, trail, sink, short::mount),
        _ => wrong(
            item,
            trail,
            sink,
            "text such as \"data:/var/lib/data\" or a mapping",
        ),
    });
}

fn devices(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| match &item.kind {
        Kind::Map(map) => {
            if map.get("source").is_none_or(|source| source.as_text().is_none()) {
                sink.fail(item.at, trail, "needs a source: the device on the host");
            }
        }
        Kind::Text(_) => written_out(item, trail, sink, short::device),
        _ => wrong(
            item,
            trail,
            sink,
            "text such as \"/dev/tun:/dev/tun:rwm\" or a mapping",
        ),
    });
}

/// A network, volume, config or secret. `external: {name: …}`, long deprecated, becomes `external: true` and `name`.
fn resource(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    if tree.is_null() {
        return;
    }
    rules(tree, trail, sink, &[("labels", labels)]);
    let Some(map) = tree.as_map_mut() else { return };
    let Some(external) = map.get_mut("external") else {
        return;
    };
    let at = external.at;
    let Some(inner) = external.as_map() else { return };
    let outer_name = inner.get("name").cloned();
    *external = Tree::new(at, Kind::Bool(true));
    match (map.get("name"), outer_name) {
        (Some(name), Some(other)) if *name != other => {
            sink.fail(
                at,
                &trail.key("external"),
                "names another object than name does: keep name alone",
            );
        }
        (None, Some(name)) => {
            sink.warn(format!(
                "{trail}.external.name is deprecated: write name, and external: true"
            ));
            map.insert("name".to_owned(), name);
        }
        _ => {}
    }
}

/// Every entry as a mapping, with `path` and `env_file` as lists.
fn include(tree: &mut Tree, trail: &Trail<'_>, sink: &mut Sink) {
    items(tree, trail, sink, |item, trail, sink| {
        if let Kind::Text(path) = &item.kind {
            let path = Tree::text(item.at, path.clone());
            item.kind = Kind::Map(Map::from([("path".to_owned(), path)]));
        }
        rules(
            item,
            trail,
            sink,
            &[("path", one_or_many), ("env_file", one_or_many)],
        );
        if item.as_map().is_some() && item.items("path").next().is_none() {
            sink.fail(item.at, trail, "needs a path");
        }
    });
}
