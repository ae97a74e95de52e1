//! `make demo`: a whole fleet on this machine. It makes its own LAN, runs a master, deploys `examples/office.ini`, visits
//! every service of every decky with the ordinary client, changes one decky, and removes everything again.
//!
//! `KEEP=1` leaves it running; `demo --down` ends it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::clients::{self, SERVICES, Visitor};
use decnet_tests::engine;
use decnet_tests::fleet::{Decky, Operator, SETTLED};
use decnet_tests::lan::{self, Lan, LanNames};
use decnet_tests::processes::{Master, bin, bin_dir, decoy_image, decoy_reference, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::{self, Seen, until};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

/// What this program made, on disk before it is made: an interrupted run is cleaned up from it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    /// Everything on disk.
    folder: PathBuf,
    lan: LanNames,
    /// The master's process: its id and when it was started, so that a stranger of the same id is left alone.
    master: Option<(i32, String)>,
    /// Hosts whose objects on the engine are ours.
    hosts: Vec<String>,
    /// The decoy image, when this run brings it to the engine.
    image: Option<String>,
}

fn main() -> ExitCode {
    let down = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--down") => true,
        Some(other) => {
            eprintln!("demo: unknown argument {other}; known: --down");
            return ExitCode::FAILURE;
        }
    };
    let outcome = watch_signals().and_then(|()| if down { end_kept() } else { demo() });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C ends every wait, and with it the run; what was made is then removed as after any failure. Handlers and not a
/// blocked mask: children inherit what is blocked, and could not be asked to end.
fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                wait::interrupt();
            }
        });
    });
    Ok(())
}

fn demo() -> Result<()> {
    let start = Instant::now();
    let keep = std::env::var("KEEP").is_ok_and(|value| !value.is_empty() && value != "0");
    let _lock = prerequisites()?;
    if let Some(left) = Record::read()? {
        println!("removing what an earlier run left in {}", left.folder.display());
        let problems = tear_down(&left, false);
        ensure!(
            problems.is_empty(),
            "an earlier run cannot be cleaned up: {}",
            problems.join("; ")
        );
    }
    let image = decoy_reference()?;
    let there = engine::images()?.contains(&image);
    let mut record = Record {
        folder: tempfile::Builder::new()
            .prefix("decnet-demo-")
            .tempdir_in("/tmp")?
            .keep(),
        lan: LanNames {
            parent: "decnet-lan0".to_owned(),
            namespace: "decnet-demo".to_owned(),
            prefix: "10.77.0".to_owned(),
        },
        master: None,
        hosts: Vec::new(),
        image: (!there).then_some(image),
    };
    let strange = lan::left(&record.lan)?;
    if !strange.is_empty() {
        drop(std::fs::remove_dir_all(&record.folder));
        bail!(
            "there is a {} that this demo did not make: remove it first",
            strange.join(" and a ")
        );
    }
    record.write()?;

    let outcome = play(&mut record);
    if keep && outcome.is_ok() {
        look_around(&record);
        return Ok(());
    }
    // From here on waiting is for cleaning up.
    wait::resume();
    say(start, "removing everything");
    let problems = tear_down(&record, outcome.is_ok());
    match outcome {
        Ok(summary) if problems.is_empty() => {
            say(
                start,
                "nothing is left: containers, networks, links, namespace, image, processes",
            );
            println!("demo: {summary}, in {} s", start.elapsed().as_secs());
            Ok(())
        }
        Ok(_) => bail!("it ran, and could not be removed: {}", problems.join("; ")),
        Err(error) if problems.is_empty() => Err(error),
        Err(error) => Err(error.context(format!(
            "besides, not everything could be removed: {}",
            problems.join("; ")
        ))),
    }
}

