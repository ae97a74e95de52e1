//! What goes wrong in the field: services that do not start, engines that end in mid-sentence, tokens that are not
//! good, hosts that never enrolled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::clients::{self, Visitor};
use decnet_tests::command::{SHORT, program, run};
use decnet_tests::engine;
use decnet_tests::engine_proxy::{EngineProxy, Mode};
use decnet_tests::fleet::{Operator, Row, SETTLED};
use decnet_tests::lan::Lan;
use decnet_tests::processes::{Agent, Master, Process};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

#[test]
fn a_mutation_whose_new_service_cannot_start_leaves_the_old_one_running() -> Result<()> {
    let mut scene = Scene::unihost("faults, failing mutation")?;
    let host = scene.local()?;
    let name = format!("{}-srv", scene.prefix);
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{name}]\narchetype = linux-server\nservices = ssh\n",
            scene.lan.general()
        ),
    )?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let decky = scene.operator.decky(&name)?;
    let base = engine::container(&format!("decnet-{name}-base-1"))?.context("no base container")?;

    // Every other choice of this archetype has http in it, and somebody sits on its port.
    let pid = base.pid.to_string();
    let squat = "import socket,time\ns=socket.socket()\ns.bind(('0.0.0.0',80))\ns.listen()\nprint('here',flush=True)\ntime.sleep(3600)";
    let log = scene.folder().join("squatter.log");
    let squatter = Process::start(
        Command::new("nsenter").args(["-t", &pid, "-n", "/usr/bin/env", "python3", "-c", squat]),
        &log,
    )?;
    until("the port is taken", Duration::from_secs(20), || {
        let text = std::fs::read_to_string(&log)?;
        Ok(Seen::when(text.contains("here"), text))
    })?;

    let row = scene.operator.mutate(&name)?;
    let rows = scene.explained(scene.operator.ended(&[row]))?;
    let row = rows.first().context("no row")?;
    println!("the row says: {}", row.error.as_deref().unwrap_or_default());
    ensure!(
        row.status == "failed",
        "a service that cannot start {}",
        row.status
    );
    let reason = row.error.as_deref().unwrap_or_default();
    ensure!(
        reason.contains("http"),
        "the reason does not name the service: {reason:?}"
    );

    scene.exactly(&host, &[(&name, &["ssh"])])?;
    let after = scene.operator.decky(&name)?;
    ensure!(
        after.services == decky.services,
        "the master says {:?} run",
        after.services
    );
    ensure!(
        (&after.ip, &after.mac) == (&decky.ip, &decky.mac),
        "address or MAC changed: {after:?}"
    );
    let base_after =
        engine::container(&format!("decnet-{name}-base-1"))?.context("no base container any more")?;
    ensure!(
        (base_after.id, base_after.started_at) == (base.id, base.started_at),
        "the base container was touched"
    );
    let visit = clients::visit(
        &scene.lan,
        "ssh",
        &decky.ip,
        &Visitor::stranger(scene.seed.word()),
    )?;
    clients::captured(&format!("decnet-{name}-ssh-1"), &visit, &scene.lan)?;

    // With the port free again the same wish is granted.
    drop(squatter);
    let row = scene.operator.mutate(&name)?;
    scene.explained(scene.operator.succeeded(&[row]))?;
    let services = scene.operator.decky(&name)?.services;
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    ensure!(services.contains(&"http"), "{services:?}");
    scene.exactly(&host, &[(&name, &services)])?;
    scene.end()
}

