//! Clocks of an agent and of a master that are set a year ahead, a year back, or stand at 1970: nothing that runs is touched,
//! nothing fails for it, and once they are right everything goes on by itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine;
use decnet_tests::fleet::SETTLED;
use decnet_tests::lan::Lan;
use decnet_tests::processes::{Agent, Clock, tail};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

const YEAR: i64 = 365 * 24 * 3600;
const HOST: &str = "edge";

/// A host with one decky, two clocks, and what must not change.
struct Stage {
    agent: Agent,
    scene: Scene,
    lan: Lan,
    agents: Clock,
    /// How much of the agent's log was read.
    read: Cell<usize>,
    masters: Clock,
    host: String,
    decky: String,
    start: Instant,
}

impl Stage {
    fn set() -> Result<Self> {
        let mut scene = Scene::prepare("clocks", |master, _| Ok(master.without_worker()))?;
        let masters = Clock::right(scene.folder(), "master")?;
        let agents = Clock::right(scene.folder(), "agent")?;
        scene.master.environment = masters.environment()?;
        scene.master.start()?;
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
            read: Cell::default(),
            masters,
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

    /// Asks for other services under clocks that are wrong, waits until `noticed` says something, sets the clocks right, and
    /// waits for the services. In between nothing may have been touched.
    fn wrong(
        &self,
        what: &str,
        (agents, masters): (i64, i64),
        noticed: impl Fn(&Self, &str) -> Result<Option<String>>,
    ) -> Result<()> {
        let before = self.identities()?;
        let base = self.base()?;
        self.read_log()?;
        self.agents.set(agents)?;
        self.masters.set(masters)?;
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
        self.masters.set(0)?;
        self.goes_on(what, &row)?;
        ensure!(self.base()? == base, "{what}: the base was touched");
        println!("{:6.1} s  {what}: over", self.start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the log says up to now is of no interest any more.
    fn read_log(&self) -> Result<()> {
        self.read.set(std::fs::read_to_string(&self.agent.log)?.len());
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

/// What the agent's log says about clocks since it was looked at last.
fn warned(stage: &Stage, _: &str) -> Result<Option<String>> {
    let log = std::fs::read_to_string(&stage.agent.log)?;
    let new = log.get(stage.read.get()..).unwrap_or_default();
    Ok(new
        .lines()
        .find(|line| line.contains("clocks"))
        .map(str::to_owned))
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
    let mut stage = Stage::set()?;
    // The time that the master last signed counts as well.
    stage.wrong("the agent's clock a year back", (-YEAR, 0), done)?;
    stage.wrong("the agent's clock a year ahead", (YEAR, 0), refused)?;
    stage.wrong("the master's clock a year ahead", (0, YEAR), warned)?;
    stage.wrong("the master's clock a year back", (0, -YEAR), warned)?;

    let before = stage.identities()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    stage.agent.stop()?;
    stage.read_log()?;
    stage.agents.set(60 - i64::try_from(now)?)?;
    stage.agent.start()?;
    let row = stage.scene.operator.mutate(&stage.decky)?;
    let said = until("the agent says what it makes of 1970", SETTLED, || {
        Ok(match warned(&stage, &row)? {
            Some(line) => Seen::Done(line),
            None => Seen::not_yet(tail(&stage.agent.log)),
        })
    })?;
    println!("1970: {said}");
    ensure!(stage.identities()? == before, "1970: something was touched");
    stage.agents.set(0)?;
    stage.goes_on("1970", &row)?;
    println!("{:6.1} s  1970: over", stage.start.elapsed().as_secs_f64());

    let Stage {
        agent, scene, lan, ..
    } = stage;
    let ended = scene.end();
    drop((agent, lan));
    ended
}
