//! A master under siege: hundreds of agents do what agents do while thousands of clients misbehave.
//!
//! ```text
//!  agents ── poll, heartbeat ──▶ ┌────────────────┐ ◀── half-open, slow, never-reading, oversized clients
//!  newcomers ── enrol ─────────▶ │ decnet serve   │ ◀── stolen hosts, with their certificates
//!  operator ── socket ─────────▶ └────────────────┘
//! ```
//!
//! Agents and attackers share one address, which is the worst case: no quota of addresses keeps them apart. Only hosts
//! that enrol have another, for an address that was refused too often is not heard for a while.

mod agents;
mod attackers;
mod line;
mod real;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::processes::Master;
use agents::{Counts, Host};
use attackers::{Held, Kind};
use line::Operator;

/// How often agents report here.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a report may take, connecting included: as long as an agent waits.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the operator may wait for an answer.
const OPERATOR: Duration = Duration::from_secs(20);
/// How much longer than its limit an attacker may be kept on a machine that has no time.
const LAG: Duration = Duration::from_secs(10);

/// How large a siege is.
#[derive(Debug, Clone, Copy)]
pub struct Siege {
    /// Clients that do what agents do, three times as often.
    pub agents: usize,
    /// Agents as they are installed.
    pub real: usize,
    pub attackers: usize,
    /// How long it lasts once everybody is there.
    pub lasts: Duration,
    /// Whether the attackers keep their connections when it is over, so that only the master can end them.
    pub they_hold: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub heartbeats: u64,
    /// Reports that were not acknowledged in time.
    pub missed: Vec<String>,
    /// The longest that a report took.
    pub slowest: Duration,
    pub polls: u64,
    pub failed_polls: Vec<String>,
    /// The longest that the master did not hear an agent of the real ones.
    pub unheard: Duration,
    /// How long the connections of each kind of attacker lived at most, and how many there were.
    pub attackers: BTreeMap<&'static str, (u64, Duration)>,
    /// Enrolments during the siege.
    pub newcomers: u64,
    /// The longest answer to the operator.
    pub operator: Duration,
    /// Bytes of memory of the master: before, at most, at the end.
    pub memory: [u64; 3],
    /// Files that the master had open: before, at most, at the end.
    pub files: [usize; 3],
}

