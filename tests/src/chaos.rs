//! A master, two agents, an engine and what connects them, while all of them are killed, stopped, cut off and lied to in an
//! order drawn from a seed, and a script deploys, mutates and removes deckies. At the end everybody is let alone, and then
//! all of them have to agree: [`Stage::agree`].

mod fault;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::agreement::{self, Local, Worker};
use crate::engine;
use crate::engine_proxy::{EngineProxy, Mode};
use crate::lan::Lan;
use crate::link::Link;
use crate::own_engine::OwnEngine;
use crate::processes::Agent;
use crate::scene::Scene;
use crate::wait::{Seen, until};
pub use fault::Fault;

/// How long it may take until all is as it should be again, with hundreds of containers to start.
const PEACE: Duration = Duration::from_secs(900);
/// How often what is not so yet is printed.
const TELL: Duration = Duration::from_secs(20);

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub lasts: Duration,
    /// Deckies that there are at most at one time.
    pub deckies: usize,
}

/// One of the two hosts.
#[derive(Debug)]
struct Player {
    name: &'static str,
    /// Its id.
    host: String,
    agent: Agent,
    /// Between it and the engine.
    engine: EngineProxy,
    /// Between it and the master.
    link: Link,
    lan: Lan,
}

/// Everybody who takes part. Ended from top to bottom.
#[derive(Debug)]
pub struct Stage {
    players: [Player; 2],
    scene: Scene,
    engine: OwnEngine,
    tally: Tally,
}

/// What was done, and what the master answered.
#[derive(Debug, Default)]
pub struct Tally {
    faults: BTreeMap<&'static str, u32>,
    asked: BTreeMap<&'static str, u32>,
    unanswered: u32,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &BTreeMap<&'static str, u32>| {
            of.iter()
                .map(|(what, times)| format!("{what} {times}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        write!(
            f,
            "faults: {}; asked: {}; of these without an answer: {}",
            list(&self.faults),
            list(&self.asked),
            self.unanswered
        )
    }
}

impl Stage {
    /// A master, two enrolled agents, and an engine that holds nothing.
    ///
    /// # Errors
    ///
    /// When something that is needed is not there.
    pub fn set(suite: &str) -> Result<Self> {
        let engine = OwnEngine::start()?;
        engine::ask(engine.socket());
        let mut scene = Scene::swarm(suite)?;
        let players = [
            Player::enter("east", &mut scene, &engine)?,
            Player::enter("west", &mut scene, &engine)?,
        ];
        for player in &players {
            scene.explained(scene.operator.active(player.name))?;
        }
        Ok(Self {
            players,
            scene,
            engine,
            tally: Tally::default(),
        })
    }

    /// Lets everything happen that can happen, then ends all of it.
    ///
    /// # Errors
    ///
    /// When somebody ends who was not killed, or does not start again.
    pub fn play(&mut self, scale: Scale) -> Result<()> {
        let limit = scale.deckies.to_string();
        self.scene.operator.command(&["system", "limit", &limit])?.ok()?;
        let start = Instant::now();
        let mut ills: Vec<(Instant, Fault)> = Vec::new();
        while start.elapsed() < scale.lasts {
            let until = Instant::now() + Duration::from_millis(100 + u64::from(self.scene.seed.below(900)));
            self.heal(&mut ills, until)?;
            if self.scene.seed.below(2) == 0 {
                self.ask(scale.deckies, &ills)?;
                continue;
            }
            let fault = Fault::drawn(&self.scene.seed);
            let lasts = Duration::from_millis(u64::from(self.scene.seed.below(5000)));
            if ills.iter().any(|(_, ill)| ill.excludes(fault)) {
                continue;
            }
            println!("{:7.2} s  {fault}", start.elapsed().as_secs_f64());
            *self.tally.faults.entry(fault.name()).or_default() += 1;
            self.strike(fault)?;
            ills.push((Instant::now() + lasts, fault));
        }
        for (_, ill) in ills {
            self.mend(ill)?;
        }
        println!("{}", self.tally);
        Ok(())
    }

    /// Ends each fault when its time has come.
    fn heal(&mut self, ills: &mut Vec<(Instant, Fault)>, until: Instant) -> Result<()> {
        loop {
            ills.sort_by_key(|(end, _)| std::cmp::Reverse(*end));
            let next = ills.last().map(|(end, _)| *end).filter(|end| *end <= until);
            let pause = next.unwrap_or(until).saturating_duration_since(Instant::now());
            thread::sleep(pause);
            match next.and_then(|_| ills.pop()) {
                Some((_, ill)) => self.mend(ill)?,
                None => return Ok(()),
            }
        }
    }

    /// The master's rows, both ledgers and the engine say the same, and nothing that nobody asked for is there.
    ///
    /// # Errors
    ///
    /// When they do not within a quarter of an hour; what differs is in it.
    pub fn agree(&mut self) -> Result<()> {
        self.engine.answers()?;
        let (start, mut told) = (Instant::now(), Duration::ZERO);
        let workers = self.players.each_ref().map(Player::worker);
        let workers = workers.each_ref().map(|worker| worker as &dyn Worker);
        let agreed = until("everybody agrees", PEACE, || {
            let seen = agreement::look(&self.scene.operator, &workers);
            if let Seen::NotYet(found) = &seen
                && start.elapsed() > told + TELL
            {
                told = start.elapsed();
                println!("not after {} s:\n  {found}", told.as_secs());
            }
            Ok(seen)
        });
        self.scene.explained(agreed)?;
        let (deckies, rows) = (
            self.scene.operator.deckies()?,
            self.scene.operator.many_rows(&[])?,
        );
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

    /// Removes everything, and checks that nothing stays.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn end(self) -> Result<()> {
        let Self {
            players,
            scene,
            mut engine,
            ..
        } = self;
        scene.remove_all()?;
        // Engine 20.10 that was killed may count an endpoint that is gone, and keeps its network until it begins anew.
        engine.kill(false)?;
        engine.begin()?;
        engine.answers()?;
        let ended = scene.end();
        drop((players, engine));
        ended
    }
}

impl Player {
    fn worker(&self) -> Local<'_> {
        Local {
            name: self.name,
            host: &self.host,
            agent: &self.agent,
            lan: &self.lan,
            own_macs: true,
        }
    }

    fn enter(name: &'static str, scene: &mut Scene, engine: &OwnEngine) -> Result<Self> {
        let lan = Lan::create(&scene.seed)?;
        let socket = scene.folder().join(format!("{name}.sock"));
        let proxy = EngineProxy::before(engine.socket(), &socket, Mode::Pass)?;
        let link = Link::to(scene.master.agent_port)?;
        let settings = scene.describe(
            &format!("{name}.ini"),
            &format!("[agent]\nmaster = {}\nrelist = 10\n", link.address()),
        )?;
        let mut agent = Agent::new(scene.folder(), name)
            .with_engine(proxy.socket())
            .with_settings(&settings);
        let host = scene
            .join(&mut agent, name, &lan, &[])
            .with_context(|| format!("{name} does not come"))?;
        Ok(Self {
            name,
            host,
            agent,
            engine: proxy,
            link,
            lan,
        })
    }
}
