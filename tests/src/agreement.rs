//! Whether the master, a host's ledger and its engine say the same, once nothing goes wrong any more. What they say
//! differently is added to a list.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::engine::Container;
use crate::fleet::{Decky, Operator, Row};

/// The deckies of one host.
pub type Deckies<'a> = BTreeMap<&'a str, &'a Decky>;

/// The deckies that belong to a host.
#[must_use]
pub fn own<'a>(deckies: &'a BTreeMap<String, Decky>, host: &str) -> Deckies<'a> {
    deckies
        .iter()
        .filter(|(_, decky)| decky.host_uuid == host)
        .map(|(name, decky)| (name.as_str(), decky))
        .collect()
}

/// No row is open, and every host has done what was decided for it. As long as somebody still works, there is no sense in
/// looking closer.
///
/// # Errors
///
/// When the master does not answer, or does not know a host.
pub fn of_work(operator: &Operator, hosts: &[&str], differences: &mut Vec<String>) -> Result<()> {
    let open = operator.many_rows(&["--open"])?.len();
    if open > 0 {
        differences.push(format!("{open} rows are open"));
    }
    let known = operator.hosts()?;
    for name in hosts {
        let host = known.get(*name).context("a host is not known any more")?;
        if !(host.converged && host.accepted_generation == Some(host.generation)) {
            differences.push(format!("the master has of {name}: {host:?}"));
        }
    }
    Ok(())
}

/// What is not in the fleet any more was taken away, and its newest row says so. `rows` has the newest first.
pub fn of_rows(rows: &[Row], deckies: &BTreeMap<String, Decky>, differences: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for row in rows {
        if !seen.insert(row.decky_name.as_str()) {
            continue;
        }
        let gone = !deckies.contains_key(&row.decky_name);
        let torn_down = row.operation == "teardown" && row.status == "succeeded";
        if gone != torn_down {
            differences.push(format!(
                "{} is gone: {gone}; its newest row: {row:?}",
                row.decky_name
            ));
        }
    }
}

/// An engine holds exactly what the master says that its host has.
pub fn of_containers(
    deckies: &Deckies<'_>,
    containers: &BTreeMap<String, Container>,
    differences: &mut Vec<String>,
) {
    let mut expected = BTreeSet::new();
    for (name, decky) in deckies {
        let base = format!("decnet-{name}-base-1");
        let id = containers.get(&base).map(|container| container.id.as_str());
        for service in &decky.services {
            let service = format!("decnet-{name}-{service}-1");
            let joined = containers.get(&service).and_then(|container| {
                let mode = container.raw.pointer("/HostConfig/NetworkMode")?.as_str()?;
                mode.strip_prefix("container:")
            });
            if joined.is_none() || joined != id {
                differences.push(format!("{service} is in {joined:?}, its base is {id:?}"));
            }
            expected.insert(service);
        }
        let endpoint = containers.get(&base).and_then(Container::endpoint);
        if endpoint != Some((decky.ip.clone(), decky.mac.clone())) {
            differences.push(format!("{name} is {} {}, not {endpoint:?}", decky.ip, decky.mac));
        }
        expected.insert(base);
    }
    for (name, container) in containers {
        if !expected.contains(name) {
            differences.push(format!("{name} is nobody's"));
        } else if !container.running {
            differences.push(format!("{name} does not run"));
        }
    }
    for name in expected {
        if !containers.contains_key(&name) {
            differences.push(format!("{name} is missing"));
        }
    }
}

/// No two containers have one address or one MAC.
pub fn of_identities<'a>(containers: impl Iterator<Item = &'a Container>, differences: &mut Vec<String>) {
    let mut holders = BTreeMap::new();
    for container in containers {
        let Some((address, mac)) = container.endpoint() else {
            continue;
        };
        for identity in [address, mac] {
            if let Some(other) = holders.insert(identity.clone(), &container.name) {
                differences.push(format!("{} and {other} have {identity}", container.name));
            }
        }
    }
}

/// A ledger knows no operation otherwise than the master does, and keeps nothing to itself. `status` is what the agent of
/// the host with that id says of itself.
///
/// # Errors
///
/// When the master does not answer, or does not know an operation.
pub fn of_ledger(
    operator: &Operator,
    host: &str,
    status: &Value,
    differences: &mut Vec<String>,
) -> Result<()> {
    if status["host"] != host {
        differences.push(format!("{host} says that it is {}", status["host"]));
    }
    if status["waiting_events"] != 0 {
        differences.push(format!("{host} keeps {} events", status["waiting_events"]));
    }
    let operations = status["operations"].as_object().context("no operations")?;
    let ids: Vec<String> = operations.keys().cloned().collect();
    for row in operator.rows_of(&ids)? {
        let state = operations[&row.id]["state"].as_str();
        let same = match row.status.as_str() {
            // Given up by the master before the host was done with it, whatever came then.
            "superseded" | "failed" => matches!(state, Some("succeeded" | "failed" | "superseded")),
            status => Some(status) == state,
        };
        if !same {
            differences.push(format!("{host}: {state:?} in the ledger is {row:?}"));
        }
    }
    Ok(())
}
