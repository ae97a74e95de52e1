//! What most suites begin with: a turn at the engine, a folder, a LAN and a master whose worker uses that engine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::engine::{self, Turn};
use crate::fleet::{Operator, SETTLED};
use crate::lan::Lan;
use crate::processes::{Agent, Master, decoy_reference, tail};
use crate::seed::Seed;
use crate::wait::{Seen, until};

/// A place to play in. Everything on it is removed when it is dropped, whatever went wrong before.
#[derive(Debug)]
pub struct Scene {
    pub master: Master,
    pub operator: Operator,
    pub lan: Lan,
    pub seed: Seed,
    /// What names of deckies begin with: two runs on one engine cannot collide.
    pub prefix: String,
    hosts: Vec<String>,
    /// Alarms in the audit log are what this scene is about.
    alarms: bool,
    /// The decoy image, when the engine does not have it yet.
    image: Option<String>,
    folder: TempDir,
    _turn: Turn,
}

impl Scene {
    /// A master that is initialised and not yet started. `shape` may change how it is started.
    ///
    /// # Errors
    ///
    /// When something that is needed is not there.
    pub fn prepare(suite: &str, shape: impl FnOnce(Master, &Path) -> Result<Master>) -> Result<Self> {
        let turn = engine::turn()?;
        let seed = Seed::announced(suite);
        // Short, because the paths of sockets may have 107 bytes only.
        let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
        let lan = Lan::create(&seed)?;
        let master = shape(Master::init(folder.path())?, folder.path())?;
        let operator = Operator::on(&master.socket);
        let image = decoy_reference()?;
        let image = (!engine::images()?.contains(&image)).then_some(image);
        let prefix = format!("t{}", seed.below(10_000));
        Ok(Self {
            master,
            operator,
            lan,
            seed,
            prefix,
            hosts: Vec::new(),
            alarms: false,
            image,
            folder,
            _turn: turn,
        })
    }

    /// A running master whose own worker is ready.
    ///
    /// # Errors
    ///
    /// When something that is needed is not there.
    pub fn unihost(suite: &str) -> Result<Self> {
        let mut scene = Self::prepare(suite, |master, _| Ok(master))?;
        scene.master.start()?;
        scene.local()?;
        Ok(scene)
    }

    /// A running master without a worker of its own.
    ///
    /// # Errors
    ///
    /// When something that is needed is not there.
    pub fn swarm(suite: &str) -> Result<Self> {
        let mut scene = Self::prepare(suite, |master, _| Ok(master.without_worker()))?;
        scene.master.start()?;
        Ok(scene)
    }

