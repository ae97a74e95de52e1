//! Contenders that are commands: `docker compose` and `decnet-agent compose`, over the same file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::processes::bin;
use serde_json::{Value, json};

use crate::project::Project;

pub(crate) struct Command {
    program: OsString,
    first: &'static [&'static str],
    /// What makes `up` return once everything runs.
    up: &'static [&'static str],
    name: &'static str,
    file: PathBuf,
    changed: PathBuf,
    document: Value,
}

impl Command {
    pub(crate) fn compose(project: &Project, folder: &Path) -> Result<Self> {
        Self::new(
            "docker".into(),
            &["compose"],
            &["up", "-d"],
            "bench-compose",
            project,
            folder,
        )
    }

    pub(crate) fn ours(project: &Project, folder: &Path) -> Result<Self> {
        let program = bin("decnet-agent")?.into_os_string();
        Self::new(program, &["compose"], &["up"], "bench-ours", project, folder)
    }

    fn new(
        program: OsString,
        first: &'static [&'static str],
        up: &'static [&'static str],
        name: &'static str,
        project: &Project,
        folder: &Path,
    ) -> Result<Self> {
        let document = project.compose()?;
        let file = folder.join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec(&document)?)?;
        let changed = folder.join(format!("{name}-changed.json"));
        Ok(Self {
            program,
            first,
            up,
            name,
            file,
            changed,
            document,
        })
    }

    pub(crate) fn up(&self) -> Result<Duration> {
        self.run(&self.file, self.up)
    }

    /// Again, with nothing to do.
    pub(crate) fn idle(&self) -> Result<Duration> {
        self.run(&self.file, self.up)
    }

    /// Again, with another environment for one service.
    pub(crate) fn change(&self, round: usize) -> Result<Duration> {
        let mut document = self.document.clone();
        let services = document["services"].as_object_mut().context("no services")?;
        let service = services
            .iter_mut()
            .find(|(_, service)| service["network_mode"].is_string());
        let (_, service) = service.context("no service that joins another")?;
        let variables = service["environment"].as_array_mut().context("no environment")?;
        variables.push(json!(format!("BENCH_ROUND={round}")));
        std::fs::write(&self.changed, serde_json::to_vec(&document)?)?;
        self.run(&self.changed, self.up)
    }

    pub(crate) fn down(&self) -> Result<Duration> {
        self.run(&self.changed, &["down"])
    }

    fn run(&self, file: &Path, arguments: &[&str]) -> Result<Duration> {
        let begun = Instant::now();
        let output = Program::new(&self.program)
            .args(self.first)
            .args(["-p", self.name, "-f"])
            .arg(file)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let took = begun.elapsed();
        ensure!(
            output.status.success(),
            "{} {arguments:?} failed: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }
}
