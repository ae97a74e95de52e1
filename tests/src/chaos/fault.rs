//! What can happen, how it begins and how it ends.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Stage;
use crate::engine_proxy::Mode;
use crate::link::Way;
use crate::seed::Seed;

/// Something that goes wrong. The number is a player's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`.
    MasterKilled,
    /// It stands still, as on a machine that swaps.
    MasterFrozen,
    AgentKilled(usize),
    AgentFrozen(usize),
    /// `kill -9` of the engine alone: its containers run on until it is back, and then it ends them.
    EngineKilled,
    /// `kill -9` of the engine, its containerd, and every container.
    EngineAndContainersKilled,
    EngineFrozen,
    /// For one host the engine takes connections and says nothing.
    EngineHangs(usize),
    EngineRefuses(usize),
    /// It answers 500 to everything.
    EngineFails(usize),
    EngineSlow(usize),
    /// Its events are lost, and nobody is told so.
    EventsLost(usize),
    LinkCut(usize),
    /// Half-open: connections that nobody answers on.
    LinkStill(usize),
    LinkSlow(usize),
    /// What the agent says arrives, the answer does not: it says it again.
    AnswersLost(usize),
}

/// Whom a fault concerns; two that concern the same are not there at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Master,
    Engine,
    Agent(usize),
    Socket(usize),
    Events(usize),
    Link(usize),
}

impl Fault {
    pub(super) fn drawn(seed: &Seed) -> Self {
        let player = usize::from(seed.below(2) == 1);
        match seed.below(20) {
            0..=2 => Self::MasterKilled,
            3 => Self::MasterFrozen,
            4..=6 => Self::AgentKilled(player),
            7 => Self::AgentFrozen(player),
            8 => Self::EngineKilled,
            9 => Self::EngineAndContainersKilled,
            10 => Self::EngineFrozen,
            11 => Self::EngineHangs(player),
            12 => Self::EngineRefuses(player),
            13 => Self::EngineFails(player),
            14 => Self::EngineSlow(player),
            15 => Self::EventsLost(player),
            16 => Self::LinkCut(player),
            17 => Self::LinkStill(player),
            18 => Self::LinkSlow(player),
            _ => Self::AnswersLost(player),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MasterKilled => "master killed",
            Self::MasterFrozen => "master frozen",
            Self::AgentKilled(_) => "agent killed",
            Self::AgentFrozen(_) => "agent frozen",
            Self::EngineKilled => "engine killed",
            Self::EngineAndContainersKilled => "engine and containers killed",
            Self::EngineFrozen => "engine frozen",
            Self::EngineHangs(_) => "engine hangs",
            Self::EngineRefuses(_) => "engine refuses",
            Self::EngineFails(_) => "engine answers 500",
            Self::EngineSlow(_) => "engine slow",
            Self::EventsLost(_) => "events lost",
            Self::LinkCut(_) => "link cut",
            Self::LinkStill(_) => "link half-open",
            Self::LinkSlow(_) => "link slow",
            Self::AnswersLost(_) => "answers lost",
        }
    }

    const fn place(self) -> Place {
        match self {
            Self::MasterKilled | Self::MasterFrozen => Place::Master,
            Self::AgentKilled(player) | Self::AgentFrozen(player) => Place::Agent(player),
            Self::EngineKilled | Self::EngineAndContainersKilled | Self::EngineFrozen => Place::Engine,
            Self::EngineHangs(player)
            | Self::EngineRefuses(player)
            | Self::EngineFails(player)
            | Self::EngineSlow(player) => Place::Socket(player),
            Self::EventsLost(player) => Place::Events(player),
            Self::LinkCut(player)
            | Self::LinkStill(player)
            | Self::LinkSlow(player)
            | Self::AnswersLost(player) => Place::Link(player),
        }
    }

    pub(super) fn excludes(self, other: Self) -> bool {
        self.place() == other.place()
    }

    /// Whether the master can be asked nothing while it lasts.
    pub(super) fn silences_the_master(self) -> bool {
        self.place() == Place::Master
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.place() {
            Place::Agent(player) | Place::Socket(player) | Place::Events(player) | Place::Link(player) => {
                write!(f, ", {}", if player == 0 { "east" } else { "west" })
            }
            Place::Master | Place::Engine => Ok(()),
        }
    }
}

impl Stage {
    /// Begins a fault.
    pub(super) fn strike(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::MasterKilled => self.scene.master.kill(),
            Fault::MasterFrozen => self.signal_master(Signal::SIGSTOP),
            Fault::AgentKilled(player) => self.players[player].agent.kill(),
            Fault::AgentFrozen(player) => self.signal_agent(player, Signal::SIGSTOP),
            Fault::EngineKilled => self.engine.kill(false),
            Fault::EngineAndContainersKilled => self.engine.kill(true),
            Fault::EngineFrozen => self.engine.signal(Signal::SIGSTOP),
            Fault::EngineHangs(player) => self.engine_mode(player, Mode::Hang),
            Fault::EngineRefuses(player) => self.engine_mode(player, Mode::Refuse),
            Fault::EngineFails(player) => self.engine_mode(player, Mode::Fail),
            Fault::EngineSlow(player) => self.engine_mode(player, Mode::Slow),
            Fault::EventsLost(player) => {
                self.players[player].engine.deafen(true);
                Ok(())
            }
            Fault::LinkCut(player) => self.link_way(player, Way::Cut),
            Fault::LinkStill(player) => self.link_way(player, Way::Still),
            Fault::LinkSlow(player) => self.link_way(player, Way::Slow(Duration::from_millis(300))),
            Fault::AnswersLost(player) => self.link_way(player, Way::Deaf),
        }
    }

    /// Ends a fault.
    pub(super) fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::MasterKilled => self.scene.master.start(),
            Fault::MasterFrozen => self.signal_master(Signal::SIGCONT),
            Fault::AgentKilled(player) => self.players[player].agent.start(),
            Fault::AgentFrozen(player) => self.signal_agent(player, Signal::SIGCONT),
            Fault::EngineKilled | Fault::EngineAndContainersKilled => self.engine.begin(),
            Fault::EngineFrozen => self.engine.signal(Signal::SIGCONT),
            Fault::EngineHangs(player)
            | Fault::EngineRefuses(player)
            | Fault::EngineFails(player)
            | Fault::EngineSlow(player) => self.engine_mode(player, Mode::Pass),
            Fault::EventsLost(player) => {
                self.players[player].engine.deafen(false);
                Ok(())
            }
            Fault::LinkCut(player)
            | Fault::LinkStill(player)
            | Fault::LinkSlow(player)
            | Fault::AnswersLost(player) => self.link_way(player, Way::Open),
        }
    }

    fn signal_master(&mut self, signal: Signal) -> Result<()> {
        match self.scene.master.process() {
            Some(process) => process.signal(signal),
            None => anyhow::bail!("the master does not run"),
        }
    }

    fn signal_agent(&self, player: usize, signal: Signal) -> Result<()> {
        let Some(id) = self.players[player].agent.id() else {
            anyhow::bail!("the agent does not run")
        };
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    fn engine_mode(&self, player: usize, mode: Mode) -> Result<()> {
        self.players[player].engine.set(mode);
        Ok(())
    }

    fn link_way(&self, player: usize, way: Way) -> Result<()> {
        self.players[player].link.set(way);
        Ok(())
    }
}
