//! The two programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::fixture::Fixture;
use crate::command::{Finished, program, run};
use crate::engine::{HOST_LABEL, docker};
use crate::processes::bin;

/// One run of a program. A busy machine with two cores takes its time for thirty containers.
pub const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `docker compose`, the measure.
    Compose,
    /// `decnet-agent compose`.
    Ours,
}

impl Contender {
    /// Runs a command on a fixture's copy.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does not end.
    pub fn run(
        self,
        fixture: &Fixture,
        folder: &Path,
        environment: &BTreeMap<String, String>,
        command: &[&str],
    ) -> Result<Finished> {
        let mut process = self.command(folder)?;
        process
            .args(&fixture.arguments)
            .args(command)
            .envs(environment)
            .envs(&fixture.environment);
        run(&mut process, LIMIT)
    }

    /// The program, to be told what to do in a folder.
    ///
    /// # Errors
    ///
    /// When it was not built.
    pub fn command(self, folder: &Path) -> Result<Command> {
        let mut process = match self {
            // Odd files make it take all memory there is. In KiB.
            Self::Compose => program(
                "bash",
                &[
                    "-c",
                    r#"ulimit -v 4000000 && exec docker compose --ansi=never --progress=plain "$@""#,
                    "compose",
                ],
            ),
            Self::Ours => {
                let mut process = Command::new(bin("decnet-agent")?);
                process.arg("compose");
                process
            }
        };
        process.current_dir(folder).env_clear();
        for name in ["PATH", "HOME", "DOCKER_HOST"] {
            if let Some(value) = std::env::var_os(name) {
                process.env(name, value);
            }
        }
        Ok(process)
    }

    /// The document that `config` makes of a fixture's copy, without an engine.
    ///
    /// # Errors
    ///
    /// When it fails, or does not end.
    pub fn config(
        self,
        fixture: &Fixture,
        folder: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Value> {
        let said = self.run(fixture, folder, environment, &["config", "--format", "json"])?;
        let text = said.ok()?;
        serde_json::from_str(&text).with_context(|| format!("config said {text:?}"))
    }

    /// The label that has the project's name.
    #[must_use]
    pub fn project_label(self) -> &'static str {
        match self {
            Self::Compose => "com.docker.compose.project",
            Self::Ours => crate::engine::STACK_LABEL,
        }
    }

    /// The project's containers, networks and volumes, as the engine inspects them.
    ///
    /// # Errors
    ///
    /// When the engine does not answer.
    pub fn inspect(self, project: &str) -> Result<Inspected> {
        let filter = format!("label={}={project}", self.project_label());
        let inspect = |kind: &str, ids: &str| -> Result<Vec<Value>> {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let mut arguments = vec!["inspect", "--type", kind];
            arguments.extend(ids);
            let text = docker(&arguments)?;
            serde_json::from_str(&text).with_context(|| format!("docker inspect said {text:?}"))
        };
        let containers = inspect(
            "container",
            &docker(&["ps", "-aq", "--no-trunc", "--filter", &filter])?,
        )?;
        let (networks, volumes) = match self {
            Self::Compose => (
                docker(&["network", "ls", "-q", "--filter", &filter])?,
                docker(&["volume", "ls", "-q", "--filter", &filter])?,
            ),
            Self::Ours => {
                // These carry the project's id only, which its containers tell.
                let id = containers
                    .iter()
                    .find_map(|container| container["Config"]["Labels"][HOST_LABEL].as_str());
                let own = |kind: &str, format: &str| -> Result<String> {
                    let filter = match id {
                        Some(id) => format!("label={HOST_LABEL}={id}"),
                        None => format!("name=^{project}_"),
                    };
                    docker(&[kind, "ls", "--filter", &filter, "--format", format])
                };
                (own("network", "{{.ID}}")?, own("volume", "{{.Name}}")?)
            }
        };
        Ok(Inspected {
            containers,
            networks: inspect("network", &networks)?,
            volumes: inspect("volume", &volumes)?,
        })
    }

    /// The ids of the project's containers, by name.
    ///
    /// # Errors
    ///
    /// When the engine does not answer.
    pub fn ids(self, project: &str) -> Result<BTreeMap<String, String>> {
        let filter = format!("label={}={project}", self.project_label());
        let format = "{{.Names}}\t{{.ID}}";
        let text = docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format])?;
        let rows = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(rows.map(|(name, id)| (name.to_owned(), id.to_owned())).collect())
    }
}

/// A project's objects.
#[derive(Debug, Clone, Default)]
pub struct Inspected {
    pub containers: Vec<Value>,
    pub networks: Vec<Value>,
    pub volumes: Vec<Value>,
}

impl Inspected {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.volumes.is_empty()
    }
}
