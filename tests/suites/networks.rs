//! What a host's network cannot do is said before a container is touched, and what deckies may not do they cannot.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::engine;
use decnet_tests::fleet::SETTLED;
use decnet_tests::lan::Lan;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

/// Whether this machine's kernel makes links of a kind, tried in a namespace that goes with the shell.
fn kernel_has(kind: &str) -> Result<bool> {
    let script =
        format!("ip link add ground type veth peer name other && ip link add try link ground type {kind}");
    let tried = run(
        Command::new("unshare").args(["--net", "sh", "-c", &script]),
        SHORT,
    )?;
    Ok(tried.ok().is_ok())
}

/// Describes a fleet of one server with `more` settings; gives its name and the file.
fn one_server(scene: &Scene, lan: &Lan, more: &str) -> Result<(String, PathBuf)> {
    let name = format!("{}-srv", scene.prefix);
    let text = format!(
        "{}\n[{name}]\narchetype = linux-server\nservices = ssh\n{more}\n",
        lan.general()
    );
    let file = scene.describe("fleet.ini", &text)?;
    Ok((name, file))
}

#[test]
fn on_a_kernel_without_ipvlan_the_deploy_fails_before_any_container_is_touched() -> Result<()> {
    let mut scene = Scene::swarm("networks, no ipvlan")?;
    let lan = Lan::create(&scene.seed)?;
    let mut agent = Agent::new(scene.folder(), "edge");
    let host = scene.join(&mut agent, "edge", &lan, &["--ipvlan"])?;
    scene.operator.active("edge")?;
    let (_, file) = one_server(&scene, &lan, "")?;
    let rows = scene.operator.deploy(&file, false)?;
    if kernel_has("ipvlan")? {
        // Then there is nothing to refuse.
        scene.explained(scene.operator.succeeded(&rows))?;
        return scene.end();
    }
    let rows = scene.explained(scene.operator.ended(&rows))?;
    let row = rows.first().context("no row")?;
    let reason = row.error.as_deref().unwrap_or_default();
    println!("the row says: {reason}");
    ensure!(row.status == "failed", "the row says {}", row.status);
    ensure!(
        reason.contains("ipvlan does not exist in this host's kernel") && reason.contains("macvlan"),
        "the reason is {reason:?}"
    );
    ensure!(!reason.contains('\n'), "more than one line: {reason:?}");
    let journal = agent.command(&["journal", "--json", "--limit", "10000"])?.ok()?;
    ensure!(
        !journal.contains("-container\""),
        "a container was touched: {journal}"
    );
    ensure!(
        engine::containers(&host)?.is_empty(),
        "something is on the engine"
    );
    ensure!(engine::networks(&host)?.is_empty(), "a network is on the engine");

    let said = agent.command(&["doctor"])?;
    ensure!(
        said.stdout.contains("FAIL  ipvlan"),
        "doctor does not tell: {}",
        said.stdout
    );
    scene.end()
}

#[test]
fn a_decky_cannot_call_out_also_after_somebody_has_restarted_its_base() -> Result<()> {
    let mut scene = Scene::swarm("networks, egress")?;
    let lan = Lan::create(&scene.seed)?;
    let (agent, _) = scene.agent("edge", &lan, None)?;
    scene.operator.active("edge")?;
    let (name, file) = one_server(&scene, &lan, "")?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let (base, service) = (format!("decnet-{name}-base-1"), format!("decnet-{name}-ssh-1"));
    closed(&lan, &base)?;

    let before = engine::container(&service)?.context("no service")?;
    engine::docker(&["restart", "--time", "1", &base])?;
    until(
        "the service is in the new namespace, which is closed",
        SETTLED,
        || {
            let now = engine::container(&service)?;
            let new = now.as_ref().is_some_and(|now| now.id != before.id && now.running);
            Ok(Seen::when(new, format!("{now:?}")))
        },
    )?;
    scene.operator.settled("edge")?;
    closed(&lan, &base)?;
    let status = agent.command(&["status"])?.ok()?;
    println!("{status}");
    ensure!(
        status.contains("1 namespaces closed") && status.contains("dropped"),
        "the status does not tell what was dropped"
    );
    let address = scene.operator.decky(&name)?.ip;
    lan.mac_of(&address)?;
    scene.end()
}

