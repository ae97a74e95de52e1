//! The operator's side: the `decnet` command with `--json`, and waiting for what it shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::command::{Finished, run};
use crate::processes::bin;
use crate::wait::{Seen, until};

/// How long one command may take. None of them waits for hosts.
const LIMIT: Duration = Duration::from_secs(60);
/// How long deploys, changes and removals may take on a machine that is busy with other things as well.
pub const SETTLED: Duration = Duration::from_secs(120);

/// How long an update may take there, with its way back.
const UPDATED: Duration = Duration::from_secs(150);

/// A lifecycle row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Row {
    pub id: String,
    pub decky_name: String,
    pub host_uuid: Option<String>,
    pub operation: String,
    pub status: String,
    pub error: Option<String>,
}

impl Row {
    /// It will not change any more.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "superseded")
    }

    fn line(&self) -> String {
        let error = self
            .error
            .as_deref()
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        format!("{} {} {}{error}", self.decky_name, self.operation, self.status)
    }
}

#[derive(Debug, Deserialize)]
struct Rows {
    rows: Vec<Row>,
}

/// A decky, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Decky {
    pub name: String,
    pub state: String,
    pub ip: String,
    pub mac: String,
    pub host_uuid: String,
    pub os_family: String,
    pub services: Vec<String>,
    pub mutate_interval: String,
}

/// A host, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Host {
    pub uuid: String,
    pub name: String,
    pub status: String,
    pub embedded: bool,
    pub engine: Option<String>,
    pub generation: u64,
    pub accepted_generation: Option<u64>,
    pub converged: bool,
    pub reason: Option<String>,
    pub deckies: usize,
}

/// The `decnet` command of one master.
#[derive(Debug, Clone)]
pub struct Operator {
    socket: PathBuf,
}

impl Operator {
    /// Speaks over the master's Unix socket.
    #[must_use]
    pub fn on(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Runs a command as a person would, whatever comes of it.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or hangs.
    pub fn command(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(bin("decnet")?);
        // Nothing of the caller's own settings gets in the way.
        for name in ["DECNET_SOCKET", "DECNET_SERVER", "DECNET_CA", "DECNET_TOKEN"] {
            command.env_remove(name);
        }
        command.args(arguments).arg("--socket").arg(&self.socket);
        run(&mut command, LIMIT)
    }

    /// Runs a command with `--json` and reads what it prints.
    ///
    /// # Errors
    ///
    /// When it fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let said = self.command(&all)?.ok()?;
        serde_json::from_str(&said).with_context(|| format!("decnet {arguments:?} printed no JSON: {said:?}"))
    }

