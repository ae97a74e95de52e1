//! The agent's own program dies before and after its commits and its calls to the engine, in the middle of everything
//! that an operator may ask for. Started again, it brings that to its end, once.
//!
//! A few points are drawn from the seed; `make crashes` takes one after the other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::agreement::{self, Local};
use decnet_tests::command::{SHORT, run};
use decnet_tests::engine;
use decnet_tests::fleet::{Decky, SETTLED};
use decnet_tests::lan::Lan;
use decnet_tests::own_engine::OwnEngine;
use decnet_tests::processes::{Agent, Process, bin, tail};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// The kinds of points, as `decnet_docker::crash` has them.
const KINDS: [&str; 4] = ["before-commit", "after-commit", "before-call", "after-call"];
/// All of them, in the order in which they are passed.
const ANY: &str = "any";
/// How many points of each operation are drawn, each of another kind.
const DRAWN: usize = 3;
const HOST: &str = "edge";

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Deploy,
    /// A setting of a service changes.
    Update,
    Mutate,
    /// The host's deckies are attached in another way: with ipvlan where the kernel has it, else in another mode.
    Driver,
    Teardown,
}

impl Operation {
    /// In an order in which they can follow each other for ever.
    const ALL: [Self; 5] = [
        Self::Deploy,
        Self::Update,
        Self::Mutate,
        Self::Driver,
        Self::Teardown,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::Update => "update",
            Self::Mutate => "mutate",
            Self::Driver => "driver",
            Self::Teardown => "teardown",
        })
    }
}

/// Where the agent is to die: at the so-manyth passing of a point, counted from when the operation is asked for.
#[derive(Debug, Clone, Copy)]
struct Point {
    name: &'static str,
    number: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.number)
    }
}

/// What became of the points of one operation.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    /// How many there were in an undisturbed run.
    points: u64,
    /// At how many the agent died, and all was well afterwards.
    survived: u64,
    /// How many were not passed that time: what is done does not need the same commits and calls each time.
    not_reached: u64,
}

/// A host with one decky, and everything that has to agree about it. Ended from top to bottom.
struct Stage {
    agent: Agent,
    /// Reads the master's events.
    listener: Process,
    scene: Scene,
    lan: Lan,
    engine: OwnEngine,
    host: String,
    decky: String,
    /// What the agent is told by.
    order: PathBuf,
    /// Where it counts.
    count: PathBuf,
    heard: PathBuf,
    /// The kernel has ipvlan.
    ipvlan: bool,
    /// The host's network is as it was not at first.
    other_network: bool,
    updates: u32,
    /// What the decky was when all was well last.
    was: Option<Decky>,
    /// Every operation so far.
    rows: RefCell<Vec<String>>,
}

impl Stage {
    fn set() -> Result<Self> {
        // It fails at once when it was not built.
        bin("decnet-agent-crashing")?;
        let engine = OwnEngine::start()?;
        engine::ask(engine.socket());
        let mut scene = Scene::swarm("agent crash")?;
        let lan = Lan::create(&scene.seed)?;
        let (order, count, heard) = (
            scene.folder().join("order"),
            scene.folder().join("count"),
            scene.folder().join("events"),
        );
        let mut listen = Command::new(bin("decnet")?);
        listen
            .args(["events", "--json", "--topic", "decky.*.lifecycle"])
            .arg("--socket")
            .arg(&scene.master.socket);
        let listener = Process::start(&mut listen, &heard)?;
        let mut agent = Agent::new(scene.folder(), HOST).with_engine(engine.socket());
        agent.program = "decnet-agent-crashing";
        agent.environment = vec![
            ("DECNET_CRASH_ORDER", order.clone().into_os_string()),
            ("DECNET_CRASH_COUNT", count.clone().into_os_string()),
        ];
        let host = scene.join(&mut agent, HOST, &lan, &[])?;
        scene.explained(scene.operator.active(HOST))?;
        Ok(Self {
            decky: format!("{}-d", scene.prefix),
            ipvlan: kernel_has_ipvlan()?,
            agent,
            listener,
            scene,
            lan,
            engine,
            host,
            order,
            count,
            heard,
            other_network: false,
            updates: 0,
            was: None,
            rows: RefCell::default(),
        })
    }

    /// From now on the agent counts, and dies at `point`.
    fn order(&self, point: Option<Point>) -> Result<()> {
        let text = point.map(|point| point.to_string()).unwrap_or_default();
        // It may look at any moment.
        let whole = self.order.with_extension("new");
        std::fs::write(&whole, text)?;
        Ok(std::fs::rename(whole, &self.order)?)
    }

