//! A master whose store is put back to an earlier moment, and agents that know more than it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine;
use decnet_tests::fleet::SETTLED;
use decnet_tests::lan::Lan;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

/// What each container is, so that one that was made anew or started again is told.
fn identities(host: &str) -> Result<BTreeMap<String, (String, String)>> {
    let containers = engine::containers(host)?.into_values();
    Ok(containers
        .map(|container| (container.name, (container.id, container.started_at)))
        .collect())
}

#[test]
fn a_restored_master_goes_on_and_nothing_of_what_it_knows_is_touched() -> Result<()> {
    let mut scene = Scene::swarm("restore")?;
    let lan = Lan::create(&scene.seed)?;
    let (mut agent, host) = scene.agent("east", &lan, None)?;
    scene.explained(scene.operator.active("east"))?;
    let prefix = scene.prefix.clone();
    let (one, two, three) = (
        format!("{prefix}-a"),
        format!("{prefix}-b"),
        format!("{prefix}-c"),
    );
    let first = scene.describe(
        "a.ini",
        &format!(
            "{}\n[{one}]\nservices = redis\n[{two}]\nservices = telnet\n",
            scene.lan.general()
        ),
    )?;
    let rows = scene.operator.deploy(&first, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;

    let backup = scene.folder().join("store.backup");
    let backup = backup
        .to_str()
        .context("the folder's name is no text")?
        .to_owned();
    let said = scene.operator.json(&["backup", &backup])?;
    ensure!(said["with_keys"] == false, "{said}");
    let again = scene.operator.command(&["backup", &backup])?;
    ensure!(!again.status.success(), "a file was written over");
    let state_dir = scene.master.state_dir.to_str().context("no text")?.to_owned();
    let restore = ["restore", backup.as_str(), "--state-dir", state_dir.as_str()];
    let held = scene.operator.command(&restore)?;
    ensure!(!held.status.success(), "a running master's store was replaced");

    // What the backup knows nothing of: a decky more, and some generations.
    let more = scene.describe("b.ini", &format!("[{three}]\nservices = mqtt\n"))?;
    let rows = scene.operator.deploy(&more, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let mutation = scene.operator.mutate(&three)?;
    scene.explained(scene.operator.succeeded(&[mutation]))?;
    let known = scene.operator.settled("east")?.generation;
    let before = identities(&host)?;

    scene.master.stop()?;
    let said = scene.operator.json(&restore)?;
    ensure!(said["awaited"] == serde_json::json!(["east"]), "{said}");
    ensure!(
        identities(&host)? == before,
        "somebody was touched while the master was away"
    );
    scene.master.start()?;
    let east = until("the next bundle is taken", SETTLED, || {
        let hosts = scene.operator.hosts()?;
        let east = hosts.get("east").context("east is not known")?.clone();
        let on = east.accepted_generation.is_some_and(|accepted| accepted > known);
        Ok(if on && east.converged {
            Seen::Done(east)
        } else {
            Seen::not_yet(format!("{east:?}"))
        })
    });
    let east = scene.explained(east)?;
    ensure!(east.generation > known, "{east:?}, {known} was accepted before");

    // It runs what the backup says, and those deckies never stopped.
    scene.exactly(&host, &[(&one, &["redis"]), (&two, &["telnet"])])?;
    let after = identities(&host)?;
    for (name, identity) in &after {
        ensure!(
            before.get(name) == Some(identity),
            "{name} was touched by the restore"
        );
    }
    // Nobody refused anything, neither then nor before.
    let shown = scene.operator.json(&["host", "show", "east"])?;
    ensure!(shown["refusal"].is_null(), "{shown}");
    let log = std::fs::read_to_string(&agent.log)?;
    for word in ["rollback", "equivocation", "fork", "fast-forward"] {
        ensure!(!log.contains(word), "the agent's log has the word {word}");
    }
    let entries = scene.operator.json(&["audit", "--action", "fleet."])?;
    ensure!(entries.to_string().contains("fleet.restore"), "{entries}");

    // It still takes orders, also from an agent that begins anew.
    agent.stop()?;
    agent.start()?;
    let rows = scene.operator.deploy(&more, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let ended = scene.end();
    drop((agent, lan));
    ended
}
