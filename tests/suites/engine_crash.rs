//! What an engine that was killed does not know any more of a container, or keeps of it for ever.

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine::{self, Container};
use decnet_tests::fleet::SETTLED;
use decnet_tests::lan::Lan;
use decnet_tests::own_engine::OwnEngine;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use serde_json::{Value, json};

/// Kills the engine, and lets it believe that this container was never started.
fn forget(own: &mut OwnEngine, container: &Container) -> Result<()> {
    own.kill(false)?;
    let record = own.record_of(&container.id);
    let mut known: Value = serde_json::from_slice(&std::fs::read(&record)?)?;
    let state = known["State"]
        .as_object_mut()
        .context("a container without a state")?;
    ensure!(
        state["Running"] == true,
        "{} did not run: {state:?}",
        container.name
    );
    state.insert("Running".to_owned(), json!(false));
    state.insert("Pid".to_owned(), json!(0));
    state.insert("StartedAt".to_owned(), json!("0001-01-01T00:00:00Z"));
    std::fs::write(&record, serde_json::to_vec(&known)?)?;
    own.begin()?;
    own.answers()?;
    let now = engine::container(&container.name)?.context("the engine has lost the container itself")?;
    ensure!(
        !now.running && runs(container.pid),
        "{} runs: {}; its process {}: {}",
        container.name,
        now.running,
        container.pid,
        runs(container.pid)
    );
    Ok(())
}

fn runs(pid: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // One that its parent has not noticed yet runs no more.
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn what_a_killed_engine_keeps_of_a_container_keeps_no_decky_away() -> Result<()> {
    let mut own = OwnEngine::start()?;
    engine::ask(own.socket());
    let mut scene = Scene::swarm("engine crash")?;
    let lan = Lan::create(&scene.seed)?;
    let (mut agent, host) = scene.agent("east", &lan, Some(own.socket()))?;
    scene.explained(scene.operator.active("east"))?;
    let name = format!("{}-n", scene.prefix);
    let text = format!("{}\n[{name}]\nservices = redis\n", scene.lan.general());
    let file = scene.describe("a.ini", &text)?;

    // It dies while the container is created: containerd has a task that never had a process.
    own.hold(true)?;
    let rows = scene.operator.deploy(&file, false)?;
    until("a container is held up", SETTLED, || {
        Ok(Seen::when(own.holds().exists(), "none is"))
    })?;
    own.kill(false)?;
    own.hold(false)?;
    own.begin()?;
    own.answers()?;
    scene.explained(scene.operator.succeeded(&rows))?;
    scene.exactly(&host, &[(&name, &["redis"])])?;
    let decky = scene.operator.decky(&name)?;
    let base = format!("decnet-{name}-base-1");
    let look = || engine::container(&base)?.context("no base");

    // It dies in the middle of the start.
    let first = look()?;
    agent.stop()?;
    forget(&mut own, &first)?;
    agent.start()?;
    scene.exactly(&host, &[(&name, &["redis"])])?;
    ensure!(!runs(first.pid), "what was forgotten runs on");
    let answers = until("the decky answers with its own MAC", SETTLED, || {
        Ok(match lan.mac_of(&decky.ip) {
            Ok(mac) => Seen::Done(mac),
            Err(error) => Seen::not_yet(format!("{error:#}")),
        })
    })?;
    ensure!(answers == decky.mac, "{answers} answers, {} should", decky.mac);

    // containerd has kept a folder that it can neither use nor clear away.
    agent.stop()?;
    let kept = look()?;
    engine::docker(&["kill", &base])?;
    let folder = own.task_of(&kept.id);
    until("its task has gone", SETTLED, || {
        Ok(Seen::when(!folder.exists(), folder.display()))
    })?;
    std::fs::create_dir(&folder)?;
    agent.start()?;
    scene.exactly(&host, &[(&name, &["redis"])])?;
    ensure!(look()?.id != kept.id, "the same container runs again");

    // The same, and then nobody starts it any more.
    let second = look()?;
    agent.stop()?;
    forget(&mut own, &second)?;
    scene.operator.command(&["decky", "rm", &name])?.ok()?;
    agent.start()?;
    scene.exactly(&host, &[])?;
    // It ends after the container is gone, not before.
    until("what was removed has ended", SETTLED, || {
        let left = scene.operator.deckies()?;
        Ok(Seen::when(
            !runs(second.pid) && left.is_empty(),
            format!("it runs: {}; {left:?}", runs(second.pid)),
        ))
    })?;
    let ended = scene.end();
    drop((agent, lan, own));
    ended
}
