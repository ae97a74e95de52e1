//! What a host's network cannot do is said before a container is touched, and what deckies may not do they cannot.

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

#[test]
fn on_a_kernel_without_ipvlan_the_deploy_fails_before_any_container_is_touched() -> Result<()> {
    let mut scene = Scene::swarm("networks, no ipvlan")?;
    let lan = Lan::create(&scene.seed)?;
    let (host, token) = scene.operator.enroll("edge", Some(&lan), &["--ipvlan"])?;
    scene.owns(&host);
    let mut agent = Agent::new(scene.folder(), "edge");
    agent.enrol(&token)?;
    agent.start()?;
    scene.operator.active("edge")?;
    let name = format!("{}-srv", scene.prefix);
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{name}]\narchetype = linux-server\nservices = ssh\n",
            lan.general()
        ),
    )?;
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
    let name = format!("{}-srv", scene.prefix);
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{name}]\narchetype = linux-server\nservices = ssh\n",
            lan.general()
        ),
    )?;
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
