//! One document over another: Compose Specification, "Merge".
//!
//! Mappings merge, lists append, anything else is replaced. Exceptions stand in [`rule`]. Lists whose items have an
//! identity (a port, a mount's target) keep the later of two items with the same one, at the place of the earlier.

use std::collections::{BTreeMap, BTreeSet};

use super::sink::Sink;
use super::tree::{Kind, Map, Mark, Trail, Tree};

/// Lays `over` on `under`. Both are canonical; marks of `over` are obeyed and kept, for what lies further below.
pub(super) fn documents(under: &mut Tree, over: Tree, sink: &mut Sink) {
    merge(under, over, &Trail::Root, &mut Vec::new(), sink);
    unique(under, &mut Vec::new());
}

/// Lays a service on the one it extends.
pub(super) fn service(base: &mut Tree, over: Tree, name: &str, sink: &mut Sink) {
    let root = Trail::Root;
    let services = root.key("services");
    merge(
        base,
        over,
        &services.key(name),
        &mut vec!["services".to_owned(), name.to_owned()],
        sink,
    );
    unique(base, &mut vec!["services".to_owned(), name.to_owned()]);
}

enum Rule {
    /// By the kinds of the values.
    Plain,
    /// The later one alone, even when it is null.
    Replace,
    /// Two drivers' options have nothing to do with each other.
    Logging,
    /// By subnet.
    Pools,
}

fn rule(path: &[String]) -> Rule {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path[..] {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Replace,
        ["services", _, "ulimits", _] => Rule::Replace,
        ["services", _, "logging"] => Rule::Logging,
        ["networks", _, "ipam", "config"] => Rule::Pools,
        _ => Rule::Plain,
    }
}

fn merge(under: &mut Tree, over: Tree, trail: &Trail<'_>, path: &mut Vec<String>, sink: &mut Sink) {
    let rule = rule(path);
    if over.mark != Mark::None || matches!(rule, Rule::Replace) || under.mark == Mark::Reset {
        *under = over;
        return;
    }
    if over.is_null() {
        return;
    }
    if matches!(rule, Rule::Logging)
        && let (Some(before), Some(after)) = (under.get_text("driver"), over.get_text("driver"))
        && before != after
    {
        *under = over;
        return;
    }
    let at = over.at;
    match (&mut under.kind, over.kind) {
        (Kind::Map(map), Kind::Map(over)) => {
            for (key, value) in over {
                let Some(below) = map.get_mut(&key) else {
                    map.insert(key, value);
                    continue;
                };
                path.push(key);
                let key = path.last().cloned().unwrap_or_default();
                merge(below, value, &trail.key(&key), path, sink);
                path.pop();
            }
        }
        (Kind::List(list), Kind::List(over)) if matches!(rule, Rule::Pools) => pools(list, over),
        (Kind::List(list), Kind::List(over)) => {
            // `extra_hosts` and the like: what is there already is not said twice.
            if matches!(path.last().map(String::as_str), Some("extra_hosts")) {
                let known: BTreeSet<String> =
                    list.iter().filter_map(Tree::as_text).map(str::to_owned).collect();
                list.extend(
                    over.into_iter()
                        .filter(|item| item.as_text().is_none_or(|text| !known.contains(text))),
                );
            } else {
                list.extend(over);
            }
        }
        (Kind::Map(_), other) => mismatch(at, trail, "a mapping", &Tree::new(at, other), sink),
        (Kind::List(_), other) => mismatch(at, trail, "a list", &Tree::new(at, other), sink),
        (kind, other) => {
            *kind = other;
            under.at = at;
        }
    }
}

fn mismatch(at: super::tree::At, trail: &Trail<'_>, below: &str, over: &Tree, sink: &mut Sink) {
    let problem = format!(
        "is {}, but an earlier file has {below} here: write it alike, or put !override before it",
        over.what()
    );
    sink.fail(at, trail, problem);
}

/// An address pool of the same subnet is refined, any other added.
fn pools(list: &mut Vec<Tree>, over: Vec<Tree>) {
    for pool in over {
        let same = |below: &&mut Tree| below.get("subnet") == pool.get("subnet");
        match list.iter_mut().find(same).and_then(Tree::as_map_mut) {
            Some(below) => {
                if let Kind::Map(map) = pool.kind {
                    below.extend(map);
                }
            }
            None => list.push(pool),
        }
    }
}

/// What makes two items of a list the same thing; `None` for lists where nothing does.
type Identity = fn(&Tree) -> Option<String>;

fn identity(path: &[String]) -> Option<Identity> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    Some(match path[..] {
        ["services", _, "build", "tags" | "platforms"]
        | [
            "services",
            _,
            "cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "expose" | "links" | "profiles"
            | "tmpfs",
        ]
        | ["services", _, "networks", _, "aliases" | "link_local_ips"] => by_name,
        ["services", _, "volumes" | "devices"] => by_target,
        ["services", _, "env_file"] => |item| item.get_text("path").map(str::to_owned),
        ["services", _, "configs"] => |item| by_mount(item, ""),
        ["services", _, "secrets"] => |item| by_mount(item, "/run/secrets"),
        ["services", _, "ports"] => by_port,
        _ => return None,
    })
}

fn by_name(item: &Tree) -> Option<String> {
    let text = item.as_text()?;
    Some(text.split_once('=').map_or(text, |(name, _)| name).to_owned())
}

fn by_target(item: &Tree) -> Option<String> {
    let target = item.get_text("target").or_else(|| item.get_text("source"))?;
    Some(target.to_owned())
}

fn by_mount(item: &Tree, folder: &str) -> Option<String> {
    match item.get_text("target") {
        Some(target) => Some(target.to_owned()),
        None => Some(format!("{folder}/{}", item.get_text("source")?)),
    }
}

fn by_port(item: &Tree) -> Option<String> {
    Some(format!(
        "{} {} {} {}",
        item.get_text("host_ip").unwrap_or("0.0.0.0"),
        item.get_text("published").unwrap_or_default(),
        item.get("target")?.scalar()?,
        item.get_text("protocol").unwrap_or("tcp"),
    ))
}

fn unique(tree: &mut Tree, path: &mut Vec<String>) {
    match &mut tree.kind {
        Kind::Map(map) => entries(map, path),
        Kind::List(list) => {
            let Some(identity) = identity(path) else { return };
            let mut places: BTreeMap<String, usize> = BTreeMap::new();
            let mut kept: Vec<Tree> = Vec::with_capacity(list.len());
            for item in std::mem::take(list) {
                let known = identity(&item).and_then(|identity| {
                    let known = places.get(&identity).copied();
                    places.entry(identity).or_insert(kept.len());
                    known
                });
                match known.and_then(|place| kept.get_mut(place)) {
                    Some(earlier) => *earlier = item,
                    None => kept.push(item),
                }
            }
            *list = kept;
        }
        _ => {}
    }
}

fn entries(map: &mut Map, path: &mut Vec<String>) {
    for (key, value) in map {
        if matches!(value.kind, Kind::Map(_) | Kind::List(_)) {
            path.push(key.clone());
            unique(value, path);
            path.pop();
        }
    }
}
