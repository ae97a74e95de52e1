//! What the packaged agent takes of a host: the time from power-on to the first decky that answers, and then, with a fleet
//! that needs nothing, processor, memory and wake-ups.
//!
//! The first is measured on a lab host that the package was installed on. The second on this machine, with an engine of its
//! own that nobody else uses: User-mode Linux makes system calls dear.
//!
//! `DECKIES` (20) and `IDLE` (600, in seconds) say how many and how long; 0 leaves that part out. Programs and package are those of
//! `DECNET_BIN_DIR` and `AGENT_DEB`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::asked::asked;
use decnet_tests::command::{SHORT, run};
use decnet_tests::engine;
use decnet_tests::fleet::Operator;
use decnet_tests::lab::Lab;
use decnet_tests::lan::Lan;
use decnet_tests::own_engine::OwnEngine;
use decnet_tests::processes::{Agent, Master, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::{Seen, until};

const SERVICES: &str = "ssh, http, redis";
/// A host on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// What is done after a deploy is over by then: what had to be undone is forgotten, memory is given back.
const CALM: Duration = Duration::from_secs(60);

/// Tells where the time of a boot went: by systemd, by the agent's journal, and by the engine, in seconds of uptime.
const WHERE: &str = r#"systemd-analyze time
systemd-analyze critical-chain --no-pager decnet-agent.service
decnet-agent journal --limit 12
journalctl -b -o short-monotonic --no-pager -u decnet-agent -u docker | grep -E 'systemd|decnet-agent'
docker events --since 1h --until 0s --filter type=container --filter event=start --format '{{.TimeNano}} {{.Actor.Attributes.name}}' |
    awk -v now="$(date +%s.%N)" -v up="$(cut -d' ' -f1 /proc/uptime)" '{ printf "[%12.6f] started %s\n", $1 / 1e9 - now + up, $2 }'
"#;

fn main() -> Result<()> {
    let package: PathBuf = std::env::var_os("AGENT_DEB")
        .context("AGENT_DEB names no package")?
        .into();
    let size = std::fs::metadata(&package)
        .with_context(|| format!("cannot read {}", package.display()))?
        .len();
    println!("package: {:.2} MB", size as f64 / 1e6);
    boot(&package)?;
    let (deckies, idle) = (asked("DECKIES", 20_usize)?, asked("IDLE", 600_u64)?);
    if deckies > 0 && idle > 0 {
        rest(deckies, Duration::from_secs(idle))?;
    }
    Ok(())
}

/// Boots a host that has an agent and a decky.
fn boot(package: &Path) -> Result<()> {
    let lab = Lab::new("bench-host")?;
    let host = lab.host("one").memory(1200).boot()?;
    let shown = host.show(package)?;
    host.ok(&format!("dpkg -i {shown}"))?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
    master.start()?;
    let operator = Operator::on(&master.socket);
    let (_, token) = operator.enroll(host.name(), None, &[])?;
    host.ok(&format!(
        "decnet-agent enroll '{token}' && systemctl enable --now decnet-agent"
    ))?;
    operator.active(host.name())?;
    let file = lab.folder().join("fleet.ini");
    std::fs::write(&file, format!("{}\n[web]\nservices = redis\n", lab.general()))?;
    operator.succeeded(&operator.deploy(&file, false)?)?;
    let address = operator.decky("web")?.ip;
    host.shut_down()?;

    let begun = Instant::now();
    host.switch_on()?;
    until("the decky answers", LIMIT, || {
        let call = format!("exec 3<>/dev/tcp/{address}/6379");
        let said = run(&mut lab.inside(&["timeout", "1", "bash", "-c", &call]), SHORT)?;
        Ok(Seen::when(said.status.success(), "it does not"))
    })?;
    let took = begun.elapsed();
    host.wait_for_boot()?;
    println!(
        "\npower-on to the first decky that answers: {:.1} s",
        took.as_secs_f64()
    );
    print!("{}", host.ok(WHERE)?);
    Ok(())
}

/// Leaves an agent alone with a fleet.
fn rest(deckies: usize, idle: Duration) -> Result<()> {
    let own = OwnEngine::start()?;
    engine::ask(own.socket());
    let seed = Seed::announced("bench-host");
    let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let mut master = Master::init(folder.path())?.without_worker();
    master.start()?;
    let operator = Operator::on(&master.socket);
    let lan = Lan::create(&seed)?;
    let (_, token) = operator.enroll("idle", Some(&lan), &[])?;
    let mut agent = Agent::new(folder.path(), "idle").with_engine(own.socket());
    agent.enrol(&token)?;
    agent.start()?;
    operator.active("idle")?;
    operator.json(&["system", "limit", &deckies.max(10).to_string()])?;
    let file = folder.path().join("fleet.ini");
    let amount = if deckies > 1 {
        format!("amount = {deckies}\n")
    } else {
        String::new()
    };
    std::fs::write(
        &file,
        format!("{}\n[idle]\nservices = {SERVICES}\n{amount}", lan.general()),
    )?;
    let rows = operator.deploy(&file, false)?;
    operator
        .succeeded(&rows)
        .with_context(|| format!("the master's log ends with:\n{}", tail(&master.log)))?;
    operator.settled("idle")?;

    let process = agent.id().context("the agent does not run")?;
    std::thread::sleep(CALM);
    let (begun, before) = (Instant::now(), Usage::of(process)?);
    std::thread::sleep(idle);
    let (took, after) = (begun.elapsed().as_secs_f64(), Usage::of(process)?);
    let cpu = (after.ticks - before.ticks) as f64 / 100.0;
    println!(
        "\n{deckies} deckies, idle for {took:.0} s: {} KiB resident, {} at most; {cpu:.2} s of CPU, {:.3} % of a core; {:.2} wake-ups a second",
        after.resident,
        after.peak,
        cpu / took * 100.0,
        after.switches.saturating_sub(before.switches) as f64 / took,
    );
    for (name, switches) in &after.threads {
        let earlier = before.threads.iter().find(|(other, _)| other == name);
        // Threads that have ended are counted no more.
        let more = switches.saturating_sub(earlier.map_or(0, |(_, switches)| *switches));
        println!("  {name}: {:.2} a second", more as f64 / took);
    }
    operator.command(&["decky", "rm", "--all", "--wait"])?.ok()?;
    ensure!(operator.deckies()?.is_empty(), "deckies are left");
    Ok(())
}

/// What the kernel counted of a process.
struct Usage {
    /// Of CPU, user and system, threads that have ended included: hundredths of a second (proc_pid_stat(5), USER_HZ).
    ticks: u64,
    /// In KiB.
    resident: u64,
    peak: u64,
    /// How often its threads went to sleep, each of which ended by waking up.
    switches: u64,
    /// The same of each thread, by id and name.
    threads: Vec<(String, u64)>,
}

impl Usage {
    fn of(process: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let field = |number: usize| -> Result<u64> {
            Ok(fields.get(number - 3).context("stat is too short")?.parse()?)
        };
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let mut threads = Vec::new();
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let path = thread?.path();
            // One that has ended meanwhile.
            let Ok(own) = std::fs::read_to_string(path.join("status")) else {
                continue;
            };
            let name = own
                .lines()
                .find_map(|line| line.strip_prefix("Name:\t"))
                .unwrap_or_default();
            let id = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            threads.push((format!("{id} {name}"), value(&own, "voluntary_ctxt_switches:")?));
        }
        Ok(Self {
            ticks: field(14)? + field(15)?,
            resident: value(&status, "VmRSS:")?,
            peak: value(&status, "VmHWM:")?,
            switches: threads.iter().map(|(_, switches)| switches).sum(),
            threads,
        })
    }
}

/// The number of a line of proc_pid_status(5).
fn value(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in the process's status"))?;
    Ok(line.split_whitespace().next().context("an empty line")?.parse()?)
}
