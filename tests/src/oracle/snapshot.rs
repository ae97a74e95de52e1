//! What the engine inspects, reduced to what the Compose file decides.
//!
//! Left out or replaced: ids, times, process numbers, paths under the engine's own folders, what the engine picks
//! (addresses and MACs from a pool, ports that are free, names of anonymous volumes), labels of either program, and the
//! order where it means nothing. Null, an empty list and an empty map are one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::contender::Inspected;
use crate::command::{program, run};
use crate::engine::docker;

const LABELS: [&str; 2] = ["com.docker.compose.", "io.decnet."];
/// Pools that the engine takes subnets from when nobody names one.
const POOLS: [&str; 17] = [
    "172.16.", "172.17.", "172.18.", "172.19.", "172.20.", "172.21.", "172.22.", "172.23.", "172.24.",
    "172.25.", "172.26.", "172.27.", "172.28.", "172.29.", "172.30.", "172.31.", "192.168.",
];

/// A place at which two snapshots differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// A JSON pointer.
    pub at: String,
    pub one: Value,
    pub other: Value,
}

/// Reduces a project's objects, by kind and name.
///
/// # Errors
///
/// When the engine does not answer.
pub fn take(inspected: &Inspected) -> Result<Value> {
    let names = names()?;
    let mut containers = Map::new();
    for raw in &inspected.containers {
        let name = text(raw, "/Name").trim_start_matches('/').to_owned();
        containers.insert(name, container(raw, &names)?);
    }
    let named = |list: &[Value], reduce: fn(&Value) -> Value| -> Map<String, Value> {
        list.iter()
            .map(|raw| (text(raw, "/Name").to_owned(), reduce(raw)))
            .collect()
    };
    let mut all = json!({
        "containers": containers,
        "networks": named(&inspected.networks, network),
        "volumes": named(&inspected.volumes, volume),
    });
    empty_is_null(&mut all);
    Ok(all)
}

/// Every place at which the two differ.
#[must_use]
pub fn differences(one: &Value, other: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", one, other, &mut found);
    found
}

fn compare(at: &str, one: &Value, other: &Value, found: &mut Vec<Difference>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let key_at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                let get = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&key_at, &get(a), &get(b), found);
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(Difference {
            at: at.to_owned(),
            one: one.clone(),
            other: other.clone(),
        }),
    }
}

/// Names of all containers and networks, by id.
fn names() -> Result<BTreeMap<String, String>> {
    let mut text = docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}}\t{{.Names}}"])?;
    text.push_str(&docker(&[
        "network",
        "ls",
        "--no-trunc",
        "--format",
        "{{.ID}}\t{{.Name}}",
    ])?);
    let rows = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(rows.map(|(id, name)| (id.to_owned(), name.to_owned())).collect())
}