#[test]
fn an_engine_that_drops_connections_in_mid_apply_costs_a_retry_and_nothing_else() -> Result<()> {
    let mut proxy = None;
    let mut scene = Scene::prepare("faults, dropped connections", |master, folder| {
        let socket = folder.join("engine.sock");
        proxy = Some(EngineProxy::listen(&socket, Mode::Pass)?);
        Ok(master.with_engine(&socket))
    })?;
    let proxy = proxy.context("no proxy")?;
    scene.master.start()?;
    let host = scene.local()?;
    let names: Vec<String> = (1..=3)
        .map(|number| format!("{}-n-0{number}", scene.prefix))
        .collect();
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{}-n]\nservices = redis, telnet\namount = 3\n",
            scene.lan.general(),
            scene.prefix
        ),
    )?;
    // About 20 calls change something; three of them are cut, each at another place.
    let cuts: Vec<u64> = (0..3).map(|_| 1 + u64::from(scene.seed.below(6))).collect();
    proxy.cut_after(cuts[0]);
    let rows = scene.operator.deploy(&file, false)?;
    for (number, cut) in cuts.iter().enumerate() {
        until(&format!("cut {} after {cut} calls", number + 1), SETTLED, || {
            Ok(Seen::when(proxy.refuses(), format!("{} calls", proxy.changes())))
        })?;
        let open = scene.operator.rows_of(&rows)?;
        println!(
            "cut {} after {cut} calls: {:?}",
            number + 1,
            open.iter().map(|row| row.status.as_str()).collect::<Vec<_>>()
        );
        ensure!(
            open.iter().any(|row| row.status != "succeeded"),
            "all succeeded before cut {}",
            number + 1
        );
        ensure!(
            open.iter().all(|row| row.status != "failed"),
            "an engine that is away fails no row: {open:?}"
        );
        if let Some(next) = cuts.get(number + 1) {
            proxy.cut_after(*next);
        }
        proxy.set(Mode::Pass);
    }
    scene.explained(scene.operator.succeeded(&rows))?;
    let services: &[&str] = &["redis", "telnet"];
    let expected: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), services)).collect();
    scene.exactly(&host, &expected)?;
    let addresses: BTreeMap<String, String> = engine::containers(&host)?
        .into_values()
        .filter_map(|container| container.endpoint().map(|(address, _)| (address, container.name)))
        .collect();
    ensure!(
        addresses.len() == 3,
        "three deckies have the addresses {addresses:?}"
    );
    scene.end()
}

#[test]
fn tokens_are_good_once_for_their_own_master_and_for_a_while() -> Result<()> {
    let mut scene = Scene::swarm("faults, tokens")?;
    scene.expects_alarms()?;
    let refused = |agent: &Agent, token: &str, why: &str| -> Result<()> {
        let said = agent.command(&["enroll", token])?;
        println!("{why}: {} {}", said.status, said.said());
        ensure!(!said.status.success(), "{why}: it was accepted");
        ensure!(
            said.stderr.trim().lines().count() >= 1,
            "{why}: no reason was given"
        );
        let run = agent.command(&["run"])?;
        ensure!(
            run.code() == Some(3),
            "{why}: `run` after it ends with {} ({})",
            run.status,
            run.said()
        );
        Ok(())
    };

    let (_, used) = scene.operator.enroll("used", None, &[])?;
    Agent::new(scene.folder(), "first").enrol(&used)?;
    refused(
        &Agent::new(scene.folder(), "second"),
        &used,
        "a token that was used",
    )?;

    let (_, short) = scene.operator.enroll("short", None, &["--ttl", "1s"])?;
    let late = Agent::new(scene.folder(), "late");
    // Waiting for the second to pass is the condition itself.
    std::thread::sleep(Duration::from_millis(2100));
    refused(&late, &short, "a token that has expired")?;

    // Another master at the same address: its CA is not the one that the token names.
    let (_, foreign) = scene.operator.enroll("foreign", None, &[])?;
    let other_folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let mut other = Master::init(other_folder.path())?.without_worker();
    scene.master.stop()?;
    (other.agent_port, other.enrol_port) = (scene.master.agent_port, scene.master.enrol_port);
    other.start()?;
    refused(
        &Agent::new(scene.folder(), "fooled"),
        &foreign,
        "a token of another master",
    )?;
    other.stop()?;
    scene.master.start()?;

    refused(
        &Agent::new(scene.folder(), "garbage"),
        "decnet1.AAAA",
        "a token that is none",
    )?;
    let mut changed = foreign.clone();
    let last = changed.pop().context("an empty token")?;
    changed.push(if last == 'A' { 'B' } else { 'A' });
    changed.insert(40, 'x');
    refused(
        &Agent::new(scene.folder(), "changed"),
        &changed,
        "a token that was changed",
    )?;

    // After all that the token itself is still good.
    Agent::new(scene.folder(), "rightful").enrol(&foreign)?;
    scene.end()
}

