//! What the master says of its hosts, what their agents' ledgers say, and what the engine has: whether it is the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::engine::{self, Container};
use crate::fleet::{Decky, Operator, Row};
use crate::lan::Lan;
use crate::processes::Agent;

/// The most rows that are listed at once.
const ROWS: &str = "1000";

/// A host, and whom to ask about it besides the master.
#[derive(Debug, Clone, Copy)]
pub struct Worker<'a> {
    pub name: &'a str,
    /// Its id.
    pub host: &'a str,
    pub agent: &'a Agent,
    pub lan: &'a Lan,
    /// Its deckies have MACs of their own.
    pub own_macs: bool,
}

/// The newest rows, the newest first.
///
/// # Errors
///
/// When the master does not answer.
pub fn newest_rows(operator: &Operator, more: &[&str]) -> Result<Vec<Row>> {
    let mut arguments = vec!["lifecycle", "ls", "--limit", ROWS];
    arguments.extend(more);
    let said = operator.json(&arguments)?;
    Ok(serde_json::from_value(said["rows"].clone())?)
}

/// Where the master's rows and deckies, the ledgers of its hosts and the engine differ; nothing, once all work is done.
///
/// # Errors
///
/// When somebody does not answer.
pub fn differences(operator: &Operator, workers: &[Worker<'_>]) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    let open = newest_rows(operator, &["--open"])?.len();
    if open > 0 {
        differences.push(format!("{open} rows are open"));
    }
    let rows = newest_rows(operator, &[])?;
    let deckies = operator.deckies()?;
    let hosts = operator.hosts()?;
    for worker in workers {
        let host = hosts.get(worker.name).context("a host is not known any more")?;
        if !(host.converged && host.accepted_generation == Some(host.generation)) {
            differences.push(format!("the master has of {}: {host:?}", worker.name));
        }
    }
    // As long as somebody still works, there is no sense in looking closer.
    if !differences.is_empty() {
        return Ok(differences);
    }
    absent_deckies_are_gone_by_their_rows(&rows, &deckies, &mut differences);
    let mut addresses = BTreeMap::new();
    for worker in workers {
        let own: BTreeMap<&str, &Decky> = deckies
            .iter()
            .filter(|(_, decky)| decky.host_uuid == worker.host)
            .map(|(name, decky)| (name.as_str(), decky))
            .collect();
        let containers = engine::containers(worker.host)?;
        worker.compare(&own, &containers, &mut differences);
        worker.compare_ledger(operator, &mut differences)?;
        for (name, container) in containers {
            let Some((address, mac)) = container.endpoint() else {
                continue;
            };
            for identity in [address, mac] {
                // Without a MAC of its own.
                if identity.is_empty() {
                    continue;
                }
                if let Some(other) = addresses.insert(identity.clone(), name.clone()) {
                    differences.push(format!("{name} and {other} have {identity}"));
                }
            }
        }
    }
    Ok(differences)
}

/// What is not in the fleet any more was taken away, and its newest row says so.
fn absent_deckies_are_gone_by_their_rows(
    rows: &[Row],
    deckies: &BTreeMap<String, Decky>,
    differences: &mut Vec<String>,
) {
    let mut seen = BTreeSet::new();
    // The newest first.
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

impl Worker<'_> {
    /// The engine holds exactly what the master says that this host has.
    fn compare(
        &self,
        deckies: &BTreeMap<&str, &Decky>,
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
            let same = endpoint
                .as_ref()
                .is_some_and(|(address, mac)| *address == decky.ip && (!self.own_macs || *mac == decky.mac));
            if !same {
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
        if self.own_macs
            && let Some(answers) = deckies.values().next()
            && let Ok(mac) = self.lan.mac_of(&answers.ip)
            && mac != answers.mac
        {
            differences.push(format!("{mac} answers for {} on the LAN", answers.ip));
        }
    }

    /// The ledger knows no operation otherwise than the master does, and keeps nothing to itself.
    fn compare_ledger(&self, operator: &Operator, differences: &mut Vec<String>) -> Result<()> {
        let said = self.agent.command(&["status", "--json"])?.ok()?;
        let status: Value = serde_json::from_str(&said)?;
        let name = self.name;
        if status["waiting_events"] != 0 {
            differences.push(format!("{name} keeps {} events", status["waiting_events"]));
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
                differences.push(format!("{name}: {state:?} in the ledger is {row:?}"));
            }
        }
        ensure!(
            status["host"] == self.host,
            "{name} says that it is another host: {}",
            status["host"]
        );
        Ok(())
    }
}