    /// Deploys a description; gives the ids of the rows.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn deploy(&self, file: &Path, replace: bool) -> Result<Vec<String>> {
        let file = file.to_str().context("not UTF-8")?;
        let mut arguments = vec!["deploy", file];
        if replace {
            arguments.push("--replace");
        }
        ids(&self.json(&arguments)?)
    }

    /// The steps that each host would take, by the host's id.
    ///
    /// # Errors
    ///
    /// When the description is refused.
    pub fn plan(&self, file: &Path) -> Result<BTreeMap<String, Vec<Value>>> {
        let file = file.to_str().context("not UTF-8")?;
        let plan = self.json(&["plan", file])?;
        let hosts = plan
            .get("hosts")
            .and_then(Value::as_array)
            .context("a plan without hosts")?;
        let mut plans = BTreeMap::new();
        for host in hosts {
            let id = host
                .get("host_uuid")
                .and_then(Value::as_str)
                .context("a plan without a host")?;
            let steps = host
                .get("steps")
                .and_then(Value::as_array)
                .context("a plan without steps")?;
            let blocked = host
                .get("blocked")
                .and_then(Value::as_array)
                .context("a plan without blocked")?;
            ensure!(blocked.is_empty(), "something is in the way: {blocked:?}");
            let steps = steps
                .iter()
                .map(|step| step.get("step").cloned().context("a step without its data"));
            plans.insert(id.to_owned(), steps.collect::<Result<_>>()?);
        }
        Ok(plans)
    }

    /// All deckies, by name.
    ///
    /// # Errors
    ///
    /// When the master does not answer.
    pub fn deckies(&self) -> Result<BTreeMap<String, Decky>> {
        let deckies: Vec<Decky> = serde_json::from_value(self.json(&["decky", "ls"])?)?;
        Ok(deckies
            .into_iter()
            .map(|decky| (decky.name.clone(), decky))
            .collect())
    }

    /// One decky.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn decky(&self, name: &str) -> Result<Decky> {
        Ok(serde_json::from_value(self.json(&["decky", "show", name])?)?)
    }

    /// Gives a decky other services; gives the id of the row.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn mutate(&self, name: &str) -> Result<String> {
        let ids = ids(&self.json(&["decky", "mutate", name])?)?;
        ids.into_iter().next().context("a mutation without a row")
    }

    /// Removes deckies and waits until nothing of them is left.
    ///
    /// # Errors
    ///
    /// When one is not removed.
    pub fn remove(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.command(&["decky", "rm", name])?.ok()?;
        }
        until(&format!("{names:?} are gone"), SETTLED, || {
            let left: Vec<String> = self
                .deckies()?
                .into_keys()
                .filter(|name| names.contains(&name.as_str()))
                .collect();
            Ok(Seen::when(
                left.is_empty(),
                format!("{left:?} are there; rows: {}", self.newest()?),
            ))
        })
    }

    /// Invites a host that has a LAN of its own; gives its id and token.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn enroll(
        &self,
        name: &str,
        lan: Option<&crate::lan::Lan>,
        more: &[&str],
    ) -> Result<(String, String)> {
        let (subnet, gateway);
        let mut arguments = vec!["host", "enroll", name];
        if let Some(lan) = lan {
            (subnet, gateway) = (lan.subnet(), lan.gateway());
            arguments.extend([
                "--interface",
                lan.parent(),
                "--subnet",
                &subnet,
                "--gateway",
                &gateway,
            ]);
        }
        arguments.extend(more);
        let said = self.json(&arguments)?;
        let text = |key: &str| {
            said.get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("no {key}"))
        };
        Ok((text("host_uuid")?, text("token")?))
    }

    /// All hosts, by name.
    ///
    /// # Errors
    ///
    /// When the master does not answer.
    pub fn hosts(&self) -> Result<BTreeMap<String, Host>> {
        let hosts: Vec<Host> = serde_json::from_value(self.json(&["host", "ls"])?)?;
        Ok(hosts.into_iter().map(|host| (host.name.clone(), host)).collect())
    }

    /// Waits until a host is active and its engine answers.
    ///
    /// # Errors
    ///
    /// When it does not become so.
    pub fn active(&self, name: &str) -> Result<Host> {
        until(&format!("the host {name} is active"), SETTLED, || {
            let hosts = self.hosts()?;
            Ok(match hosts.get(name) {
                Some(host) if host.status == "active" && host.engine.is_some() => Seen::Done(host.clone()),
                other => Seen::not_yet(format!("{other:?}")),
            })
        })
    }

    /// Waits until a host has done all that was decided for it.
    ///
    /// # Errors
    ///
    /// When it does not become so.
    pub fn settled(&self, name: &str) -> Result<Host> {
        until(
            &format!("the host {name} has nothing left to do"),
            SETTLED,
            || {
                let hosts = self.hosts()?;
                Ok(match hosts.get(name) {
                    Some(host) if host.converged && host.accepted_generation == Some(host.generation) => {
                        Seen::Done(host.clone())
                    }
                    other => Seen::not_yet(format!("{other:?}")),
                })
            },
        )
    }

    /// Hands a package in as a release, signed with the keys of a folder, and has all hosts install it.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn roll_out(&self, package: &Path, keys: &Path) -> Result<()> {
        let (package, keys) = (package.display().to_string(), keys.display().to_string());
        self.command(&["host", "releases", "add", &package, "--state-dir", &keys])?
            .ok()?;
        self.command(&["host", "update", "--all"])?.ok().map(drop)
    }

    /// Waits until a host says what became of a version.
    ///
    /// # Errors
    ///
    /// When something else becomes of it.
    pub fn update_is(&self, host: &str, version: &str, state: &str) -> Result<Value> {
        until(&format!("{version} is {state}"), UPDATED, || {
            let host = self.json(&["host", "show", host])?;
            let update = host["update"].clone();
            Ok(if update["version"] == version && update["state"] == state {
                Seen::Done(update)
            } else {
                Seen::not_yet(host)
            })
        })
    }

    /// The newest rows, the newest first.
    ///
    /// # Errors
    ///
    /// When the master does not answer.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let rows: Rows = serde_json::from_value(self.json(&["lifecycle", "ls"])?)?;
        Ok(rows.rows)
    }

    /// As many of the newest rows as can be listed at once, the newest first. `more` are options of the listing.
    ///
    /// # Errors
    ///
    /// When the master does not answer.
    pub fn many_rows(&self, more: &[&str]) -> Result<Vec<Row>> {
        let mut arguments = vec!["lifecycle", "ls", "--limit", "1000"];
        arguments.extend(more);
        let rows: Rows = serde_json::from_value(self.json(&arguments)?)?;
        Ok(rows.rows)
    }

    /// The rows of these ids.
    ///
    /// # Errors
    ///
    /// When one is not known.
    pub fn rows_of(&self, ids: &[String]) -> Result<Vec<Row>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = vec!["lifecycle", "show"];
        arguments.extend(ids.iter().map(String::as_str));
        let rows: Rows = serde_json::from_value(self.json(&arguments)?)?;
        ensure!(
            rows.rows.len() == ids.len(),
            "{} rows asked for, {} came",
            ids.len(),
            rows.rows.len()
        );
        Ok(rows.rows)
    }

    /// Waits until these rows have ended, however.
    ///
    /// # Errors
    ///
    /// When one does not end.
    pub fn ended(&self, ids: &[String]) -> Result<Vec<Row>> {
        until("every row ends", SETTLED, || {
            let rows = self.rows_of(ids)?;
            if rows.iter().all(Row::is_terminal) {
                return Ok(Seen::Done(rows));
            }
            Ok(Seen::not_yet(lines(&rows)))
        })
    }

    /// Waits until these rows have succeeded.
    ///
    /// # Errors
    ///
    /// When one ends otherwise.
    pub fn succeeded(&self, ids: &[String]) -> Result<Vec<Row>> {
        let rows = self.ended(ids)?;
        if rows.iter().any(|row| row.status != "succeeded") {
            bail!("not every row succeeded: {}", lines(&rows));
        }
        Ok(rows)
    }

    fn newest(&self) -> Result<String> {
        Ok(lines(&self.rows()?.into_iter().take(10).collect::<Vec<_>>()))
    }
}

fn lines(rows: &[Row]) -> String {
    rows.iter().map(Row::line).collect::<Vec<_>>().join("; ")
}

fn ids(begun: &Value) -> Result<Vec<String>> {
    let ids = begun
        .get("lifecycle_ids")
        .and_then(Value::as_array)
        .context("no lifecycle_ids")?;
    Ok(ids.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}