fn container(raw: &Value, names: &BTreeMap<String, String>) -> Result<Value> {
    let id = text(raw, "/Id").to_owned();
    let short = id.get(..12).unwrap_or_default().to_owned();
    let mut host = raw["HostConfig"].clone();
    for (key, split) in [("NetworkMode", ':'), ("PidMode", ':'), ("IpcMode", ':')] {
        if let Some((kind, of)) = text(&host, &format!("/{key}")).split_once(split)
            && kind == "container"
        {
            host[key] = json!(format!("container:{}", names.get(of).map_or(of, String::as_str)));
        }
    }
    // An external network is named by its id.
    if let Some(name) = names.get(text(&host, "/NetworkMode")) {
        host["NetworkMode"] = json!(name);
    }
    if let Some(list) = host["VolumesFrom"].as_array_mut() {
        for entry in list {
            let from = entry.as_str().unwrap_or_default();
            let (of, mode) = from.split_once(':').unwrap_or((from, "rw"));
            *entry = json!(format!("{}:{mode}", names.get(of).map_or(of, String::as_str)));
        }
    }
    for key in [
        "Binds",
        "CapAdd",
        "CapDrop",
        "SecurityOpt",
        "ExtraHosts",
        "VolumesFrom",
        "Links",
        "GroupAdd",
    ] {
        sort(&mut host[key]);
    }
    for key in ["Mounts", "Ulimits", "Devices"] {
        sort(&mut host[key]);
    }
    if let Some(binds) = host["Binds"].as_array_mut() {
        for bind in binds.iter_mut() {
            *bind = json!(anonymous_bind(bind.as_str().unwrap_or_default()));
        }
    }
    // Nothing said, and `restart: no`.
    if host["RestartPolicy"]["Name"] == "" {
        host["RestartPolicy"]["Name"] = json!("no");
    }
    let free = free_ports(&host);

    let mut config = raw["Config"].clone();
    // Its own, or that of the container whose network it joins.
    let hostname = text(&config, "/Hostname").to_owned();
    if hostname.len() == short.len()
        && let Some((_, name)) = names.iter().find(|(id, _)| id.starts_with(&hostname))
    {
        config["Hostname"] = json!(format!("<id of {name}>"));
    }
    drop_labels(&mut config["Labels"]);
    sort(&mut config["Env"]);

    let mut state = json!({});
    for key in ["Status", "Running", "Paused", "Restarting", "Dead", "ExitCode"] {
        state[key] = raw["State"][key].clone();
    }
    let mut mounts = raw["Mounts"].as_array().cloned().unwrap_or_default();
    for mount in &mut mounts {
        if mount["Type"] == "volume" {
            if is_hex(text(mount, "/Name")) {
                mount["Name"] = json!("<anonymous>");
            }
            mount["Source"] = Value::Null;
        }
    }
    mounts.sort_by_key(|mount| text(mount, "/Destination").to_owned());
    // By destination, so that a difference names it.
    let mounts: Map<String, Value> = mounts
        .into_iter()
        .map(|mount| (text(&mount, "/Destination").to_owned(), mount))
        .collect();

    let mut ports = raw["NetworkSettings"]["Ports"].clone();
    for (port, bindings) in ports.as_object_mut().into_iter().flatten() {
        let bindings = bindings.as_array_mut().into_iter().flatten();
        for binding in bindings.filter(|_| free.contains(port.as_str())) {
            binding["HostPort"] = json!("<free>");
        }
    }
    let mut networks = raw["NetworkSettings"]["Networks"].clone();
    let bridge_mac = raw["Config"]["MacAddress"].clone();
    for endpoint in networks
        .as_object_mut()
        .into_iter()
        .flatten()
        .map(|(_, endpoint)| endpoint)
    {
        reduce_endpoint(endpoint, &short, &bridge_mac);
    }
    Ok(json!({
        "Path": raw["Path"],
        "Args": raw["Args"],
        "Platform": raw["Platform"],
        "AppArmorProfile": raw["AppArmorProfile"],
        "Image": image(text(raw, "/Image"))?,
        "RestartCount": raw["RestartCount"],
        "State": state,
        "Config": config,
        "HostConfig": host,
        "Mounts": mounts,
        "Ports": ports,
        "Networks": networks,
    }))
}

/// Ports of the container for which the file leaves the host's to chance.
fn free_ports(host: &Value) -> BTreeSet<String> {
    let ports = host["PortBindings"].as_object().into_iter().flatten();
    let free = ports.filter(|(_, bindings)| {
        let mut bindings = bindings.as_array().into_iter().flatten();
        bindings.any(|binding| {
            let port = text(binding, "/HostPort");
            port.is_empty() || port == "0" || port.contains('-')
        })
    });
    free.map(|(port, _)| port.clone()).collect()
}

