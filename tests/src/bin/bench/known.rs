//! What the agent takes of memory and time with a large fleet that it knows and that needs nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::lan::Lan;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;

use crate::SERVICES;

/// Deckies of one deploy. So many come up within the time that an operator is given to wait.
const AT_ONCE: usize = 50;

pub(crate) struct Known {
    deckies: usize,
    containers: usize,
    /// Bytes of memory while nothing is to do, and the most that the process ever had.
    resident: u64,
    peak: u64,
    idle: Duration,
}

impl Known {
    /// Brings up a fleet with an agent in a process of its own.
    pub(crate) fn measure(deckies: usize) -> Result<Self> {
        let mut scene = Scene::swarm("bench")?;
        let lan = Lan::create(&scene.seed)?;
        // It lives until its deckies are gone.
        let (agent, _) = scene.agent("known", &lan, None)?;
        let known = Self::of(&scene, &lan, &agent, deckies);
        let known = scene.explained(known)?;
        scene.end()?;
        Ok(known)
    }

    fn of(scene: &Scene, lan: &Lan, agent: &Agent, deckies: usize) -> Result<Self> {
        let operator = &scene.operator;
        operator.active("known")?;
        operator.json(&["system", "limit", &deckies.max(10).to_string()])?;
        for first in (0..deckies).step_by(AT_ONCE) {
            let amount = AT_ONCE.min(deckies - first);
            let mut text = lan.general();
            text.push_str(&format!("[known{first}]\nservices = {}\n", SERVICES.join(", ")));
            if amount > 1 {
                text.push_str(&format!("amount = {amount}\n"));
            }
            let file = scene.describe("known.ini", &text)?;
            let rows = operator.deploy(&file, false)?;
            operator.succeeded(&rows)?;
            println!("{} of {deckies} deckies", first + amount);
        }
        operator.settled("known")?;
        let said = agent.command(&["status", "--json"])?.ok()?;
        let status: serde_json::Value = serde_json::from_str(&said)?;
        let micros = status["running"]["idle_round_us"].as_u64();
        let process = agent.id().context("the agent does not run")?;
        let memory = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self {
            deckies,
            containers: deckies * (1 + SERVICES.len()),
            resident: bytes(&memory, "VmRSS:")?,
            peak: bytes(&memory, "VmHWM:")?,
            idle: Duration::from_micros(micros.context("the agent tells no idle round")?),
        })
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        format!(
            "| deckies known | containers | agent's memory MiB | its peak MiB | nothing to do ms |\n\
             | ---: | ---: | ---: | ---: | ---: |\n\
             | {} | {} | {} | {} | {:.1} |\n",
            self.deckies,
            self.containers,
            mib(self.resident),
            mib(self.peak),
            self.idle.as_secs_f64() * 1000.0,
        )
    }
}

/// A line of proc_pid_status(5).
fn bytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in the process's status"))?;
    let (number, unit) = line.trim().split_once(' ').context("no unit")?;
    ensure!(unit == "kB", "{name} is in {unit}");
    Ok(number.parse::<u64>()? << 10)
}