    /// Waits for the master's own worker; gives its host's id.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn local(&mut self) -> Result<String> {
        let host = self
            .operator
            .active("local")
            .with_context(|| format!("the log ends with:\n{}", tail(&self.master.log)))?;
        self.owns(&host.uuid);
        Ok(host.uuid)
    }

    /// The folder for this run's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a description to a file.
    ///
    /// # Errors
    ///
    /// When the disk is full.
    pub fn describe(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Invites, enrols and starts an agent with a LAN of its own; gives it and its host's id.
    ///
    /// # Errors
    ///
    /// When one of these fails.
    pub fn agent(&mut self, name: &str, lan: &Lan, engine: Option<&Path>) -> Result<(Agent, String)> {
        let mut agent = Agent::new(self.folder(), name);
        if let Some(engine) = engine {
            agent = agent.with_engine(engine);
        }
        let host = self.join(&mut agent, name, lan, &[])?;
        Ok((agent, host))
    }

    /// Invites an agent with a LAN of its own, enrols and starts it; gives its host's id. `more` are options of the
    /// invitation.
    ///
    /// # Errors
    ///
    /// When one of these fails.
    pub fn join(&mut self, agent: &mut Agent, name: &str, lan: &Lan, more: &[&str]) -> Result<String> {
        let (host, token) = self.operator.enroll(name, Some(lan), more)?;
        self.owns(&host);
        agent.enrol(&token)?;
        agent.start()?;
        Ok(host)
    }

    /// Remembers a host whose objects must not stay on the engine.
    pub fn owns(&mut self, host: &str) {
        if !self.hosts.iter().any(|known| known == host) {
            self.hosts.push(host.to_owned());
        }
    }

    /// From now on somebody does what raises alarms. Up to here, and everywhere else, there must be none: our own agents
    /// raise none, whatever happens to them.
    ///
    /// # Errors
    ///
    /// When there are some already.
    pub fn expects_alarms(&mut self) -> Result<()> {
        self.no_alarms()?;
        self.alarms = true;
        Ok(())
    }

    fn no_alarms(&self) -> Result<()> {
        let alarms = self.operator.json(&["audit", "--action", "alarm."])?;
        let alarms = &alarms["entries"];
        ensure!(
            alarms.as_array().is_some_and(Vec::is_empty),
            "there are alarms: {alarms:#}"
        );
        Ok(())
    }

    /// Waits until the engine holds exactly these containers for a host, all of them running.
    ///
    /// # Errors
    ///
    /// When it does not become so.
    pub fn exactly(&self, host: &str, deckies: &[(&str, &[&str])]) -> Result<()> {
        let mut expected: Vec<String> = Vec::new();
        for (decky, services) in deckies {
            expected.push(format!("decnet-{decky}-base-1"));
            expected.extend(
                services
                    .iter()
                    .map(|service| format!("decnet-{decky}-{service}-1")),
            );
        }
        expected.sort();
        until(
            &format!("the host runs {expected:?} and nothing else"),
            SETTLED,
            || {
                let containers = engine::containers(host)?;
                let running: Vec<&String> = containers
                    .values()
                    .filter(|container| container.running)
                    .map(|container| &container.name)
                    .collect();
                let all = containers.len() == expected.len();
                Ok(Seen::when(
                    all && running.iter().copied().eq(expected.iter()),
                    format!("{running:?} run of {:?}", containers.keys()),
                ))
            },
        )
    }

    /// Removes every decky, and checks that the engine holds nothing of this scene any more.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn end(self) -> Result<()> {
        self.remove_all()?;
        if !self.alarms {
            self.no_alarms()?;
        }
        self.operator.command(&["audit", "--verify"])?.ok()?;
        until("nothing is left on the engine", SETTLED, || {
            let mut left = Vec::new();
            for host in &self.hosts {
                left.extend(engine::containers(host)?.into_keys());
                left.extend(engine::networks(host)?);
            }
            Ok(Seen::when(left.is_empty(), format!("{left:?}")))
        })
    }

    /// Takes every decky out of the fleet.
    ///
    /// # Errors
    ///
    /// When the master refuses it, or one stays.
    pub fn remove_all(&self) -> Result<()> {
        let names = self.operator.deckies()?;
        let names: Vec<&str> = names.keys().map(String::as_str).collect();
        self.operator.remove(&names)
    }

    /// Fails with the end of the master's log when `outcome` does: what a run in CI leaves to look at.
    ///
    /// # Errors
    ///
    /// Those of `outcome`.
    pub fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| format!("the master's log ends with:\n{}", tail(&self.master.log)))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the master's log ends with:\n{}", tail(&self.master.log));
        }
        // First the one who would bring everything back.
        drop(self.master.kill());
        for host in &self.hosts {
            if let Err(error) = engine::purge(host) {
                eprintln!("something of the host {host} stays on the engine: {error:#}");
            }
        }
        if let Some(image) = &self.image
            && let Err(error) = engine::remove_image(image)
        {
            eprintln!("the image {image} stays on the engine: {error:#}");
        }
    }
}

/// The steps in a host's journal that were begun, as `decnet-agent journal --json` prints them.
///
/// # Errors
///
/// When the agent prints something else.
pub fn journal(agent: &Agent) -> Result<Vec<serde_json::Value>> {
    let said = agent.command(&["journal", "--json", "--limit", "10000"])?.ok()?;
    let entries: Vec<serde_json::Value> =
        serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?;
    entries
        .iter()
        .map(|entry| {
            let step = entry.get("step").cloned().context("an entry without its step")?;
            let outcome = entry.pointer("/outcome/error").filter(|error| !error.is_null());
            ensure!(outcome.is_none(), "a step failed: {entry}");
            Ok(step)
        })
        .collect()
}