    /// No agent that starts from now on dies.
    fn disarm(&self) -> Result<()> {
        Ok(std::fs::remove_file(&self.order)?)
    }

    /// Asks the master for it.
    fn ask(&mut self, operation: Operation) -> Result<()> {
        let operator = &self.scene.operator;
        let decky = self.decky.as_str();
        let rows = match operation {
            Operation::Deploy => operator.deploy(&self.description()?, false)?,
            Operation::Update => {
                self.updates += 1;
                operator.deploy(&self.description()?, true)?
            }
            Operation::Mutate => vec![operator.mutate(decky)?],
            Operation::Driver => {
                self.other_network = !self.other_network;
                let network = match (self.ipvlan, self.other_network) {
                    (true, true) => ["--driver", "ipvlan"],
                    (true, false) => ["--driver", "macvlan"],
                    (false, true) => ["--mode", "private"],
                    (false, false) => ["--mode", "bridge"],
                };
                let mut arguments = vec!["host", "network", HOST];
                arguments.extend(network);
                operator.command(&arguments)?.ok()?;
                Vec::new()
            }
            Operation::Teardown => {
                let said = operator.json(&["decky", "rm", decky])?;
                let ids = said["lifecycle_ids"].as_array().context("no lifecycle_ids")?;
                ids.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
        };
        self.rows.borrow_mut().extend(rows);
        Ok(())
    }

    fn description(&self) -> Result<PathBuf> {
        let (general, decky, version) = (self.lan.general(), &self.decky, self.version());
        let text = format!("{general}\n[{decky}]\nservices = redis\n[{decky}.redis]\nversion = {version}\n");
        self.scene.describe("fleet.ini", &text)
    }

    fn version(&self) -> String {
        format!("7.2.{}", self.updates)
    }

    fn worker(&self) -> Local<'_> {
        Local {
            name: HOST,
            host: &self.host,
            agent: &self.agent,
            lan: &self.lan,
            own_macs: !(self.ipvlan && self.other_network),
        }
    }

    fn agreement(&self) -> Seen<()> {
        agreement::look(&self.scene.operator, &[&self.worker()])
    }

    fn agree(&self) -> Result<()> {
        until("everybody agrees", SETTLED, || Ok(self.agreement()))
            .with_context(|| format!("the agent's log ends with:\n{}", tail(&self.agent.log)))
    }

    /// Does it undisturbed, and counts how often each point is passed until all is done.
    fn counted(&mut self, operation: Operation) -> Result<BTreeMap<String, u64>> {
        self.order(None)?;
        self.ask(operation)?;
        self.agree()?;
        let text = std::fs::read_to_string(&self.count)?;
        self.disarm()?;
        self.check(operation)?;
        self.again()?;
        let counts = text.lines().map(|line| {
            let (name, number) = line.split_once(' ').context("no number")?;
            Ok((name.to_owned(), number.parse()?))
        });
        counts.collect()
    }

    /// Counting begins anew, once what an agent does at its start is done.
    fn again(&mut self) -> Result<()> {
        self.agent.stop()?;
        self.agent.start()?;
        self.agree()
    }

    /// Does it with an agent that dies at `point`. Whether it was passed.
    fn crashed(&mut self, operation: Operation, point: Point) -> Result<bool> {
        self.order(Some(point))?;
        self.ask(operation)?;
        let died = until("the agent dies or has done all", SETTLED, || {
            if self.agent.aborted()? {
                return Ok(Seen::Done(true));
            }
            Ok(match self.agreement() {
                Seen::Done(()) => Seen::Done(false),
                Seen::NotYet(found) => Seen::NotYet(found),
            })
        })?;
        self.disarm()?;
        // It may die of what is not part of the operation any more.
        if died || self.agent.aborted()? {
            self.agent.start()?;
        } else {
            self.again()?;
        }
        self.agree()?;
        self.check(operation)?;
        Ok(died)
    }

