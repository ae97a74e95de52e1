//! What the master says of its hosts, what their agents' ledgers say, and what their engines have: whether it is the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::engine::{self, Container};
use crate::fleet::{Decky, Operator, Row};
use crate::lan::Lan;
use crate::processes::Agent;
use crate::wait::Seen;

/// A host, and how to ask about it without the master.
pub trait Worker {
    fn name(&self) -> &str;
    /// Its id.
    fn host(&self) -> &str;
    /// Its deckies have MACs of their own.
    fn has_own_macs(&self) -> bool {
        true
    }
    /// What its engine has of it, by name.
    ///
    /// # Errors
    ///
    /// When the engine does not answer.
    fn containers(&self) -> Result<BTreeMap<String, Container>>;
    /// What its agent says of itself.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    fn status(&self) -> Result<Value>;
    /// Who answers for an address on its LAN.
    ///
    /// # Errors
    ///
    /// When nobody does.
    fn mac_of(&self, address: &str) -> Result<String>;
}

/// An agent on this machine, with the engine that is asked.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    pub name: &'a str,
    pub host: &'a str,
    pub agent: &'a Agent,
    pub lan: &'a Lan,
    pub own_macs: bool,
}

impl Worker for Local<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn host(&self) -> &str {
        self.host
    }

    fn has_own_macs(&self) -> bool {
        self.own_macs
    }

    fn containers(&self) -> Result<BTreeMap<String, Container>> {
        engine::containers(self.host)
    }

    fn status(&self) -> Result<Value> {
        let said = self.agent.command(&["status", "--json"])?.ok()?;
        Ok(serde_json::from_str(&said)?)
    }

    fn mac_of(&self, address: &str) -> Result<String> {
        self.lan.mac_of(address)
    }
}

/// Whether there are no [`differences`]; who cannot be asked yet is one.
pub fn look(operator: &Operator, workers: &[&dyn Worker]) -> Seen<()> {
    match differences(operator, workers) {
        Ok(found) => Seen::when(found.is_empty(), found.join("\n  ")),
        Err(error) => Seen::not_yet(format!("{error:#}")),
    }
}

/// Where the master's rows and deckies, the ledgers of its hosts and their engines differ; nothing, once all work is done.
///
/// # Errors
///
/// When somebody does not answer.
fn differences(operator: &Operator, workers: &[&dyn Worker]) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    let open = operator.many_rows(&["--open"])?.len();
    if open > 0 {
        differences.push(format!("{open} rows are open"));
    }
    let hosts = operator.hosts()?;
    for worker in workers {
        let host = hosts.get(worker.name()).context("a host is not known any more")?;
        if !(host.converged && host.accepted_generation == Some(host.generation)) {
            differences.push(format!("the master has of {}: {host:?}", worker.name()));
        }
    }
    // As long as somebody still works, there is no sense in looking closer.
    if !differences.is_empty() {
        return Ok(differences);
    }
    let (rows, deckies) = (operator.many_rows(&[])?, operator.deckies()?);
    absent_deckies_are_gone_by_their_rows(&rows, &deckies, &mut differences);
    let mut identities = BTreeMap::new();
    for worker in workers {
        let own: BTreeMap<&str, &Decky> = deckies
            .iter()
            .filter(|(_, decky)| decky.host_uuid == worker.host())
            .map(|(name, decky)| (name.as_str(), decky))
            .collect();
        let containers = worker.containers()?;
        compare(*worker, &own, &containers, &mut differences);
        compare_ledger(*worker, operator, &mut differences)?;
        for (name, container) in containers {
            let Some((address, mac)) = container.endpoint() else {
                continue;
            };
            // Without a MAC of its own, there is none.
            for identity in [address, mac].into_iter().filter(|text| !text.is_empty()) {
                if let Some(other) = identities.insert(identity.clone(), name.clone()) {
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

/// The engine holds exactly what the master says that the host has, and the LAN sees it.
fn compare(
    worker: &dyn Worker,
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
        let same = endpoint.as_ref().is_some_and(|(address, mac)| {
            *address == decky.ip && (!worker.has_own_macs() || *mac == decky.mac)
        });
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
    if let Some(decky) = deckies.values().next() {
        match worker.mac_of(&decky.ip) {
            Ok(mac) if worker.has_own_macs() && mac != decky.mac => {
                differences.push(format!("{mac} answers for {} on the LAN", decky.ip));
            }
            Ok(_) => {}
            Err(error) => differences.push(format!("nobody answers for {}: {error:#}", decky.ip)),
        }
    }
}

/// The ledger knows no operation otherwise than the master does, and keeps nothing to itself.
fn compare_ledger(worker: &dyn Worker, operator: &Operator, differences: &mut Vec<String>) -> Result<()> {
    let (name, status) = (worker.name(), worker.status()?);
    if status["host"] != worker.host() {
        differences.push(format!("{name} says that it is another host: {}", status["host"]));
    }
    if status["running"]["converged"] != true {
        differences.push(format!("{name} has not seen yet that all is done"));
    }
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
    Ok(())
}
