//! An agent's clock that is set a year ahead or a year back: nothing that runs is touched, nothing fails for it, and once it is right everything goes on by itself.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine;
use decnet_tests::fleet::SETTLED;
use decnet_tests::lan::Lan;
use decnet_tests::processes::{Agent, Clock, tail};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

const YEAR: i64 = 365 * 24 * 3600;
const HOST: &str = "edge";

/// A host with one decky, a clock, and what must not change.
struct Stage {
    agent: Agent,
    scene: Scene,
    lan: Lan,
    agents: Clock,
    host: String,
    decky: String,
    start: Instant,
}

impl Stage {
    fn set() -> Result<Self> {
        let mut scene = Scene::swarm("clocks")?;
        let agents = Clock::right(scene.folder(), "agent")?;
        let lan = Lan::create(&scene.seed)?;
        let mut agent = Agent::new(scene.folder(), HOST);
        agent.environment = agents.environment()?;
        let host = scene.join(&mut agent, HOST, &lan, &[])?;
        scene.explained(scene.operator.active(HOST))?;
        let decky = format!("{}-d", scene.prefix);
        let text = format!("{}\n[{decky}]\nservices = redis\n", lan.general());
        let rows = scene
            .operator
            .deploy(&scene.describe("fleet.ini", &text)?, false)?;
        scene.explained(scene.operator.succeeded(&rows))?;
        Ok(Self {
            agent,
            scene,
            lan,
            agents,
            host,
            decky,
            start: Instant::now(),
        })
    }

    /// What each container is, so that one that was made anew or started again is told.
    fn identities(&self) -> Result<BTreeMap<String, (String, String)>> {
        let containers = engine::containers(&self.host)?.into_values();
        Ok(containers
            .map(|container| {
                let running = if container.running { "runs" } else { "stopped" };
                (
                    container.name,
                    (container.id, format!("{running} since {}", container.started_at)),
                )
            })
            .collect())
    }

    fn base(&self) -> Result<(String, String)> {
        let name = format!("decnet-{}-base-1", self.decky);
        self.identities()?.remove(&name).context("no base")
    }

    /// Asks for other services under a clock that is wrong, waits until `noticed` says something, sets it right, and
    /// waits for the services. In between nothing may have been touched.
    fn wrong(
        &self,
        what: &str,
        ahead: i64,
        noticed: impl Fn(&Self, &str) -> Result<Option<String>>,
    ) -> Result<()> {
        let before = self.identities()?;
        let base = self.base()?;
        self.agents.set(ahead)?;
        let row = self.scene.operator.mutate(&self.decky)?;
        let seen = until(&format!("{what}: it is noticed"), SETTLED, || {
            Ok(match noticed(self, &row)? {
                Some(text) => Seen::Done(text),
                None => Seen::not_yet(format!(
                    "{:?}; rows: {:?}",
                    self.scene.operator.hosts()?,
                    self.scene.operator.rows()?
                )),
            })
        });
        let seen = self.explained(seen)?;
        println!("{:6.1} s  {what}: {seen}", self.start.elapsed().as_secs_f64());
        let now = &self.scene.operator.rows_of(std::slice::from_ref(&row))?[0];
        if now.status != "succeeded" {
            ensure!(!now.is_terminal(), "{what}: a wrong clock ended {now:?}");
            ensure!(self.identities()? == before, "{what}: something was touched");
        }
        self.agents.set(0)?;
        self.goes_on(what, &row)?;
        ensure!(self.base()? == base, "{what}: the base was touched");
        println!("{:6.1} s  {what}: over", self.start.elapsed().as_secs_f64());
        Ok(())
    }

    fn goes_on(&self, what: &str, row: &str) -> Result<()> {
        let rows = self.scene.operator.succeeded(&[row.to_owned()]);
        self.explained(rows.with_context(|| format!("{what}, clocks right again")))?;
        let host = self.scene.operator.settled(HOST)?;
        ensure!(host.status == "active", "{what}: the host is {}", host.status);
        Ok(())
    }

    fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        let outcome = self.scene.explained(outcome);
        outcome.with_context(|| format!("the agent's log ends with:\n{}", tail(&self.agent.log)))
    }
}

/// What the master says that the host refuses, once it names the clocks.
fn refused(stage: &Stage, _: &str) -> Result<Option<String>> {
    let hosts = stage.scene.operator.hosts()?;
    let reason = hosts.get(HOST).and_then(|host| host.reason.clone());
    Ok(reason.filter(|reason| reason.contains("clock")))
}

/// The operation went on all the same.
fn done(stage: &Stage, row: &str) -> Result<Option<String>> {
    let rows = stage.scene.operator.rows_of(&[row.to_owned()])?;
    Ok(rows
        .first()
        .filter(|row| row.status == "succeeded")
        .map(|_| "it goes on all the same".to_owned()))
}

#[test]
fn no_clock_that_is_set_touches_what_runs_and_all_goes_on_when_it_is_right() -> Result<()> {
    let stage = Stage::set()?;
    // The time that the master last signed counts as well.
    stage.wrong("the agent's clock a year back", -YEAR, done)?;
    stage.wrong("the agent's clock a year ahead", YEAR, refused)?;

    let Stage {
        agent, scene, lan, ..
    } = stage;
    let ended = scene.end();
    drop((agent, lan));
    ended
}