impl Siege {
    /// Lays the siege to a master that runs, and waits until it is over.
    ///
    /// # Errors
    /// Something that is needed is not there, the operator was not answered, nobody could enrol, or the attackers'
    /// connections stayed.
    pub async fn lay(self, master: &mut Master) -> Result<Outcome> {
        // A real agent has four connections, a ledger and a socket.
        allow_files(2 * (self.agents * 2 + self.real * 3 + self.attackers))?;
        let pid = master.process().context("the master does not run")?.id();
        let proc = Path::new("/proc").join(pid.to_string());
        let operator = Operator::on(&master.socket);
        let stolen = (self.attackers / 100).max(1);
        let hosts = agents::enrol(&operator, self.agents + stolen).await?;
        let (stolen, hosts) = hosts.split_at(stolen);

        let (counts, end) = (Arc::new(Counts::default()), CancellationToken::new());
        let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
        let mut real = real::start(&operator, folder.path(), self.real, &end).await?;
        let heard = async {
            while real::oldest(&operator, self.real).await?.is_none() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(real::LATE + ANSWER, heard)
            .await
            .context("not every agent is heard before it begins")??;
        let mut fleet = JoinSet::new();
        for (at, host) in hosts.iter().enumerate() {
            let share = HEARTBEAT * u32::try_from(at)? / u32::try_from(hosts.len())?;
            fleet.spawn(agents::poll(Arc::clone(host), Arc::clone(&counts), end.clone()));
            fleet.spawn(agents::report(
                Arc::clone(host),
                Arc::clone(&counts),
                end.clone(),
                share,
            ));
        }
        let all_there = async {
            while counts.heartbeats.load(Ordering::Relaxed) < 2 * hosts.len() as u64 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(3 * HEARTBEAT + ANSWER, all_there)
            .await
            .with_context(|| {
                format!(
                    "the agents are not served before it begins: {:?}",
                    counts.missed()
                )
            })?;
        let before = Seen::of(&proc)?;

        let (held, over) = (Arc::new(Held::default()), CancellationToken::new());
        let mut attack = JoinSet::new();
        for at in 0..self.attackers {
            let kind = Kind::ALL[at % Kind::ALL.len()];
            let host = &stolen[at % stolen.len()];
            let (host, held, over) = (Arc::clone(host), Arc::clone(&held), over.clone());
            attack.spawn(attackers::attack(kind, at, host, held, over, self.they_hold));
        }
        let mut most = before;
        let (mut slowest, mut newcomers) = (Duration::ZERO, 0_u64);
        let mut unheard = Duration::ZERO;
        let begun = Instant::now();
        while begun.elapsed() < self.lasts {
            tokio::time::sleep(Duration::from_secs(1)).await;
            most = most.most(Seen::of(&proc)?);
            let asked = Instant::now();
            tokio::time::timeout(OPERATOR, operator.get("/api/v1/health"))
                .await
                .context("the operator was not answered during the siege")??;
            slowest = slowest.max(asked.elapsed());
            if begun.elapsed().as_secs() / 5 >= newcomers {
                let oldest = real::oldest(&operator, self.real).await?;
                unheard = unheard.max(oldest.unwrap_or(real::LATE));
                newcomers += 1;
                let name = format!("newcomer-{newcomers}");
                Host::enrol(&operator, &name)
                    .await
                    .context("nobody could enrol during the siege")?;
            }
        }
        over.cancel();
        if !self.they_hold {
            attack.shutdown().await;
        }
        let after = gone(&proc, before).await?;
        end.cancel();
        while let Some(ended) = fleet.join_next().await {
            ended?;
        }
        while let Some(ended) = real.join_next().await {
            ended??;
        }
        attack.shutdown().await;
        Ok(Outcome {
            heartbeats: counts.heartbeats.load(Ordering::Relaxed),
            missed: counts.missed(),
            slowest: counts.slowest(),
            polls: counts.polls.load(Ordering::Relaxed),
            failed_polls: counts.failed_polls(),
            unheard,
            attackers: held.summary(),
            newcomers,
            operator: slowest,
            memory: [before.memory, most.memory, after.memory],
            files: [before.files, most.files, after.files],
        })
    }
}

impl Outcome {
    /// Holds it against what is promised; says everything that does not hold.
    ///
    /// # Errors
    /// As said.
    pub fn judge(&self, most_memory: u64) -> Result<()> {
        let mut wrong = Vec::new();
        wrong.extend(
            self.missed
                .iter()
                .map(|missed| format!("a heartbeat was missed: {missed}")),
        );
        wrong.extend(
            self.failed_polls
                .iter()
                .map(|failed| format!("a poll failed: {failed}")),
        );
        if self.unheard >= real::LATE {
            wrong.push(format!("an agent was not heard for {:?}", self.unheard));
        }
        for (kind, (_, longest)) in &self.attackers {
            let limit = Kind::ALL
                .iter()
                .find(|known| known.name() == *kind)
                .map(|kind| kind.limit());
            if limit.is_none_or(|limit| *longest > limit + LAG) {
                wrong.push(format!("a connection that is {kind} lived {longest:?}"));
            }
        }
        if self.memory[1] > most_memory {
            wrong.push(format!("the master took {} MiB", self.memory[1] >> 20));
        }
        wrong.truncate(20);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

/// What the master takes.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Bytes.
    memory: u64,
    files: usize,
}

impl Seen {
    fn of(proc: &Path) -> Result<Self> {
        let status = std::fs::read_to_string(proc.join("status")).context("the master has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        Ok(Self {
            memory: kilobytes.context("the system does not say how much memory it has")? * 1024,
            files: std::fs::read_dir(proc.join("fd"))?.count(),
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            files: self.files.max(other.files),
        }
    }
}

/// Waits until the master has no more connections than before; a few for hosts that are just connecting.
async fn gone(proc: &Path, before: Seen) -> Result<Seen> {
    let begun = Instant::now();
    loop {
        let now = Seen::of(proc)?;
        if now.files <= before.files + 16 {
            return Ok(now);
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(180),
            "the master has {} files open, {} before the siege",
            now.files,
            before.files
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every connection is a file of this process as well.
fn allow_files(needed: usize) -> Result<()> {
    let needed = needed as u64 + 256;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        most >= needed,
        "this needs {needed} open files and may have {most}: raise the hard limit (ulimit -Hn {needed})"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("the limit on open files cannot be raised")
}