    /// What was asked for is there, and nothing else.
    fn check(&mut self, operation: Operation) -> Result<()> {
        let ids = self.rows.borrow().clone();
        // What came last is what this is about; the others were looked at before.
        for row in self
            .scene
            .operator
            .succeeded(&ids[ids.len().saturating_sub(2)..])?
        {
            self.once(&row.id)?;
        }
        let containers = engine::containers(&self.host)?;
        let all = engine::docker(&["ps", "-aq"])?;
        ensure!(
            all.lines().count() == containers.len(),
            "not everything on the engine is the host's: {all}"
        );
        let networks = engine::networks(&self.host)?;
        if operation == Operation::Teardown {
            ensure!(
                containers.is_empty(),
                "containers are left: {:?}",
                containers.keys()
            );
            ensure!(networks.is_empty(), "networks are left: {networks:?}");
            self.was = None;
            return Ok(());
        }
        let [network] = networks.as_slice() else {
            bail!("one network is expected: {networks:?}");
        };
        self.check_network(network)?;
        let decky = self.scene.operator.decky(&self.decky)?;
        if let Some(was) = &self.was {
            ensure!(
                (&was.ip, &was.mac) == (&decky.ip, &decky.mac),
                "{was:?} has become {decky:?}"
            );
            let same = was.services == decky.services;
            ensure!(
                (operation == Operation::Driver) <= same && (operation == Operation::Mutate) <= !same,
                "after {operation}, {:?} are {:?}",
                was.services,
                decky.services
            );
        }
        if matches!(operation, Operation::Deploy | Operation::Update) {
            ensure!(
                decky.services == ["redis"],
                "the services are {:?}",
                decky.services
            );
            let service = format!("decnet-{}-redis-1", self.decky);
            let service = containers.get(&service).context("no redis")?;
            ensure!(
                service.raw.to_string().contains(&self.version()),
                "redis is not of version {}",
                self.version()
            );
        }
        self.was = Some(decky);
        Ok(())
    }

    fn check_network(&self, network: &str) -> Result<()> {
        let said = engine::docker(&["network", "inspect", network])?;
        let said: Value = serde_json::from_str(&said)?;
        let (driver, mode) = (&said[0]["Driver"], &said[0]["Options"]["macvlan_mode"]);
        let right = match (self.ipvlan, self.other_network) {
            (true, true) => driver == "ipvlan",
            (false, true) => driver == "macvlan" && mode == "private",
            (_, false) => driver == "macvlan" && mode != "private",
        };
        ensure!(right, "the network is {driver}, mode {mode}");
        Ok(())
    }

    /// A row went on from each state to the next one.
    fn once(&self, id: &str) -> Result<()> {
        let said = self.scene.operator.json(&["lifecycle", "show", id])?;
        let transitions = said["rows"][0]["transitions"]
            .as_array()
            .context("no transitions")?;
        let states: Vec<&str> = transitions
            .iter()
            .filter_map(|transition| transition["status"].as_str())
            .collect();
        ensure!(
            states == ["pending", "running", "succeeded"],
            "{id} went through {states:?}"
        );
        Ok(())
    }

    /// Whoever listened to the master all the time was told everything, and nothing twice.
    fn told_once(&mut self) -> Result<()> {
        let expected = self.rows.borrow().len();
        let heard = until("every end was announced", SETTLED, || {
            self.listener.check()?;
            let heard = announced(&self.heard)?;
            let ends = heard.keys().filter(|(_, status)| status == "succeeded").count();
            Ok(if ends == expected {
                Seen::Done(heard)
            } else {
                Seen::not_yet(format!("{ends} of {expected}"))
            })
        })?;
        let twice: Vec<_> = heard.iter().filter(|(_, times)| **times != 1).collect();
        ensure!(twice.is_empty(), "announced more than once: {twice:?}");
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.told_once()?;
        let Self {
            agent,
            listener,
            scene,
            lan,
            engine,
            ..
        } = self;
        let ended = scene.end();
        drop((agent, listener, lan, engine));
        ended
    }
}

/// How often each row was announced in each state.
fn announced(heard: &Path) -> Result<BTreeMap<(String, String), u32>> {
    let mut found = BTreeMap::new();
    let text = std::fs::read_to_string(heard)?;
    // The last line may not be whole yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
        let event = event.get("data").unwrap_or(&event);
        let text = |key: &str| {
            event[key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {key}: {line}"))
        };
        *found.entry((text("lifecycle_id")?, text("status")?)).or_default() += 1;
    }
    Ok(found)
}

/// Whether this machine's kernel makes ipvlan links, tried in a namespace that goes with the shell.
fn kernel_has_ipvlan() -> Result<bool> {
    let script = "ip link add ground type veth peer name other && ip link add try link ground type ipvlan";
    let tried = run(Command::new("unshare").args(["--net", "sh", "-c", script]), SHORT)?;
    Ok(tried.ok().is_ok())
}

/// Every so-manyth point, beginning with a certain one, so that several runs can share all of them.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: u64,
    of: u64,
}