fn reduce_endpoint(endpoint: &mut Value, short_id: &str, asked_mac: &Value) {
    for key in ["NetworkID", "EndpointID", "DNSNames"] {
        endpoint[key] = Value::Null;
    }
    if let Some(aliases) = endpoint["Aliases"].as_array_mut() {
        aliases.retain(|alias| alias != short_id);
        aliases.dedup();
    }
    sort(&mut endpoint["Aliases"]);
    let address = text(endpoint, "/IPAddress").to_owned();
    let asked = text(endpoint, "/IPAMConfig/IPv4Address");
    if asked.is_empty() && !address.is_empty() {
        endpoint["IPAddress"] = json!("<pool>");
        if !asked_mac.is_string() || endpoint["MacAddress"] != *asked_mac {
            endpoint["MacAddress"] = json!("<engine>");
        }
    }
    if POOLS
        .iter()
        .any(|pool| text(endpoint, "/Gateway").starts_with(pool))
    {
        endpoint["Gateway"] = json!("<pool>");
        endpoint["IPPrefixLen"] = json!("<pool>");
    }
    let v6 = text(endpoint, "/GlobalIPv6Address");
    if text(endpoint, "/IPAMConfig/IPv6Address").is_empty() && !v6.is_empty() {
        endpoint["GlobalIPv6Address"] = json!("<pool>");
    }
}

fn network(raw: &Value) -> Value {
    let mut network = raw.clone();
    for key in ["Id", "Created", "Containers"] {
        network[key] = Value::Null;
    }
    drop_labels(&mut network["Labels"]);
    for pool in network
        .pointer_mut("/IPAM/Config")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for key in ["Subnet", "Gateway"] {
            if POOLS
                .iter()
                .any(|prefix| text(pool, &format!("/{key}")).starts_with(prefix))
            {
                pool[key] = json!("<pool>");
            }
        }
    }
    network
}

fn volume(raw: &Value) -> Value {
    let mut volume = raw.clone();
    for key in ["CreatedAt", "Mountpoint"] {
        volume[key] = Value::Null;
    }
    drop_labels(&mut volume["Labels"]);
    volume
}

/// An image by what it is: one that is built twice has two ids.
fn image(id: &str) -> Result<Value> {
    let said = run(
        &mut program("docker", &["image", "inspect", id]),
        crate::command::SHORT,
    )?;
    let images: Vec<Value> = serde_json::from_str(&said.stdout)
        .with_context(|| format!("docker image inspect {id} said {:?}", said.stderr))?;
    let Some(raw) = images.first() else {
        return Ok(json!(id));
    };
    let mut tags = raw["RepoTags"].clone();
    sort(&mut tags);
    let mut config = raw["Config"].clone();
    config["Image"] = Value::Null;
    config["Hostname"] = Value::Null;
    drop_labels(&mut config["Labels"]);
    sort(&mut config["Env"]);
    Ok(json!({
        "Tags": tags,
        "Config": config,
        "Layers": raw.pointer("/RootFS/Layers").and_then(Value::as_array).map(Vec::len),
    }))
}

fn drop_labels(labels: &mut Value) {
    if let Some(labels) = labels.as_object_mut() {
        labels.retain(|name, _| !LABELS.iter().any(|prefix| name.starts_with(prefix)));
    }
}

fn anonymous_bind(bind: &str) -> String {
    match bind.split_once(':') {
        Some((source, rest)) if is_hex(source) => format!("<anonymous>:{rest}"),
        _ => bind.to_owned(),
    }
}

fn is_hex(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn sort(value: &mut Value) {
    if let Some(list) = value.as_array_mut() {
        list.sort_by_key(Value::to_string);
    }
}

fn empty_is_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(empty_is_null);
            map.retain(|_, value| !value.is_null());
            if map.is_empty() {
                *value = Value::Null;
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(empty_is_null);
            if list.is_empty() {
                *value = Value::Null;
            }
        }
        _ => {}
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let one = json!({"a": {"b/c": 1, "d": null}, "e": [1, 2]});
        let other = json!({"a": {"b/c": 2}, "e": [2, 1]});
        let found: Vec<_> = differences(&one, &other)
            .into_iter()
            .map(|found| found.at)
            .collect();
        assert_eq!(found, ["/a/b~1c", "/e"]);
        assert!(differences(&one, &one).is_empty());
    }

    #[test]
    fn what_nobody_said_is_nothing_however_it_is_written() {
        let mut value = json!({"a": [], "b": {"c": {}}, "d": null, "e": 0});
        empty_is_null(&mut value);
        assert_eq!(value, json!({"e": 0}));
    }
}