#[test]
fn an_agent_that_never_enrolled_says_so_and_ends_with_its_code() -> Result<()> {
    let scene = Scene::swarm("faults, not enrolled")?;
    let agent = Agent::new(scene.folder(), "nobody");
    for command in ["run", "status", "plan", "journal"] {
        let said = agent.command(&[command])?;
        ensure!(
            said.code() == Some(3),
            "`{command}` ends with {}: {}",
            said.status,
            said.said()
        );
        ensure!(
            said.stderr.contains("enroll"),
            "`{command}` does not say what to do: {}",
            said.stderr
        );
    }
    scene.end()
}

/// A folder on a small disk of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, megabytes: u32) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let options = format!("size={megabytes}m,mode=700");
        let folder_text = folder.to_str().context("not UTF-8")?;
        run(
            &mut program(
                "mount",
                &["-t", "tmpfs", "-o", &options, "decnet-tests", folder_text],
            ),
            SHORT,
        )?
        .ok()?;
        Ok(Self(folder.to_owned()))
    }

    /// Leaves no byte free.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        for piece in [1 << 16, 1 << 9, 1] {
            while file.write_all(&vec![b'x'; piece]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whatever a failed test left open closes with this process.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_is_named_and_nobody_has_to_do_more_than_make_room() -> Result<()> {
    let mut scene = Scene::swarm("faults, full disks")?;
    scene.master.stop()?;
    let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let masters = SmallDisk::mount(&folder.path().join("m"), 24)?;
    let hosts = SmallDisk::mount(&scene.folder().join("east"), 24)?;
    scene.master = Master::init(&folder.path().join("m"))?.without_worker();
    scene.master.start()?;
    scene.operator = Operator::on(&scene.master.socket);
    let lan = Lan::create(&scene.seed)?;
    let (agent, host) = scene.agent("east", &lan, None)?;
    scene.operator.active("east")?;
    let name = format!("{}-srv", scene.prefix);
    let file = scene.describe(
        "fleet.ini",
        &format!("{}\n[{name}]\narchetype = linux-server\n", scene.lan.general()),
    )?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;

    hosts.fill()?;
    let mut row = scene.operator.mutate(&name)?;
    until("the agent says that its disk is full", SETTLED, || {
        // A ledger has room inside for some changes.
        let rows = scene.operator.rows_of(std::slice::from_ref(&row))?;
        if rows.iter().all(Row::is_terminal) {
            row = scene.operator.mutate(&name)?;
        }
        let log = std::fs::read_to_string(&agent.log)?;
        Ok(Seen::when(
            log.contains("No space left") && log.contains("trying again"),
            log,
        ))
    })?;
    hosts.free()?;
    scene.explained(scene.operator.succeeded(&[row]))?;

    masters.fill()?;
    let refused = until("the master has no room for one more change", SETTLED, || {
        let said = scene.operator.command(&["decky", "mutate", &name])?;
        Ok(match said.code() {
            Some(0) => Seen::not_yet("accepted"),
            _ => Seen::Done(said),
        })
    })?;
    ensure!(refused.code() == Some(1), "{} {}", refused.status, refused.said());
    ensure!(
        refused.stderr.contains("disk is full"),
        "the answer does not say why: {}",
        refused.said()
    );
    let known = scene.explained(scene.operator.deckies())?;
    ensure!(known.contains_key(&name), "reading works: {known:?}");
    masters.free()?;
    let row = scene.operator.mutate(&name)?;
    scene.explained(scene.operator.succeeded(&[row]))?;
    let services = scene.operator.decky(&name)?.services;
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    scene.exactly(&host, &[(&name, &services)])?;
    let ended = scene.end();
    drop((agent, masters, hosts, lan));
    ended
}