impl Part {
    /// From `DECNET_CRASH_ALL`: `2/3` is the second part of three, 1 is all; none when it is not set.
    fn asked() -> Result<Option<Self>> {
        let Ok(text) = std::env::var("DECNET_CRASH_ALL") else {
            return Ok(None);
        };
        let (first, of) = text.split_once('/').unwrap_or(("1", "1"));
        let part = Self {
            first: first.parse()?,
            of: of.parse()?,
        };
        ensure!(
            (1..=part.of).contains(&part.first),
            "DECNET_CRASH_ALL={text}: 1, or 2/3 for the second part of three"
        );
        Ok(Some(part))
    }

    fn has(self, number: u64) -> bool {
        number % self.of == self.first % self.of
    }
}

/// Which points are tried, in which order, by operation: all of a part, or some that are drawn.
fn orders(
    stage: &Stage,
    counts: &BTreeMap<Operation, BTreeMap<String, u64>>,
    part: Option<Part>,
) -> BTreeMap<Operation, Vec<Point>> {
    let counts = counts.iter().enumerate();
    counts
        .map(|(index, (operation, counts))| {
            let count = |name: &str| counts.get(name).copied().unwrap_or_default();
            let points = if let Some(part) = part {
                (1..=count(ANY))
                    .filter(|number| part.has(*number))
                    .map(|number| Point { name: ANY, number })
                    .collect()
            } else {
                (0..DRAWN)
                    .map(|drawn| KINDS[(index + drawn) % KINDS.len()])
                    .filter(|name| count(name) > 0)
                    .map(|name| Point {
                        name,
                        number: 1 + u64::from(
                            stage.scene.seed.below(u32::try_from(count(name)).unwrap_or(1)),
                        ),
                    })
                    .collect()
            };
            (*operation, points)
        })
        .collect()
}

#[test]
fn an_agent_that_dies_at_any_commit_or_call_brings_everything_to_its_end_once() -> Result<()> {
    let part = Part::asked()?;
    let mut stage = Stage::set()?;
    println!("the kernel has ipvlan: {}", stage.ipvlan);
    let mut counts = BTreeMap::new();
    let mut tally: BTreeMap<Operation, Tally> = BTreeMap::new();
    for operation in Operation::ALL {
        let counted = stage.counted(operation).with_context(|| operation.to_string())?;
        println!("{operation}: {counted:?}");
        ensure!(
            KINDS
                .iter()
                .all(|kind| counted.get(*kind).is_some_and(|n| *n > 0)),
            "{operation} does not pass every kind of point"
        );
        tally.entry(operation).or_default().points = counted.get(ANY).copied().unwrap_or_default();
        counts.insert(operation, counted);
    }
    let mut left = orders(&stage, &counts, part);
    for points in left.values_mut() {
        // The first one is taken from the end.
        points.reverse();
    }
    let start = Instant::now();
    let mut there = false;
    while left.values().any(|points| !points.is_empty()) {
        for operation in Operation::ALL {
            let point = left.get_mut(&operation).and_then(Vec::pop);
            let point = match (operation, point) {
                (_, Some(point)) => point,
                // Without a decky there is nothing else.
                (Operation::Deploy, None) if !there => {
                    stage.ask(operation)?;
                    stage.agree()?;
                    stage.check(operation)?;
                    there = true;
                    continue;
                }
                (Operation::Teardown, None) if !left[&Operation::Deploy].is_empty() => {
                    stage.ask(operation)?;
                    stage.agree()?;
                    stage.check(operation)?;
                    there = false;
                    continue;
                }
                _ => continue,
            };
            let began = Instant::now();
            let died = stage
                .crashed(operation, point)
                .with_context(|| format!("{operation}, {point}"));
            let died = stage.scene.explained(died)?;
            there = operation != Operation::Teardown;
            let tally = tally.entry(operation).or_default();
            if died {
                tally.survived += 1;
            } else {
                tally.not_reached += 1;
            }
            println!(
                "{:7.1} s  {operation}, {point}: {}, well after {:.1} s",
                start.elapsed().as_secs_f64(),
                if died { "died" } else { "not passed" },
                began.elapsed().as_secs_f64()
            );
        }
    }
    for (operation, tally) in &tally {
        println!(
            "{operation}: of {} points, {} survived, {} not passed that time",
            tally.points, tally.survived, tally.not_reached
        );
    }
    // What an operation needs differs from time to time, but not by half.
    let sum = |of: fn(&Tally) -> u64| tally.values().map(of).sum::<u64>();
    let (survived, not_reached) = (sum(|tally| tally.survived), sum(|tally| tally.not_reached));
    ensure!(
        survived > not_reached,
        "{survived} agents died, {not_reached} did not"
    );
    stage.end()
}