fn prerequisites() -> Result<Flock<std::fs::File>> {
    ensure!(
        geteuid().is_root(),
        "root is needed: it makes a LAN and runs a master with a Docker Engine"
    );
    for name in ["decnet", "decnet-agent"] {
        bin(name)?;
    }
    decoy_image()?;
    engine::docker(&["version", "--format", "{{.Server.Version}}"])
        .context("no Docker Engine answers: run `make set-up`")?;
    let path = bin_dir()?.join("demo.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| anyhow::anyhow!("another demo is running"))
}

/// Everything between set-up and removal.
fn play(record: &mut Record) -> Result<String> {
    let start = Instant::now();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/office.ini");
    let file = file
        .canonicalize()
        .with_context(|| format!("{} is not there", file.display()))?;
    let mut lan = Lan::named(&record.lan)?;
    // The record knows how to remove it, also after this process was killed.
    lan.keep();
    say(
        start,
        &format!(
            "LAN {}: interface {}, namespace {}",
            lan.subnet(),
            lan.parent(),
            record.lan.namespace
        ),
    );

    let mut master = Master::init(&record.folder)?;
    let operator = Operator::on(&master.socket);
    let log = master.log.clone();
    master.start()?;
    if let Some(process) = master.process() {
        process.keep();
        let pid = i32::try_from(process.id())?;
        record.master = Some((pid, started_at(pid).context("the master is gone already")?));
        record.write()?;
    }
    say(
        start,
        &format!(
            "master on 127.0.0.1: agents {}, enrolment {}, API {}",
            master.agent_port, master.enrol_port, master.api_port
        ),
    );
    let told = || format!("the master's log ends with:\n{}", tail(&log));
    let local = operator.active("local").with_context(told)?;
    record.hosts.push(local.uuid.clone());
    record.write()?;
    say(
        start,
        &format!(
            "worker on this machine: Docker Engine {}",
            local.engine.unwrap_or_default()
        ),
    );

    let ids = operator.deploy(&file, false).with_context(told)?;
    say(
        start,
        &format!("deploy of {} accepted: {} deckies", file.display(), ids.len()),
    );
    progress(&operator, &ids, start).with_context(told)?;

    let deckies = operator.deckies()?;
    let services = deckies.values().map(|decky| decky.services.len()).sum::<usize>();
    say(
        start,
        &format!(
            "visiting {services} services of {} deckies from {}",
            deckies.len(),
            lan.gateway()
        ),
    );
    let seed = Seed::announced("demo");
    for decky in deckies.values() {
        println!(
            "  {} {} {} ({})",
            decky.name, decky.ip, decky.mac, decky.os_family
        );
        for service in &decky.services {
            talk(&lan, decky, service, &seed)?;
        }
    }
    let changed = mutate(&operator, &local.uuid, &lan, &deckies, &seed, start).with_context(told)?;
    Ok(format!(
        "{} deckies, {services} services visited, {changed} changed its services",
        deckies.len()
    ))
}

/// Prints every transition of every row until all have ended.
fn progress(operator: &Operator, ids: &[String], start: Instant) -> Result<()> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let rows = until("every decky is deployed", SETTLED, || {
        let rows = operator.rows_of(ids)?;
        for row in &rows {
            let before = shown.insert(row.id.clone(), row.status.clone());
            if before.as_deref() != Some(row.status.as_str()) {
                say(start, &format!("  {:20} {}", row.decky_name, row.status));
            }
        }
        let ended = rows.iter().filter(|row| row.is_terminal()).count();
        if ended == rows.len() {
            Ok(Seen::Done(rows))
        } else {
            Ok(Seen::not_yet(format!("{ended} of {} ended", rows.len())))
        }
    })?;
    for row in rows {
        ensure!(
            row.status == "succeeded",
            "{} {}: {}",
            row.decky_name,
            row.status,
            row.error.unwrap_or_default()
        );
    }
    Ok(())
}

/// One visit: the client, what it was told, and what was noted of it.
fn talk(lan: &Lan, decky: &Decky, service: &str, seed: &Seed) -> Result<()> {
    ensure!(!wait::is_interrupted(), "interrupted");
    ensure!(
        SERVICES.contains(&service),
        "{} shows {service}, for which the demo has no client",
        decky.name
    );
    let visitor = Visitor::stranger(seed.word());
    let visit = clients::visit(lan, service, &decky.ip, &visitor).with_context(|| decky.name.clone())?;
    println!(
        "    {service:9} {:13} {}",
        visit.client,
        visit.answer.chars().take(90).collect::<String>()
    );
    let event = clients::captured(&format!("decnet-{}-{service}-1", decky.name), &visit, lan)?;
    println!("    {:9} captured      {}", "", noted(&event, &visitor.mark));
    Ok(())
}