#[test]
fn an_address_that_a_machine_on_the_lan_has_fails_the_row_with_its_mac() -> Result<()> {
    let mut scene = Scene::swarm("networks, address taken")?;
    let lan = Lan::create(&scene.seed)?;
    let (agent, host) = scene.agent("edge", &lan, None)?;
    scene.operator.active("edge")?;
    let address = lan.address(77);
    let cidr = format!("{address}/24");
    let machine = |what: &str| {
        run(
            &mut lan.inside(&["ip", "addr", what, &cidr, "dev", "lan0"]),
            SHORT,
        )?
        .ok()
    };
    machine("add")?;
    let mac = run(&mut lan.inside(&["cat", "/sys/class/net/lan0/address"]), SHORT)?.ok()?;
    let (name, file) = one_server(&scene, &lan, &format!("ip = {address}"))?;
    let rows = scene.operator.deploy(&file, false)?;
    let rows = scene.explained(scene.operator.ended(&rows))?;
    let row = rows.first().context("no row")?;
    let reason = row.error.as_deref().unwrap_or_default();
    println!("the row says: {reason}");
    ensure!(row.status == "failed", "the row says {}", row.status);
    ensure!(
        reason.contains(&address) && reason.contains(mac.trim()),
        "the reason is {reason:?}"
    );
    let journal = agent.command(&["journal", "--json", "--limit", "10000"])?.ok()?;
    ensure!(
        !journal.contains("\"start-container\""),
        "a container was started: {journal}"
    );
    let running = engine::containers(&host)?;
    let running: Vec<_> = running.values().filter(|container| container.running).collect();
    ensure!(running.is_empty(), "{running:?} run");
    machine("del")?;
    let again = scene.operator.mutate(&name)?;
    scene.explained(scene.operator.succeeded(&[again]))?;
    scene.end()
}

/// The bundle says what the host's driver and mode are, whatever the fleet has; a change makes the network anew.
#[test]
fn a_host_has_its_own_mode_and_a_driver_that_its_kernel_lacks_stops_nothing() -> Result<()> {
    let mut scene = Scene::swarm("networks, host's own")?;
    let lan = Lan::create(&scene.seed)?;
    let (mut agent, host) = scene.agent("edge", &lan, None)?;
    scene.operator.active("edge")?;
    let (name, file) = one_server(&scene, &lan, "")?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let decky = scene.operator.decky(&name)?;
    let base = || -> Result<engine::Container> {
        engine::container(&format!("decnet-{name}-base-1"))?.context("no base")
    };
    let own = Some((decky.ip.clone(), decky.mac.clone()));
    let first = base()?;
    ensure!(first.endpoint() == own, "{:?}", first.endpoint());
    let mode = || -> Result<String> {
        let network = engine::networks(&host)?.pop().context("no network")?;
        let format = "{{.Driver}} {{index .Options \"macvlan_mode\"}}";
        Ok(
            engine::docker(&["network", "inspect", "--format", format, &network])?
                .trim()
                .to_owned(),
        )
    };
    scene
        .operator
        .command(&["host", "network", "edge", "--mode", "private"])?
        .ok()?;
    until("the network has another mode", SETTLED, || {
        let mode = mode().unwrap_or_default();
        Ok(Seen::when(mode == "macvlan private", mode))
    })?;
    scene.explained(scene.operator.settled("edge"))?;
    scene.exactly(&host, &[(&name, &["ssh"])])?;
    ensure!(base()?.id != first.id, "the base is on a network that has gone");
    ensure!(base()?.endpoint() == own, "it is {:?} now", base()?.endpoint());
    ensure!(lan.mac_of(&decky.ip)? == decky.mac, "the LAN sees another MAC");

    // Nobody starts anything while no agent runs; what it has leased and locked is there when it is back.
    let before = base()?;
    agent.kill()?;
    agent.start()?;
    scene.operator.active("edge")?;
    scene.explained(scene.operator.settled("edge"))?;
    ensure!(base()?.id == before.id, "a restart of the agent made a new base");

    if !kernel_has("ipvlan")? {
        scene
            .operator
            .command(&["host", "network", "edge", "--driver", "ipvlan"])?
            .ok()?;
        let reason = until("the host says why not", SETTLED, || {
            let host = scene.operator.hosts()?.remove("edge").context("no host")?;
            Ok(match host.reason {
                Some(reason) if reason.contains("ipvlan does not exist") => Seen::Done(reason),
                other => Seen::not_yet(format!("{other:?}")),
            })
        })?;
        println!("the host says: {reason}");
        let now = base()?;
        ensure!(
            (now.id, now.started_at) == (before.id, before.started_at),
            "the decky was touched"
        );
        scene
            .operator
            .command(&[
                "host", "network", "edge", "--driver", "macvlan", "--mode", "private",
            ])?
            .ok()?;
        scene.explained(scene.operator.settled("edge"))?;
    }
    ensure!(base()?.endpoint() == own, "it is {:?} now", base()?.endpoint());
    scene.end()
}

/// Calls from inside a decky's namespace, and expects no answer from the LAN.
fn closed(lan: &Lan, base: &str) -> Result<()> {
    let pid = engine::container(base)?.context("no base")?.pid.to_string();
    let call = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{}/7'", lan.gateway());
    let inside = run(
        Command::new("nsenter").args(["-t", &pid, "-n", "bash", "-c", &call]),
        SHORT,
    )?;
    // Nobody listens there, so that a call which gets out is refused at once: 1, and 124 when it times out.
    ensure!(inside.code() == Some(124), "a call got out: {}", inside.said());
    Ok(())
}
