//! What has to hold once nothing goes wrong any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Player, Stage};
use crate::engine::{self, Container};
use crate::fleet::{Decky, Row};
use crate::wait::{Seen, until};

/// How long it may take until all is as it should be again, with hundreds of containers to start.
const PEACE: Duration = Duration::from_secs(900);
/// How often what is not so yet is printed.
const TELL: Duration = Duration::from_secs(20);
/// The most rows that are listed at once.
const ROWS: &str = "1000";

impl Stage {
    /// The master's rows, both ledgers and the engine say the same, and nothing that nobody asked for is there.
    ///
    /// # Errors
    ///
    /// When they do not within a quarter of an hour; what differs is in it.
    pub fn agree(&mut self) -> Result<()> {
        self.engine.answers()?;
        let (start, mut told) = (Instant::now(), Duration::ZERO);
        let agreed = until("everybody agrees", PEACE, || {
            let differences = match self.differences() {
                Ok(differences) if differences.is_empty() => return Ok(Seen::Done(())),
                Ok(differences) => differences.join("\n  "),
                // Somebody is not ready yet to be asked.
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > told + TELL {
                told = start.elapsed();
                println!("not after {} s:\n  {differences}", told.as_secs());
            }
            Ok(Seen::not_yet(differences))
        });
        self.scene.explained(agreed)?;
        let (deckies, rows) = (self.scene.operator.deckies()?, self.rows(&[])?);
        let mut by_status: BTreeMap<&str, u32> = BTreeMap::new();
        for row in &rows {
            *by_status.entry(&row.status).or_default() += 1;
        }
        println!("at the end: {} deckies; rows: {by_status:?}", deckies.len());
        let errors: BTreeSet<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
        for error in errors.into_iter().take(20) {
            println!("  a row says: {error}");
        }
        Ok(())
    }

    /// The newest rows, the newest first.
    fn rows(&self, more: &[&str]) -> Result<Vec<Row>> {
        let mut arguments = vec!["lifecycle", "ls", "--limit", ROWS];
        arguments.extend(more);
        let said = self.scene.operator.json(&arguments)?;
        Ok(serde_json::from_value(said["rows"].clone())?)
    }

    fn differences(&self) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        let open = self.rows(&["--open"])?.len();
        if open > 0 {
            differences.push(format!("{open} rows are open"));
        }
        let rows = self.rows(&[])?;
        let deckies = self.scene.operator.deckies()?;
        let hosts = self.scene.operator.hosts()?;
        for player in &self.players {
            let host = hosts.get(player.name).context("a host is not known any more")?;
            if !(host.converged && host.accepted_generation == Some(host.generation)) {
                differences.push(format!("the master has of {}: {host:?}", player.name));
            }
        }
        // As long as somebody still works, there is no sense in looking closer.
        if !differences.is_empty() {
            return Ok(differences);
        }
        absent_deckies_are_gone_by_their_rows(&rows, &deckies, &mut differences);
        let mut addresses = BTreeMap::new();
        for player in &self.players {
            let own: BTreeMap<&str, &Decky> = deckies
                .iter()
                .filter(|(_, decky)| decky.host_uuid == player.host)
                .map(|(name, decky)| (name.as_str(), decky))
                .collect();
            let containers = engine::containers(&player.host)?;
            player.compare(&own, &containers, &mut differences);
            self.compare_ledger(player, &mut differences)?;
            for (name, container) in containers {
                let Some((address, mac)) = container.endpoint() else {
                    continue;
                };
                for identity in [address, mac] {
                    if let Some(other) = addresses.insert(identity.clone(), name.clone()) {
                        differences.push(format!("{name} and {other} have {identity}"));
                    }
                }
            }
        }
        Ok(differences)
    }

    /// The ledger knows no operation otherwise than the master does, and keeps nothing to itself.
    fn compare_ledger(&self, player: &Player, differences: &mut Vec<String>) -> Result<()> {
        let said = player.agent.command(&["status", "--json"])?.ok()?;
        let status: Value = serde_json::from_str(&said)?;
        let name = player.name;
        if status["waiting_events"] != 0 {
            differences.push(format!("{name} keeps {} events", status["waiting_events"]));
        }
        let operations = status["operations"].as_object().context("no operations")?;
        let ids: Vec<String> = operations.keys().cloned().collect();
        for row in self.scene.operator.rows_of(&ids)? {
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
            status["host"] == player.host.as_str(),
            "{name} says that it is another host: {}",
            status["host"]
        );
        Ok(())
    }
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

impl Player {
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
        if !deckies.is_empty()
            && let Some(answers) = deckies.values().next()
            && let Ok(mac) = self.lan.mac_of(&answers.ip)
            && mac != answers.mac
        {
            differences.push(format!("{mac} answers for {} on the LAN", answers.ip));
        }
    }
}