/// The action, and the fields that hold what the visitor said.
fn noted(event: &Value, mark: &str) -> String {
    fn walk(value: &Value, path: &str, mark: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    walk(
                        value,
                        &if path.is_empty() {
                            name.clone()
                        } else {
                            format!("{path}.{name}")
                        },
                        mark,
                        found,
                    );
                }
            }
            Value::Array(items) => {
                for item in items {
                    walk(item, path, mark, found);
                }
            }
            Value::String(text)
                if text.contains(mark) || path.ends_with(".response") || path == "source.ip" =>
            {
                found.push(format!(
                    "{path}={}",
                    text.chars().take(40).collect::<String>().escape_debug()
                ));
            }
            _ => {}
        }
    }
    let mut found = vec![
        event
            .pointer("/event/action")
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned(),
    ];
    walk(event, "", mark, &mut found);
    found.join(" ")
}

/// Gives the first decky that can have other services other services.
fn mutate(
    operator: &Operator,
    host: &str,
    lan: &Lan,
    deckies: &BTreeMap<String, Decky>,
    seed: &Seed,
    start: Instant,
) -> Result<String> {
    let mut refusals = Vec::new();
    for before in deckies.values() {
        let base = format!("decnet-{}-base-1", before.name);
        let untouched = engine::container(&base)?.with_context(|| format!("{base} is gone"))?;
        // A decky that has the only services of its archetype is refused: the next one, then.
        let row = match operator.mutate(&before.name) {
            Ok(row) => row,
            Err(refusal) => {
                refusals.push(format!("{}: {refusal:#}", before.name));
                continue;
            }
        };
        operator.succeeded(&[row])?;
        let after = operator.decky(&before.name)?;
        say(
            start,
            &format!(
                "mutated {}: {} → {}",
                after.name,
                before.services.join(", "),
                after.services.join(", ")
            ),
        );
        ensure!(
            after.services != before.services,
            "the services of {} are as they were",
            after.name
        );
        ensure!(
            (&after.ip, &after.mac) == (&before.ip, &before.mac),
            "address or MAC of {} changed",
            after.name
        );
        let now = engine::container(&base)?.with_context(|| format!("{base} is gone"))?;
        ensure!(
            now.id == untouched.id && now.started_at == untouched.started_at,
            "{base} was replaced or restarted"
        );
        ensure!(
            now.endpoint() == untouched.endpoint(),
            "{base} has another address or MAC"
        );
        let on_the_lan = lan.mac_of(&after.ip)?;
        ensure!(
            on_the_lan == after.mac,
            "on the LAN {} has {on_the_lan}, not {}",
            after.name,
            after.mac
        );
        let running = engine::containers(host)?;
        let mut services: Vec<&str> = running
            .values()
            .filter(|container| {
                container.decky() == after.name && container.service() != "base" && container.running
            })
            .map(engine::Container::service)
            .collect();
        let mut expected: Vec<&str> = after.services.iter().map(String::as_str).collect();
        services.sort_unstable();
        expected.sort_unstable();
        ensure!(
            services == expected,
            "{} runs {services:?}, not {expected:?}",
            after.name
        );
        println!(
            "    the same address {}, MAC {} and base container {}",
            after.ip,
            after.mac,
            &now.id[..12]
        );
        for service in &after.services {
            talk(lan, &after, service, seed)?;
        }
        return Ok(after.name);
    }
    bail!("no decky can be changed: {}", refusals.join("; "))
}

fn look_around(record: &Record) {
    let socket = record.folder.join("master.sock");
    let decnet = bin("decnet").unwrap_or_else(|_| "decnet".into());
    println!("\nIt keeps running. To look around:");
    println!("  export DECNET_SOCKET={}", socket.display());
    println!("  {} status", decnet.display());
    println!("  {} decky ls", decnet.display());
    println!(
        "  docker ps --filter label={}={}",
        engine::HOST_LABEL,
        record.hosts.join("")
    );
    println!(
        "  ip netns exec {} bash        # a shell on the LAN {}.0/24",
        record.lan.namespace, record.lan.prefix
    );
    println!("  tail -f {}", record.folder.join("master.log").display());
    println!("To end it: make demo-down");
}

fn end_kept() -> Result<()> {
    let _lock = prerequisites()?;
    let Some(record) = Record::read()? else {
        println!("demo: there is none to end");
        return Ok(());
    };
    let problems = tear_down(&record, true);
    ensure!(
        problems.is_empty(),
        "not everything could be removed: {}",
        problems.join("; ")
    );
    println!("demo: nothing is left");
    Ok(())
}

/// Removes everything and says what did not go as it should. `orderly`: the master is whole and removes its deckies
/// itself; otherwise what stays is removed by force.
fn tear_down(record: &Record, orderly: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            problems.push(format!("{what}: {error:#}"));
        }
    };
    let alive = record.master.as_ref().is_some_and(is_alive);
    if orderly && alive {
        let operator = Operator::on(&record.folder.join("master.sock"));
        note("deckies", remove_deckies(&operator));
        for host in &record.hosts {
            note("engine", nothing_of(host));
        }
    }
    if let Some(master) = &record.master {
        note("master", end(master));
    }
    for host in &record.hosts {
        note("engine", engine::purge(host));
    }
    if let Some(image) = &record.image {
        note("image", engine::remove_image(image));
    }
    note("LAN", lan::remove(&record.lan));
    if record.folder.exists() {
        note(
            "folder",
            std::fs::remove_dir_all(&record.folder).map_err(Into::into),
        );
    }
    if problems.is_empty()
        && let Err(error) = Record::remove()
    {
        problems.push(format!("record: {error:#}"));
    }
    problems
}

fn remove_deckies(operator: &Operator) -> Result<()> {
    let deckies = operator.deckies()?;
    let names: Vec<&str> = deckies.keys().map(String::as_str).collect();
    operator.remove(&names)
}

fn nothing_of(host: &str) -> Result<()> {
    until("its worker leaves nothing on the engine", SETTLED, || {
        let mut left: Vec<String> = engine::containers(host)?.into_keys().collect();
        left.extend(engine::networks(host)?);
        Ok(Seen::when(left.is_empty(), left.join(", ")))
    })
}

fn end(master: &(i32, String)) -> Result<()> {
    let pid = Pid::from_raw(master.0);
    for (signal, limit) in [(Signal::SIGTERM, 20), (Signal::SIGKILL, 5)] {
        if !is_alive(master) {
            return Ok(());
        }
        kill(pid, signal)?;
        let gone = until("the master ends", Duration::from_secs(limit), || {
            Ok(Seen::when(!is_alive(master), "it runs"))
        });
        if gone.is_ok() {
            ensure!(
                signal == Signal::SIGTERM,
                "it did not end when asked to, and was killed"
            );
            return Ok(());
        }
    }
    bail!("the process {pid} does not end")
}

/// Whether that very process runs.
fn is_alive(master: &(i32, String)) -> bool {
    started_at(master.0).is_some_and(|start| start == master.1)
}

/// When a process was started, in the kernel's ticks since boot (proc(5), field 22 of stat); none when it has ended,
/// be it that nobody has asked for its status yet.
fn started_at(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it starts with the third field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z")
        .then(|| fields.nth(18).map(str::to_owned))
        .flatten()
}

impl Record {
    fn path() -> Result<PathBuf> {
        Ok(bin_dir()?.join("demo.json"))
    }

    fn read() -> Result<Option<Self>> {
        let path = Self::path()?;
        match std::fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text);
                Ok(Some(record.with_context(|| {
                    format!("{} is damaged: remove it by hand", path.display())
                })?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn write(&self) -> Result<()> {
        let path = Self::path()?;
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn remove() -> Result<()> {
        std::fs::remove_file(Self::path()?).map_err(Into::into)
    }
}

fn say(start: Instant, line: &str) {
    println!("{:6.1} s  {line}", start.elapsed().as_secs_f32());
    // Lines are looked at while they come, also through a pipe.
    drop(std::io::stdout().flush());
}
